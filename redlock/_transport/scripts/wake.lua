-- Pass a wake-up on to the next waiter, for a woken waiter that stops without the lock.
--
-- KEYS  for each resource: wake-up.
-- ARGV  TTL of the wake-up in ms.
-- Returns the number of wake-ups that were left; a node has at most one per resource.
local left = 0
for i = 1, #KEYS do
  if redis.call('LLEN', KEYS[i]) == 0 then
    -- As in a release: a full node refuses memory to the first write of a script only.
    redis.call('DEL', KEYS[i])
    redis.call('RPUSH', KEYS[i], '1')
    redis.call('PEXPIRE', KEYS[i], ARGV[1])
    left = left + 1
  end
end
return left
