-- Tells in which time zone a showtime was sold: all that is needed of a theatre that has left the programme.
--
-- KEYS
--   1  showtime hash   {theatre}:showtime:<showtime>
-- ARGV
--   none
-- Replies
--   {'zone', name}   such as Europe/Berlin
--   {'unknown'}      nothing was ever booked there, or it is forgotten

local zone = redis.call('HGET', KEYS[1], 'zone')
if zone then
  return {'zone', zone}
end
return {'unknown'}
