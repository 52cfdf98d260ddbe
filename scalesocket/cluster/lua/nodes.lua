-- List the nodes. Returns `nodes`, and for each its name, inc, address, version, rooms, clients, draining (0 or 1), rooms in the
-- directory, the microseconds that its lease has left, 0 if it is lost, and those since its last renewal, by the engine's time.

local answer = {'nodes'}
for _, node in ipairs(redis.call('SMEMBERS', prefix .. 'nodes')) do
  local found = redis.call('HMGET', prefix .. 'node:' .. node, 'version', 'rooms', 'clients', 'draining', 'seen')
  local its = session(node)
  if its.inc then
    answer[#answer + 1] = {node, its.inc, its.advertise, found[1], tonumber(found[2] or 0), tonumber(found[3] or 0),
      tonumber(found[4] or 0), redis.call('SCARD', prefix .. 'rooms:' .. its.inc), its.is_alive and its.ends - clock or 0,
      found[5] and math.max(0, now - tonumber(found[5])) or math.max(0, clock + lease - its.ends)}
  end
end
return answer
