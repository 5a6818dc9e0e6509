-- One node's part of a release or of a cancelled attempt: delete the lock where it is ours.
--
-- KEYS  lock
-- ARGV  owner token
-- gives {1, 0} deleted, or {0, 0, holder} somebody else's, '' if there is none
local holder = redis.call('GET', KEYS[1])
if holder ~= ARGV[1] then
  return {0, 0, holder or ''}
end
redis.call('DEL', KEYS[1])
return {1, 0}
