-- Claim a room. Arguments: node, inc, room.
--
-- Returns `won` with the fence; `owned` with node, inc, address and fence of another owner; `recovering` with the microseconds of the
-- grace period; or `lost`: there is no such session. A room that is this session's own is won again, with a new fence.

local node, inc, member = unpack(ARGV, 4)
if not is_mine(node, inc) then return {'lost'} end
local room = read_room(member)
if room.is_owned and room.inc ~= inc then return owned(room) end
if clock < grace then return recovering() end
raise_fence(math.max(fence + 1, now))
take_room(member, room, node, inc, fence)
return {'won', fence}
