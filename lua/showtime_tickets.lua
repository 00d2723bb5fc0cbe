-- Lists the tickets of a showtime, as they all are at one moment.
--
-- Lua builds no key, so the caller must name the ticket hashes, and to do that it must know the ids. It calls with the
-- ids it has seen (none at first) and the version it saw them at; where that is no longer the version, it gets the new
-- ids instead and calls again.
--
-- KEYS
--   1   showtime hash              {theatre}:showtime:<showtime>
--   2   its ticket ids, zset       {theatre}:showtime:<showtime>:tickets
--   3…  ticket hash of each id that the caller has seen, in its order
-- ARGV
--   1   version the caller saw the ids at, or 'any' to be content with those of them that are still there
--   2…  the ids, in the same order
-- Replies
--   {'tickets', version, row…}   row: {id} once expired, else {id, name, phone, booked_at_ms, admitted_at_ms or nil}
--   {'changed', version, id…}    in order of booking

local version = redis.call('HGET', KEYS[1], 'version') or '0'

if ARGV[1] ~= version and ARGV[1] ~= 'any' then
  local reply = redis.call('ZRANGE', KEYS[2], 0, -1)
  table.insert(reply, 1, 'changed')
  table.insert(reply, 2, tonumber(version))
  return reply
end

local reply = {'tickets', tonumber(version)}
for n = 3, #KEYS do
  local id = ARGV[n - 1]
  if ARGV[1] == version or redis.call('ZSCORE', KEYS[2], id) then
    local ticket = redis.call('HMGET', KEYS[n], 'name', 'phone', 'booked_at', 'admitted_at')
    if ticket[3] then
      reply[#reply + 1] = {id, ticket[1], ticket[2], tonumber(ticket[3]), ticket[4] and tonumber(ticket[4])}
    else
      reply[#reply + 1] = {id}
    end
  end
end
return reply
