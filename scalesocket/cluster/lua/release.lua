-- Release a room, if it is still the one with this fence. Arguments: inc, room, fence. Returns `released` or `other`.

local inc, member, its_fence = unpack(ARGV, 4)
local found = redis.call('HMGET', prefix .. 'room:' .. member, 'inc', 'fence')
if found[1] ~= inc or found[2] ~= its_fence then return {'other'} end
redis.call('DEL', prefix .. 'room:' .. member)
redis.call('SREM', prefix .. 'rooms:' .. inc, member)
return {'released'}
