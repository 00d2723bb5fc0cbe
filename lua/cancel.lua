-- Cancels a ticket: name and phone are gone and the seat is free at once.
--
-- A tombstone takes the ticket's key for a while. It holds nothing personal; it tells a repeat of this cancellation
-- what the first one did, and keeps a booking command that arrives late from taking a seat.
--
-- KEYS
--   1  ticket hash               {theatre}:ticket:<id>
--   2  showtime hash             {theatre}:showtime:<showtime>
--   3  its ticket ids, zset      {theatre}:showtime:<showtime>:tickets
-- ARGV
--   1  ticket id
--   2  showtime the caller saw the ticket at, 20261124T1800
--   3  operation: a random word of this cancellation, so that a repeat is known as one
--   4  life of the tombstone in ms
-- Replies
--   {'cancelled', version}          also to a repeat
--   {'not_found'}
--   {'changed'}                     moved by somebody else since the caller looked
--   {'already_admitted', at_ms}

-- A repeat writes too, if only the expiry that is there: WAIT waits for what its own connection has written.
local function touch(key)
  local expires_ms = redis.call('PEXPIRETIME', key)
  if expires_ms > 0 then
    redis.call('PEXPIREAT', key, expires_ms)
  end
end

local ticket = redis.call('HMGET', KEYS[1], 'showtime', 'admitted_at', 'cancelled', 'version')
local showtime, admitted_at, operation = ticket[1], ticket[2], ticket[3]

if operation == ARGV[3] then
  touch(KEYS[1])
  return {'cancelled', tonumber(ticket[4])}
end
if not showtime then
  return {'not_found'}
end
if showtime ~= ARGV[2] then
  return {'changed'}
end
if admitted_at then
  return {'already_admitted', tonumber(admitted_at)}
end

local facts = redis.call('HKEYS', KEYS[1])
local seats = redis.call('HMGET', KEYS[2], 'booked', 'version')
local version = seats[2] + 1

-- ZREM first: a server out of memory refuses a script at its first growing write, and a seat must still come free.
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('HSET', KEYS[2], 'booked', seats[1] - 1, 'version', version)
-- The fields go and not the key: a node of a cluster that is giving the slot away could not make it again.
redis.call('HSET', KEYS[1], 'cancelled', ARGV[3], 'version', version)
redis.call('HDEL', KEYS[1], unpack(facts))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return {'cancelled', version}
