-- List a page of the rooms of a session. Arguments: inc, cursor, pattern, page size.
--
-- Returns `rooms`, the epoch, the next cursor ('0' at the end), and for each room its name, node, fence, state, time of creation in
-- microseconds, players and metadata.

local inc, cursor, pattern, count = unpack(ARGV, 4)
local page = redis.call('SSCAN', prefix .. 'rooms:' .. inc, cursor, 'MATCH', pattern, 'COUNT', count)
local answer = {'rooms', epoch, page[1]}
for _, member in ipairs(page[2]) do
  local found = redis.call('HMGET', prefix .. 'room:' .. member, 'inc', 'epoch', 'node', 'fence', 'state', 'created', 'players',
    'metadata')
  if found[1] == inc and found[2] == epoch then
    answer[#answer + 1] = {member, found[3], tonumber(found[4]), found[5], found[6], tonumber(found[7]), found[8] or ''}
  end
end
return answer
