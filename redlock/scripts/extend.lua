-- One node's part of an extension: where the lock is still ours, let it stand for at least this long.
--
-- KEYS  lock, fence
-- ARGV  owner token, TTL in ms, TTL of the fence key in ms
-- gives {1, 0} still ours, or {0, 0, holder, remaining ms}; the holder is '' if there is none
--
-- Never shortens: a round that fails half-way must not undercut the old deadline, which stands.
-- Never creates: a lost lease must not come back.
local holder = redis.call('GET', KEYS[1])
local remaining = redis.call('PTTL', KEYS[1])
if holder ~= ARGV[1] then
  return {0, 0, holder or '', remaining}
end
if remaining < tonumber(ARGV[2]) then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {1, 0}
