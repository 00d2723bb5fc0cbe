-- Books one seat at a showtime, unless it has started or is full.
--
-- KEYS
--   1  showtime hash             {theatre}:showtime:<showtime>
--   2  its ticket ids, zset      {theatre}:showtime:<showtime>:tickets
--   3  ticket hash               {theatre}:ticket:<id>
--   4  idempotency string        {theatre}:idempotency:<digest>; left out when the client sent no key
-- ARGV
--   1  ticket id, made by the caller, so that a repeat is known as one
--   2  name
--   3  phone
--   4  showtime, 20261124T1800
--   5  capacity
--   6  starts_ms     the booking closes
--   7  expires_ms    the ticket is deleted
--   8  forgotten_ms  the showtime's keys are deleted
--   9  zone          the time zone's name, kept with the showtime
--  10  fingerprint of the request body    (with KEYS[4])
--  11  life of the idempotency key in ms  (with KEYS[4])
-- Replies
--   {'booked', version, booked_at_ms}   also to a repeat, with what the first one did
--   {'replayed', ticket id}             the idempotency key has booked this ticket before
--   {'key_reused'}                      the idempotency key came with another body before
--   {'cancelled'}                       a late repeat: the ticket has been cancelled since
--   {'closed', now_ms}
--   {'sold_out', now_ms}
-- Invariant: `booked` equals the number of ids in KEYS[2]. An id's score is the version its booking made.

-- A repeat writes too, if only the expiry that is there: WAIT waits for what its own connection has written.
local function touch(key)
  local expires_ms = redis.call('PEXPIRETIME', key)
  if expires_ms > 0 then
    redis.call('PEXPIREAT', key, expires_ms)
  end
end

local id = ARGV[1]
local clock = redis.call('TIME')
local now_ms = clock[1] * 1000 + math.floor(clock[2] / 1000)

if KEYS[4] then
  local first = redis.call('GET', KEYS[4])
  if first then
    local ticket_id, fingerprint = string.match(first, '^(%S+) (%S+)$')
    if fingerprint ~= ARGV[10] then
      return {'key_reused'}
    end
    if ticket_id ~= id then
      touch(KEYS[4])
      return {'replayed', ticket_id}
    end
  end
end

if redis.call('EXISTS', KEYS[3]) == 1 then
  local booked_at_ms = redis.call('HGET', KEYS[3], 'booked_at')
  if not booked_at_ms then
    return {'cancelled'}
  end
  touch(KEYS[3])
  return {'booked', tonumber(redis.call('ZSCORE', KEYS[2], id) or 0), tonumber(booked_at_ms)}
end

if now_ms >= tonumber(ARGV[6]) then
  return {'closed', now_ms}
end

local seats = redis.call('HMGET', KEYS[1], 'booked', 'version', 'forgotten')
local booked = tonumber(seats[1] or 0)
local version = tonumber(seats[2] or 0) + 1
if booked >= tonumber(ARGV[5]) then
  return {'sold_out', now_ms}
end

redis.call('HSET', KEYS[1], 'booked', booked + 1, 'version', version)
redis.call('ZADD', KEYS[2], version, id)
redis.call('HSET', KEYS[3], 'name', ARGV[2], 'phone', ARGV[3], 'showtime', ARGV[4], 'booked_at', now_ms)
redis.call('PEXPIREAT', KEYS[3], ARGV[7])
if booked == 0 or (ARGV[8] ~= seats[3] and tonumber(ARGV[8]) > tonumber(seats[3] or 0)) then
  -- Redis has just made the zset, and perhaps the hash: neither has a time to live yet. Or tickets live longer than
  -- they did at the first booking: a showtime outlives its last ticket.
  redis.call('HSET', KEYS[1], 'forgotten', ARGV[8], 'zone', ARGV[9])
  redis.call('PEXPIREAT', KEYS[1], ARGV[8])
  redis.call('PEXPIREAT', KEYS[2], ARGV[8])
end
if KEYS[4] then
  redis.call('SET', KEYS[4], id .. ' ' .. ARGV[10], 'PX', ARGV[11])
end
return {'booked', version, now_ms}
