-- Repair after a successful extension: write the locks again on a node that reported them missing.
--
-- KEYS  record, then for each resource: lock, fence.
-- ARGV  fingerprint, quarantine; owner token, TTL in ms, fencing token, TTL of the fence keys in ms; run_id.
-- Returns {1, now, fence} written, or {0, now, 0, holder, 0} another holder.
--
-- Never part of the extension: there the repair would bring a lost lease back at the next try.
if tonumber(ARGV[5]) > (now + 3600000) * 1000 then
  return redis.error_reply('FENCEAHEAD a token is more than an hour ahead of the clock of this node')
end
for i = 2, #KEYS, 2 do
  local holder = redis.call('GET', KEYS[i])
  if holder and holder ~= ARGV[3] then
    return {0, now, 0, shown(holder), 0}
  end
end
for i = 2, #KEYS, 2 do
  if not redis.call('GET', KEYS[i]) then
    redis.call('SET', KEYS[i], ARGV[3], 'PX', ARGV[4])
  end
  local fence = math.max(tonumber(redis.call('GET', KEYS[i + 1]) or '0'), tonumber(ARGV[5]))
  redis.call('SET', KEYS[i + 1], string.format('%.0f', fence), 'PX', ARGV[6])
end
return {1, now, tonumber(ARGV[5])}
