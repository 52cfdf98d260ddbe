-- List a page of the rooms of a session. Arguments: inc, cursor, pattern, page size.
--
-- Returns `rooms`, the next cursor ('0' at the end), and for each room its name, fence, state, time of creation in microseconds,
-- players and metadata; the name and 0 if it is not the session's any more.

local inc, cursor, pattern, count = unpack(ARGV, 4)
local page = redis.call('SSCAN', prefix .. 'rooms:' .. inc, cursor, 'MATCH', pattern, 'COUNT', count)
local answer = {'rooms', page[1]}
for _, member in ipairs(page[2]) do
  local found = redis.call('HMGET', prefix .. 'room:' .. member, 'inc', 'fence', 'state', 'created', 'players', 'metadata', 'epoch')
  if found[1] == inc and found[7] == epoch then
    answer[#answer + 1] = {member, tonumber(found[2]), found[3], found[4], tonumber(found[5]), found[6] or ''}
  else
    answer[#answer + 1] = {member, 0}
  end
end
return answer
