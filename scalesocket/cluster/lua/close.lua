-- End a session, so that others may have its rooms at once. Arguments: node, inc, and `closed`, or `lost` to leave it in the list.

local node, inc, state = unpack(ARGV, 4)
if session(node).inc ~= inc then return {'lost'} end
end_session(inc)
if state == 'lost' then
  redis.call('HSET', prefix .. 'node:' .. node, 'until', text(clock))
else
  redis.call('DEL', prefix .. 'node:' .. node)
  redis.call('SREM', prefix .. 'nodes', node)
end
remove_ended(1000)
return {'closed'}
