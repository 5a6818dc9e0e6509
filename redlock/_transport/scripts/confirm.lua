-- The second round of an acquire whose nodes' fences disagreed: where all locks are still ours, write the token.
--
-- KEYS  record, then for each resource: lock, fence
-- ARGV  fingerprint, quarantine; owner token, fencing token, TTL of the fence keys in ms; run_id
-- gives {1, now, fence} written, or {0, now, fence, holder, 0} not ours any more, or the fence is not smaller
--
-- Strictly smaller: a node's fence must become any number at most once, that is what makes tokens unique.
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
    return {0, now, fence, holder or '', 0}
  end
end
for i = 2, #KEYS, 2 do
  redis.call('SET', KEYS[i + 1], string.format('%.0f', token), 'PX', ARGV[5])
end
return {1, now, token}
