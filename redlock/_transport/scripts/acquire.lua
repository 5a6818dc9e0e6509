-- Acquire on a node: set the locks if all of them are free, and raise the fence.
--
-- KEYS  record, then for each resource: lock, fence, queue.
-- ARGV  fingerprint, quarantine; owner token, TTL in ms, proposed fencing token, TTL of the fence keys in ms, '1' if
--       woken, ms of the wait after a denial; run_id.
-- Returns {1, now, fence} granted, or {0, now, fence, holder, remaining ms}; remaining is -1 if a key has no TTL.
--
-- Locks that already hold this owner token are granted again and nothing changes: the first reply was lost.
-- A free lock that is reserved for the woken waiter is denied to other clients, without a holder.
-- A token more than an hour ahead of this clock is not valid. A node has no vote on a resource whose stored token is not
-- valid. If the node ignored only the token, the next token could be smaller than an earlier token.
local holder, remaining = false, 0
local ours = 0
local fence = tonumber(ARGV[5]) - 1
-- Lua counts in doubles: from 2^53 on, fence + 1 equals fence and two leases would share a token.
local most = math.min((now + 3600000) * 1000, 4503599627370495)
if fence >= most then
  return redis.error_reply('FENCEAHEAD a proposed token is more than an hour ahead of the clock of this node')
end
for i = 2, #KEYS, 3 do
  local found = redis.call('GET', KEYS[i])
  local known = tonumber(redis.call('GET', KEYS[i + 1]) or '0')
  if known >= most then
    return redis.error_reply('FENCESTORED a token more than an hour ahead of the clock of this node is stored')
  end
  if found == ARGV[3] then
    ours = ours + 1
  elseif found then
    local left = redis.call('PTTL', KEYS[i])
    holder = holder or found
    remaining = (left < 0 or remaining < 0) and -1 or math.max(remaining, left)
    if tonumber(ARGV[8]) > redis.call('PTTL', KEYS[i + 2]) and ARGV[8] ~= '0' then
      redis.call('SET', KEYS[i + 2], 'waited for', 'PX', ARGV[8])
    end
  elseif ARGV[7] ~= '1' and redis.call('GET', KEYS[i + 2]) == 'reserved' then
    holder = holder or ''
    remaining = remaining < 0 and -1 or math.max(remaining, redis.call('PTTL', KEYS[i + 2]))
  end
  fence = math.max(fence, known)
end
if holder then
  return {0, now, fence, shown(holder), remaining}
end
if ours == (#KEYS - 1) / 3 then
  return {1, now, tonumber(redis.call('GET', KEYS[3]) or '0')}
end
fence = fence + 1
for i = 2, #KEYS, 3 do
  redis.call('SET', KEYS[i], ARGV[3], 'PX', ARGV[4])
  redis.call('SET', KEYS[i + 1], string.format('%.0f', fence), 'PX', ARGV[6])
end
return {1, now, fence}
