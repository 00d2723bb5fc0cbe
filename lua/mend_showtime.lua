-- Makes counter, ids and expiry of a showtime agree with its tickets again, for `matinee audit --repair`.
--
-- The auditor says what it saw; each ticket is looked at once more, and what has changed since is left alone.
--
-- KEYS
--   1   showtime hash             {theatre}:showtime:<showtime>
--   2   its ticket ids, zset      {theatre}:showtime:<showtime>:tickets
--   3…  for each ticket in question: its hash, and the ids of the showtime where else it may be listed
-- ARGV
--   1   showtime, 20261124T1800
--   2   capacity
--   3   forgotten_ms  the showtime's keys are deleted, where the showtime itself does not say it any more
--   4   zone          the time zone's name, likewise
--   5…  ids of the tickets, in the order of their keys
-- Replies
--   {'mended', booked before or '', booked, version, fate…}   fate of each ticket: listed, unlisted, full, kept
-- Invariant: `booked` equals the number of ids in KEYS[2].

local showtime = ARGV[1]
local seats = redis.call('HMGET', KEYS[1], 'booked', 'version', 'forgotten', 'zone')
local booked = redis.call('ZCARD', KEYS[2])
local last = redis.call('ZRANGE', KEYS[2], -1, -1, 'WITHSCORES')
local version = math.max(tonumber(seats[2]) or 0, tonumber(last[2]) or 0) + 1
local forgotten_ms = tonumber(seats[3]) and seats[3] or ARGV[3]
local zone = seats[4] or ARGV[4]

local reply = {'mended', seats[1] or '', 0, 0}
for n = 5, #ARGV do
  local id, key, elsewhere = ARGV[n], 2 * n - 7, 2 * n - 6
  local ticket = redis.call('HMGET', KEYS[key], 'showtime', 'cancelled')
  local is_listed = redis.call('ZSCORE', KEYS[2], id)
  local is_elsewhere = ticket[1] and ticket[1] ~= showtime and redis.call('ZSCORE', KEYS[elsewhere], id)
  local fate = 'kept'
  if ticket[1] == showtime and not is_listed then
    fate = booked < tonumber(ARGV[2]) and 'listed' or 'full'
  elseif is_listed and (ticket[2] or is_elsewhere) then
    fate = 'unlisted'
  end
  if fate == 'listed' then
    booked = booked + 1
  elseif fate == 'unlisted' then
    booked = booked - 1
  end
  reply[n] = fate
end

for n = 5, #ARGV do
  if reply[n] == 'listed' then
    redis.call('ZADD', KEYS[2], version, ARGV[n])
    version = version + 1
  end
end
redis.call('HSET', KEYS[1], 'booked', booked, 'version', version, 'forgotten', forgotten_ms, 'zone', zone)
redis.call('PEXPIREAT', KEYS[1], forgotten_ms)
redis.call('PEXPIREAT', KEYS[2], forgotten_ms)
for n = 5, #ARGV do
  if reply[n] == 'unlisted' then
    redis.call('ZREM', KEYS[2], ARGV[n])
  end
end
reply[3], reply[4] = booked, version
return reply
