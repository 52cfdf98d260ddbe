-- Publish summaries. Arguments: inc, and for each room its name, fence, state, players, metadata (or ''). Returns `published`.

local inc, count = ARGV[4], 0
for at = 5, #ARGV, 5 do
  local member, its, state, players, metadata = unpack(ARGV, at, at + 4)
  local found = redis.call('HMGET', prefix .. 'room:' .. member, 'inc', 'fence')
  if found[1] == inc and found[2] == its then
    redis.call('HSET', prefix .. 'room:' .. member, 'state', state, 'players', players, 'metadata', metadata)
    count = count + 1
  end
end
return {'published', count}
