-- Sets when a key is deleted, for `matinee audit --repair`; at once where that moment has passed.
--
-- KEYS
--   1  any key
-- ARGV
--   1  at_ms    when it should be deleted
--   2  seen_ms  when it would have been as the auditor saw it, -1: never
-- Replies
--   {'mended'}
--   {'changed'}   somebody has set it since, or the key is gone

if redis.call('PEXPIRETIME', KEYS[1]) ~= tonumber(ARGV[2]) then
  return {'changed'}
end
redis.call('PEXPIREAT', KEYS[1], ARGV[1])
return {'mended'}
