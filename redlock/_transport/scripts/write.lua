-- Write in the fenced store: store the new value that was made from the value of `open`.
--
-- KEYS  the state, the operation's result.
-- ARGV  fencing token, owner token, section, new value, TTL of the operation's result in ms.
-- Returns {'WRITTEN', result}, {'DUPLICATE', its old result}, or {'STALE', largest token seen}.
--
-- The section number makes each open-write pair atomic, even if two operations share a lease and the first write is
-- late. A result is `token:value`.
--
-- Redis undoes nothing if a command fails. So the order is: close the section, remember the operation, store the value.
-- An error of the first two, such as a missing permission, leaves the value and the operation as they were. The last
-- command can't fail: the first is the same command on the same key, and Redis checks its memory at the first write only.
local old = redis.call('GET', KEYS[2])
if old then
  return {'DUPLICATE', old}
end
local seen = redis.call('HMGET', KEYS[1], 'fence', 'owner', 'open')
if tonumber(seen[1] or '0') ~= tonumber(ARGV[1]) or seen[2] ~= ARGV[2] or seen[3] ~= ARGV[3] then
  return {'STALE', tonumber(seen[1] or '0')}
end
local result = ARGV[1] .. ':' .. ARGV[4]
redis.call('HSET', KEYS[1], 'open', '')
redis.call('SET', KEYS[2], result, 'PX', ARGV[5])
redis.call('HSET', KEYS[1], 'value', ARGV[4])
return {'WRITTEN', result}
