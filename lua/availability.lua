-- Tells the booked seats of any number of showtimes of one theatre, as they all are at one moment.
--
-- KEYS
--   …  showtime hashes   {theatre}:showtime:<showtime>
-- ARGV
--   none
-- Replies
--   {'availability', now_ms, booked, version, booked, version, …}   in the order of KEYS; 0, 0 where nothing was booked

local clock = redis.call('TIME')
local reply = {'availability', clock[1] * 1000 + math.floor(clock[2] / 1000)}
for n = 1, #KEYS do
  local seats = redis.call('HMGET', KEYS[n], 'booked', 'version')
  reply[2 * n + 1] = tonumber(seats[1] or 0)
  reply[2 * n + 2] = tonumber(seats[2] or 0)
end
return reply
