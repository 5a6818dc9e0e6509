-- Holders and fences of these resources on this node, at the same moment. Changes nothing; a node in quarantine answers
-- too.
--
-- KEYS  for each resource: lock, fence, queue.
-- ARGV  none.
-- Returns for each resource {1, 0, fence, waited} free, or {0, 0, fence, holder, remaining ms, waited}; waited is 1 if
-- a client was denied; remaining is -1 if a key has no TTL. A key that is no string is no lock, and counts as free. A
-- fence that is no token counts as 0, because a spoilt key must hide neither its lock nor the other locks.
local found = {}
for i = 1, #KEYS, 3 do
  local fence = redis.pcall('GET', KEYS[i + 1])
  fence = type(fence) == 'string' and tonumber(fence) or 0
  if not (fence >= 0 and fence <= 2 ^ 53) then
    fence = 0
  end
  local waited = redis.pcall('GET', KEYS[i + 2]) and 1 or 0
  local holder = redis.pcall('GET', KEYS[i])
  if type(holder) == 'string' then
    -- A longer text is no owner token.
    found[#found + 1] = {0, 0, fence, string.sub(holder, 1, 1024), redis.call('PTTL', KEYS[i]), waited}
  else
    found[#found + 1] = {1, 0, fence, waited}
  end
end
return found
