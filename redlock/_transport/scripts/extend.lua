-- Extension on a node: if all locks hold the owner token, extend them to at least this TTL.
--
-- KEYS  record, then for each resource: lock, fence.
-- ARGV  fingerprint, quarantine; owner token, TTL in ms, TTL of the fence keys in ms; run_id.
-- Returns {1, now, 0} extended, or {0, now, 0, holder, 0}; the holder is '' if a lock is missing and no other holder is
-- found.
--
-- Never shortens: the old deadline stands, and a round that fails half-way must not undercut it.
-- Never creates: a lost lease must not come back.
local missing = false
for i = 2, #KEYS, 2 do
  local holder = redis.call('GET', KEYS[i])
  if holder and holder ~= ARGV[3] then
    return {0, now, 0, shown(holder), 0}
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
