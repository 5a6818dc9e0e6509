-- One node's part of a release or of a cancelled attempt: delete the locks where they are ours.
--
-- KEYS  for each resource: lock
-- ARGV  owner token
-- gives {1, 0, 0} all were ours, or {0, 0, 0, holder, 0}; the holder is '' if a lock was missing
--
-- A node in quarantine deletes too: giving up what is one's own needs no vote.
local denied = false
for i = 1, #KEYS do
  local holder = redis.call('GET', KEYS[i])
  if holder == ARGV[1] then
    redis.call('DEL', KEYS[i])
  else
    denied = denied or holder or ''
  end
end
if denied then
  return {0, 0, 0, denied, 0}
end
return {1, 0, 0}
