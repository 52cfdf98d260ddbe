-- Report rooms to an engine that may have lost them. The session begins, or is renewed, with the last of them.
-- Arguments: node, inc, epoch, kept (1: the node has kept its rooms without a lease, and has a new session), last (1), address,
-- version, and for each room its name and its fence.
--
-- Returns `reported` with the last fence and the rooms that another node has instead; `epoch` if there is a newer one; or `lost`.

local node, inc, expected, is_kept, is_last, advertise, version = unpack(ARGV, 4, 10)
if expected ~= epoch then return {'epoch'} end
local found = session(node)
if is_kept == '1' then
  if not is_mine(node, inc) then return {'lost'} end
elseif clock >= grace or found.is_current and (found.inc ~= inc or not found.is_alive)
  or redis.call('SISMEMBER', prefix .. 'ended', inc) == 1 then
  return {'lost'}
end

local answer = {'reported', 0}
for at = 11, #ARGV, 2 do
  local member, its_fence = ARGV[at], tonumber(ARGV[at + 1])
  local room = read_room(member)
  if room.inc and room.inc ~= inc and (room.fence > its_fence or is_kept == '1' and room.is_owned) then
    answer[#answer + 1] = member
  else
    take_room(member, room, node, inc, its_fence)
  end
end
answer[2] = fence
if is_last == '1' then write_session(node, inc, advertise, version) end
return answer
