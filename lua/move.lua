-- Moves a ticket to another showtime of its theatre, all or nothing: the old seat is kept unless the new one is had.
--
-- KEYS
--   1  ticket hash                      {theatre}:ticket:<id>
--   2  showtime hash it leaves          {theatre}:showtime:<from>
--   3  ticket ids of that, zset         {theatre}:showtime:<from>:tickets
--   4  showtime hash it goes to         {theatre}:showtime:<to>
--   5  ticket ids of that, zset         {theatre}:showtime:<to>:tickets
-- ARGV
--   1  ticket id
--   2  from, 20261124T1800
--   3  to, 20261125T1800
--   4  moves: how often the ticket had moved when the caller looked. Compare-and-set: a repeat that arrives late,
--      after another move, finds another count and changes nothing
--   5  from_starts_ms   a ticket whose film has begun stays
--   6  capacity of the showtime it goes to
--   7  to_starts_ms
--   8  to_expires_ms    the ticket is deleted
--   9  to_forgotten_ms  the showtime's keys are deleted
--  10  zone             the time zone's name, kept with the showtime
-- Replies
--   {'moved', from version, to version}   also to a repeat, and where the ticket is there already
--   {'not_found'}
--   {'changed'}                           moved by somebody else since the caller looked
--   {'already_admitted', at_ms}
--   {'started', now_ms}                   the film of the ticket has begun
--   {'closed', now_ms}                    the showtime it would go to has begun
--   {'sold_out', now_ms}

-- A repeat writes too, if only the expiry that is there: WAIT waits for what its own connection has written.
local function touch(key)
  local expires_ms = redis.call('PEXPIRETIME', key)
  if expires_ms > 0 then
    redis.call('PEXPIREAT', key, expires_ms)
  end
end

local id = ARGV[1]
local ticket = redis.call('HMGET', KEYS[1], 'showtime', 'admitted_at', 'moves', 'left_version')
local showtime, admitted_at, moves = ticket[1], ticket[2], tonumber(ticket[3] or 0)
local expected_moves = tonumber(ARGV[4])

if not showtime then
  return {'not_found'}
end
if showtime == ARGV[3] and (moves == expected_moves + 1 or ARGV[2] == ARGV[3]) then
  touch(KEYS[1])
  local version = tonumber(redis.call('ZSCORE', KEYS[5], id) or 0)
  return {'moved', ARGV[2] == ARGV[3] and version or tonumber(ticket[4]), version}
end
if moves ~= expected_moves or showtime ~= ARGV[2] then
  return {'changed'}
end
if admitted_at then
  return {'already_admitted', tonumber(admitted_at)}
end

local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)
if now_ms >= tonumber(ARGV[5]) then
  return {'started', now_ms}
end
if now_ms >= tonumber(ARGV[7]) then
  return {'closed', now_ms}
end

local to = redis.call('HMGET', KEYS[4], 'booked', 'version', 'forgotten')
local to_booked = tonumber(to[1] or 0)
if to_booked >= tonumber(ARGV[6]) then
  return {'sold_out', now_ms}
end

local from = redis.call('HMGET', KEYS[2], 'booked', 'version')
local from_version, to_version = from[2] + 1, tonumber(to[2] or 0) + 1

-- ZREM first: a server out of memory refuses a script at its first growing write, and a move must then still pass.
redis.call('ZREM', KEYS[3], id)
redis.call('HSET', KEYS[2], 'booked', from[1] - 1, 'version', from_version)
redis.call('HSET', KEYS[4], 'booked', to_booked + 1, 'version', to_version)
redis.call('ZADD', KEYS[5], to_version, id)
redis.call('HSET', KEYS[1], 'showtime', ARGV[3], 'moves', moves + 1, 'left_version', from_version)
redis.call('PEXPIREAT', KEYS[1], ARGV[8])
if to_booked == 0 or tonumber(ARGV[9]) > tonumber(to[3] or 0) then
  -- As in book.lua: neither has a time to live yet, or tickets live longer than they did.
  redis.call('HSET', KEYS[4], 'forgotten', ARGV[9], 'zone', ARGV[10])
  redis.call('PEXPIREAT', KEYS[4], ARGV[9])
  redis.call('PEXPIREAT', KEYS[5], ARGV[9])
end
return {'moved', from_version, to_version}
