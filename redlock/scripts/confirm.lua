-- The second round of an acquire whose nodes' fences disagreed: where the lock is still ours, write the token.
--
-- KEYS  lock, fence
-- ARGV  owner token, fencing token, TTL of the fence key in ms
-- gives {1, fence} written, or {0, fence, holder, remaining ms} not ours any more or the fence is not smaller
--
-- Strictly smaller: a node's fence must become any number at most once, that is what makes tokens unique.
local holder = redis.call('GET', KEYS[1])
local fence = tonumber(redis.call('GET', KEYS[2]) or '0')
local token = tonumber(ARGV[2])
if holder ~= ARGV[1] or fence >= token then
  return {0, fence, holder or '', redis.call('PTTL', KEYS[1])}
end
if token >= 4503599627370496 then
  return redis.error_reply('FENCE token ' .. ARGV[2] .. ' is not below 2^52')
end
redis.call('SET', KEYS[2], string.format('%.0f', token), 'PX', ARGV[3])
return {1, token}
