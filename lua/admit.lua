-- Lets a ticket in at the door, once. Seats do not change, so neither does the showtime's version.
--
-- KEYS
--   1  ticket hash   {theatre}:ticket:<id>
-- ARGV
--   1  operation: a random word of this admission, so that a repeat is known as one
-- Replies
--   {'admitted', at_ms, name, phone, showtime, booked_at_ms}   also to a repeat
--   {'already_admitted', at_ms, showtime}
--   {'not_found'}

-- A repeat writes too, if only the expiry that is there: WAIT waits for what its own connection has written.
local function touch(key)
  local expires_ms = redis.call('PEXPIRETIME', key)
  if expires_ms > 0 then
    redis.call('PEXPIREAT', key, expires_ms)
  end
end

local ticket = redis.call('HMGET', KEYS[1], 'name', 'phone', 'showtime', 'booked_at', 'admitted_at', 'admission')
local name, phone, showtime, booked_at_ms = ticket[1], ticket[2], ticket[3], ticket[4]
local admitted_at_ms = ticket[5]

if not showtime then
  return {'not_found'}
end
if admitted_at_ms and ticket[6] ~= ARGV[1] then
  return {'already_admitted', tonumber(admitted_at_ms), showtime}
end
if admitted_at_ms then
  touch(KEYS[1])
else
  local clock = redis.call('TIME')
  admitted_at_ms = clock[1] .. string.format('%03d', math.floor(clock[2] / 1000))
  redis.call('HSET', KEYS[1], 'admitted_at', admitted_at_ms, 'admission', ARGV[1])
end
return {'admitted', tonumber(admitted_at_ms), name, phone, showtime, tonumber(booked_at_ms)}
