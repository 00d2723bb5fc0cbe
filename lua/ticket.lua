-- Looks one ticket up. Where its hash is gone, the showtimes that were over lately still know its id.
--
-- KEYS
--   1   ticket hash                       {theatre}:ticket:<id>
--   2…  ticket ids of the showtimes whose tickets have expired and whose own keys may still live
-- ARGV
--   1   ticket id
-- Replies
--   {'ticket', name, phone, showtime, booked_at_ms, admitted_at_ms or nil, moves}
--   {'expired', n}       found among the ids of KEYS[n]
--   {'not_found'}

local ticket = redis.call('HMGET', KEYS[1], 'name', 'phone', 'showtime', 'booked_at', 'admitted_at', 'moves')
if ticket[3] then
  return {
    'ticket', ticket[1], ticket[2], ticket[3], tonumber(ticket[4]),
    ticket[5] and tonumber(ticket[5]), tonumber(ticket[6] or 0),
  }
end
for n = 2, #KEYS do
  if redis.call('ZSCORE', KEYS[n], ARGV[1]) then
    return {'expired', n}
  end
end
return {'not_found'}
