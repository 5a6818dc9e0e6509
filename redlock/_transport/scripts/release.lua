-- Release or cancel on a node: delete the locks that hold the owner token, and wake a waiter.
--
-- KEYS  for each resource: lock, wake-up, queue.
-- ARGV  owner token, TTL of the wake-up in ms (0: leave none), length of a reservation in ms.
-- Returns {1, 0, 0} all deleted, or {0, 0, 0, holder, 0}; the holder is '' if a lock was missing.
--
-- A node in quarantine deletes too: a release needs no vote. The wake-up is left even if the lock was not here, because
-- the holder may have had its quorum on other nodes while its waiters wait here. A node has at most one wake-up.
-- If a client was denied since the acquire, the lock is reserved for a moment for the woken waiter. Otherwise a holder
-- that acquires the lock again at once would always be faster than the waiter.
local denied = false
for i = 1, #KEYS, 3 do
  local holder = redis.call('GET', KEYS[i])
  if holder == ARGV[1] then
    redis.call('DEL', KEYS[i])
  else
    denied = denied or holder or ''
  end
  if ARGV[2] ~= '0' then
    if redis.call('LLEN', KEYS[i + 1]) == 0 then
      -- A full node refuses memory to the first write of a script only. So the first write deletes a key that is not
      -- there. A full node never has the lock, but waiters wait there, because a wait needs no memory.
      redis.call('DEL', KEYS[i + 1])
      redis.call('RPUSH', KEYS[i + 1], '1')
      redis.call('PEXPIRE', KEYS[i + 1], ARGV[2])
    end
    if redis.call('GET', KEYS[i + 2]) then
      redis.call('SET', KEYS[i + 2], 'reserved', 'PX', ARGV[3])
    end
  end
end
if denied then
  return {0, 0, 0, shown(denied), 0}
end
return {1, 0, 0}
