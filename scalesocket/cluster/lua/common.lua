-- Runs before each script: the clock, the epoch, the last fence, and functions.
-- Arguments of all scripts: the prefix, the lease in microseconds, and the highest fence that the node has seen.

local prefix, lease = ARGV[1], tonumber(ARGV[2])
local retention = 600000000 -- microseconds for which a lost node stays in the list

local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local run_id = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)')
local known = redis.call('HMGET', KEYS[1], 'run_id', 'epoch', 'clock', 'seen', 'grace')
local epoch = known[2]
local clock = tonumber(known[3] or 0) + math.max(0, math.min(now - tonumber(known[4] or now), lease / 10))
local grace = tonumber(known[5] or 0)

local function text(number) return string.format('%.0f', number) end -- without an exponent

if known[1] ~= run_id then
  epoch = string.sub(run_id, 1, 8) .. '-' .. text(now)
  grace = clock + lease
  redis.call('HSET', KEYS[1], 'run_id', run_id, 'epoch', epoch, 'grace', text(grace))
end
redis.call('HSET', KEYS[1], 'clock', text(clock), 'seen', text(now))

local fence = tonumber(redis.call('GET', prefix .. 'fence') or 0)

local function raise_fence(to)
  if to > fence then
    fence = to
    redis.call('SET', prefix .. 'fence', text(fence))
  end
end

raise_fence(tonumber(ARGV[3]))

local function session(node)
  local found = redis.call('HMGET', prefix .. 'node:' .. node, 'inc', 'until', 'epoch', 'advertise')
  local is_current, ends = found[3] == epoch, tonumber(found[2] or 0)
  return {inc = found[1], advertise = found[4], ends = ends, is_current = is_current, is_alive = is_current and ends > clock}
end

local function is_mine(node, inc)
  local found = session(node)
  return found.is_alive and found.inc == inc
end

local function write_session(node, inc, advertise, version)
  redis.call('HSET', prefix .. 'node:' .. node, 'inc', inc, 'epoch', epoch, 'until', text(clock + lease), 'lease', text(lease),
    'advertise', advertise, 'version', version, 'seen', text(now))
  redis.call('SADD', prefix .. 'nodes', node)
end

local function end_session(inc)
  redis.call('SADD', prefix .. 'ended', inc)
end

-- Remove rooms of one ended session, `count` at most. In the grace period the list of them must stay.
local function remove_ended(count)
  local inc = clock >= grace and redis.call('SRANDMEMBER', prefix .. 'ended')
  if not inc then return end
  for _, member in ipairs(redis.call('SPOP', prefix .. 'rooms:' .. inc, count)) do
    if redis.call('HGET', prefix .. 'room:' .. member, 'inc') == inc then redis.call('DEL', prefix .. 'room:' .. member) end
  end
  if redis.call('EXISTS', prefix .. 'rooms:' .. inc) == 0 then redis.call('SREM', prefix .. 'ended', inc) end
end

-- A room: who holds it, and whether that holder's session is alive.
local function read_room(member)
  local found = redis.call('HMGET', prefix .. 'room:' .. member, 'node', 'inc', 'fence', 'epoch')
  local room = {node = found[1], inc = found[2], fence = tonumber(found[3] or 0), is_owned = false}
  if found[1] and found[4] == epoch then
    local holder = session(found[1])
    room.is_owned = holder.is_alive and holder.inc == found[2]
    room.advertise = holder.advertise
  end
  return room
end

local function take_room(member, room, node, inc, its_fence)
  if room.inc and room.inc ~= inc then redis.call('SREM', prefix .. 'rooms:' .. room.inc, member) end
  redis.call('DEL', prefix .. 'room:' .. member)
  redis.call('HSET', prefix .. 'room:' .. member, 'node', node, 'inc', inc, 'fence', text(its_fence), 'epoch', epoch,
    'state', 'open', 'created', text(now), 'players', 0)
  redis.call('SADD', prefix .. 'rooms:' .. inc, member)
end

local function owned(room) return {'owned', room.node, room.inc, room.advertise, room.fence} end

local function recovering() return {'recovering', grace - clock} end

