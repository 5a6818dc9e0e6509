-- What this node has at a name. Changes nothing.
--
-- KEYS  lock, fence
-- gives {1, fence} free, or {0, fence, holder, remaining ms}
local holder = redis.call('GET', KEYS[1])
local fence = tonumber(redis.call('GET', KEYS[2]) or '0')
if holder then
  return {0, fence, holder, redis.call('PTTL', KEYS[1])}
end
return {1, fence}
