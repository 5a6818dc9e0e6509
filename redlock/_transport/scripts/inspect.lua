-- The holder and the fence of a resource on this node. Changes nothing; a node in quarantine answers too.
--
-- KEYS  lock, fence.
-- Returns {1, 0, fence} free, or {0, 0, fence, holder, remaining ms}.
local holder = redis.call('GET', KEYS[1])
local fence = tonumber(redis.call('GET', KEYS[2]) or '0')
if holder then
  return {0, 0, fence, shown(holder), redis.call('PTTL', KEYS[1])}
end
return {1, 0, fence}
