-- Find the owner of a room. Argument: room. Returns `owned` or `recovering`, as a claim does, or `free`.

local room = read_room(ARGV[4])
if room.is_owned then return owned(room) end
if clock < grace then return recovering() end
return {'free'}
