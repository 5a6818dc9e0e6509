-- The second round of an acquire if the nodes' fences disagreed: write the token if all locks hold the owner token.
--
-- KEYS  record, then for each resource: lock, fence.
-- ARGV  fingerprint, quarantine; owner token, fencing token, TTL of the fence keys in ms; run_id.
-- Returns {1, now, fence} written, or {0, now, fence, holder, 0} another holder, or the fence is not smaller.
--
-- Strictly smaller: tokens are unique because a node's fence becomes any number at most once.
-- A token more than an hour ahead of this clock is refused, as in the first round.
local token = tonumber(ARGV[4])
local most = math.min((now + 3600000) * 1000, 4503599627370495)
if token > most then
  return redis.error_reply('FENCEAHEAD a proposed token is more than an hour ahead of the clock of this node')
end
for i = 2, #KEYS, 2 do
  local holder = redis.call('GET', KEYS[i])
  local fence = tonumber(redis.call('GET', KEYS[i + 1]) or '0')
  if holder ~= ARGV[3] or fence >= token then
    return {0, now, fence, shown(holder or ''), 0}
  end
end
for i = 2, #KEYS, 2 do
  redis.call('SET', KEYS[i + 1], string.format('%.0f', token), 'PX', ARGV[5])
end
return {1, now, token}
