-- Open in the fenced store: read the value, and raise the token.
--
-- KEYS  the state, one hash: value, fence, owner, section (how many were opened), open (which one is; empty if none).
-- ARGV  fencing token, owner token.
-- Returns {'OPEN', section, value or nil} or {'STALE', largest token seen}.
--
-- The read must raise the token too. With a check on writes alone, an old holder reads, the new holder reads, both
-- writes pass in token order, and an update is lost. Where only the last command fails, one section number is unused.
local seen = redis.call('HMGET', KEYS[1], 'fence', 'owner', 'value')
local fence = tonumber(seen[1] or '0')
local token = tonumber(ARGV[1])
if token < fence or (token == fence and seen[2] ~= ARGV[2]) then
  return {'STALE', fence}
end
local section = redis.call('HINCRBY', KEYS[1], 'section', 1)
redis.call('HSET', KEYS[1], 'fence', ARGV[1], 'owner', ARGV[2], 'open', section)
return {'OPEN', section, seen[3]}
