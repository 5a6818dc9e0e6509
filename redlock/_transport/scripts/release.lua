-- One node's part of a release or of a cancelled attempt: delete the locks where they are ours, and wake a waiter.
--
-- KEYS  for each resource: lock, wake-up, queue
-- ARGV  owner token, TTL of the wake-up in ms (0: leave none), length of a reservation in ms
-- gives {1, 0, 0} all were ours, or {0, 0, 0, holder, 0}; the holder is '' if a lock was missing
--
-- A node in quarantine deletes too: giving up what is one's own needs no vote. The wake-up is left whether the lock
-- was here or not, because the holder may have had its quorum elsewhere while its waiters wait here; at most one
-- lies on a node. Where somebody was denied since the lock was taken, it is reserved for a moment for whom the
-- wake-up reaches: else a holder that takes it again at once would always be faster than who has waited.
local denied = false
for i = 1, #KEYS, 3 do
  local holder = redis.call('GET', KEYS[i])
  if holder == ARGV[1] then
    redis.call('DEL', KEYS[i])
  else
    denied = denied or holder or ''
  end
  if ARGV[2] ~= '0' then
    if redis.call('GET', KEYS[i + 2]) then
      redis.call('SET', KEYS[i + 2], 'reserved', 'PX', ARGV[3])
    end
    if redis.call('LLEN', KEYS[i + 1]) == 0 then
      redis.call('RPUSH', KEYS[i + 1], '1')
      redis.call('PEXPIRE', KEYS[i + 1], ARGV[2])
    end
  end
end
if denied then
  return {0, 0, 0, denied, 0}
end
return {1, 0, 0}
