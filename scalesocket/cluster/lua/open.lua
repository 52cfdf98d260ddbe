-- Open a session. Arguments: node, inc, the inc that it replaces (or ''), advertise, version.
--
-- Returns `opened` with the epoch and the last fence; `taken` with the address and the inc of another process that has the name,
-- the microseconds that its lease has left, and its end by the clock; `lease` if another node has another lease, with its name and
-- its lease.

local node, inc, replaced, advertise, version = unpack(ARGV, 4)
local found = session(node)
if found.is_alive and found.inc ~= inc and found.inc ~= replaced then
  return {'taken', found.advertise, found.inc, found.ends - clock, found.ends}
end
for _, other in ipairs(redis.call('SMEMBERS', prefix .. 'nodes')) do
  local its = redis.call('HGET', prefix .. 'node:' .. other, 'lease')
  if other ~= node and its and tonumber(its) ~= lease and session(other).is_alive then return {'lease', other, tonumber(its)} end
end
if found.inc and found.inc ~= inc then end_session(found.inc) end
redis.call('DEL', prefix .. 'node:' .. node)
write_session(node, inc, advertise, version)
return {'opened', epoch, fence}
