-- End the session of another node, which an operator knows to be dead. Argument: node.
--
-- Returns `forgotten` with the microseconds that its lease had left, or `unknown`.

local node = ARGV[4]
local found = session(node)
if not found.inc then return {'unknown'} end
end_session(found.inc)
redis.call('DEL', prefix .. 'node:' .. node)
redis.call('SREM', prefix .. 'nodes', node)
return {'forgotten', found.is_alive and found.ends - clock or 0}
