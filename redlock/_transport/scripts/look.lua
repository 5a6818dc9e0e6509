-- What this node has at these names, all at the same moment. Changes nothing, and asks nobody whether it may vote.
--
-- KEYS  for each resource: lock, fence, queue
-- ARGV  none
-- gives for each resource {1, 0, fence, waited} free, or {0, 0, fence, holder, remaining ms, waited}; waited is 1 where
-- somebody was denied; remaining is -1 if a key has no TTL. What is no text is no lock, and counts as free.
local found = {}
for i = 1, #KEYS, 3 do
  local fence = tonumber(redis.call('GET', KEYS[i + 1]) or '0')
  local waited = redis.call('GET', KEYS[i + 2]) and 1 or 0
  local holder = redis.pcall('GET', KEYS[i])
  if type(holder) == 'string' then
    -- A long text is no owner token, and nobody wants to read it.
    found[#found + 1] = {0, 0, fence, string.sub(holder, 1, 1024), redis.call('PTTL', KEYS[i]), waited}
  else
    found[#found + 1] = {1, 0, fence, waited}
  end
end
return found
