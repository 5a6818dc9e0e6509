-- One node's part of an acquire: take the lock if it is free, and raise the fence.
--
-- KEYS  lock, fence
-- ARGV  owner token, TTL in ms, proposed fencing token, TTL of the fence key in ms
-- gives {1, fence} granted, or {0, 0, holder, remaining ms} denied; remaining is -1 if the key has no TTL
--
-- A key that already holds this very token is granted again and changes nothing: the first answer was lost.
local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then
  return {0, 0, holder, redis.call('PTTL', KEYS[1])}
end
local fence = tonumber(redis.call('GET', KEYS[2]) or '0')
if holder then
  return {1, fence}
end
fence = math.max(fence + 1, tonumber(ARGV[3]))
-- Lua counts in doubles: from 2^53 on, fence + 1 equals fence and two leases would share a token.
if fence >= 4503599627370496 then
  return redis.error_reply('FENCE token ' .. string.format('%.0f', fence) .. ' is not below 2^52')
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('SET', KEYS[2], string.format('%.0f', fence), 'PX', ARGV[4])
return {1, fence}
