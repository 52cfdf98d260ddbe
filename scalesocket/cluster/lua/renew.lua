-- Renew a session; one that has ended is never revived. Also removes some rooms of ended sessions.
-- Arguments: node, inc, the epoch that it knows, rooms, clients, draining (0 or 1).
--
-- Returns `renewed` with the last fence and the number of its rooms here; `report` with the epoch, if the engine may have lost the
-- session: then `report` says whether it can go on; or `lost`.

local node, inc, told, rooms, clients, is_draining = unpack(ARGV, 4)
local found = session(node)
local is_over = found.is_current and (found.inc ~= inc or not found.is_alive)
  or redis.call('SISMEMBER', prefix .. 'ended', inc) == 1
if told ~= epoch then return {'report', epoch} end
if is_over or not found.is_current then return {'lost'} end

redis.call('HSET', prefix .. 'node:' .. node, 'until', text(clock + lease), 'seen', text(now), 'rooms', rooms, 'clients', clients,
  'draining', is_draining)

for _, other in ipairs(redis.call('SRANDMEMBER', prefix .. 'nodes', 8)) do
  local its = session(other)
  if clock >= grace and not its.is_alive then
    if its.inc then end_session(its.inc) end
    if its.ends + retention < clock then
      redis.call('DEL', prefix .. 'node:' .. other)
      redis.call('SREM', prefix .. 'nodes', other)
    end
  end
end
remove_ended(100)
return {'renewed', fence, redis.call('SCARD', prefix .. 'rooms:' .. inc)}
