-- Put before each script that counts as a vote: is this the node that the client thinks it is, and may it vote?
--
-- KEYS[1]     the node's record, one hash: run_id, since (ms), terms
-- ARGV[1..2]  what the clients agree on, quarantine in ms
-- ARGV[#]     the server's run_id, as read on this very connection
-- gives {2, now, ms left} abstains, or {3, now, terms} somebody else works here under other terms
--
-- A node that was restarted, flushed, emptied or restored from a snapshot has no record or another run_id. It may
-- have forgotten a lock that is still held, so it stays out until every lease that it could have forgotten is over.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local record = redis.call('HMGET', KEYS[1], 'run_id', 'since', 'terms')
local quarantine = tonumber(ARGV[2])
if record[1] ~= ARGV[#ARGV] then
  redis.call('HSET', KEYS[1], 'run_id', ARGV[#ARGV], 'since', string.format('%.0f', now), 'terms', ARGV[1])
  return {2, now, quarantine}
end
if not record[3] then
  redis.call('HSET', KEYS[1], 'terms', ARGV[1])
elseif record[3] ~= ARGV[1] then
  return {3, now, record[3]}
end
local age = now - tonumber(record[2])
if age < 0 then
  -- Written while the clock was ahead: keeping it would silence the node until then.
  redis.call('HSET', KEYS[1], 'since', string.format('%.0f', now))
  age = 0
end
if age < quarantine then
  return {2, now, quarantine - age}
end
