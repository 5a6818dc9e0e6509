-- One node's part of an extension: where all locks are still ours, let them stand for at least this long.
--
-- KEYS  record, then for each resource: lock, fence
-- ARGV  fingerprint, quarantine; owner token, TTL in ms, TTL of the fence keys in ms; run_id
-- gives {1, now, 0} still ours, or {0, now, 0, holder, 0}; the holder is '' if a lock is missing and none is another's
--
-- Never shortens: a round that fails half-way must not undercut the old deadline, which stands.
-- Never creates: a lost lease must not come back.
local missing = false
for i = 2, #KEYS, 2 do
  local holder = redis.call('GET', KEYS[i])
  if holder and holder ~= ARGV[3] then
    return {0, now, 0, holder, 0}
  end
  missing = missing or not holder
end
if missing then
  return {0, now, 0, '', 0}
end
for i = 2, #KEYS, 2 do
  if redis.call('PTTL', KEYS[i]) < tonumber(ARGV[4]) then
    redis.call('PEXPIRE', KEYS[i], ARGV[4])
  end
  redis.call('PEXPIRE', KEYS[i + 1], ARGV[5])
end
return {1, now, 0}
