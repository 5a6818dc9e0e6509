-- The beginning of each script that casts a vote: check that this server is the one on record and may vote.
--
-- KEYS[1]     the node's record, one hash: run_id, since (ms), quarantine (ms), fingerprint.
-- ARGV[1..2]  configuration fingerprint, quarantine in ms.
-- ARGV[#]     the server's run_id, as read on the same connection.
-- Returns {2, now, ms left} abstains, or {3, now, fingerprint} other clients use another configuration here.
--
-- A node that was restarted, flushed, emptied or restored from a snapshot has no record or another run_id. The node may
-- have forgotten a lock that is still held, so it abstains until every lease that it may have forgotten has expired.
-- The longest quarantine of any client counts, because no client is known to be right yet. For the same reason the
-- fingerprint is stored with the first vote, not at the first contact.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local record = redis.call('HMGET', KEYS[1], 'run_id', 'since', 'fingerprint', 'quarantine')
if record[1] ~= ARGV[#ARGV] then
  redis.call('DEL', KEYS[1])
  redis.call('HSET', KEYS[1], 'run_id', ARGV[#ARGV], 'since', string.format('%.0f', now), 'quarantine', ARGV[2])
  return {2, now, tonumber(ARGV[2])}
end
if record[3] and record[3] ~= ARGV[1] then
  return {3, now, shown(record[3])}
end
local quarantine = tonumber(record[4] or '0')
if quarantine < tonumber(ARGV[2]) then
  quarantine = tonumber(ARGV[2])
  redis.call('HSET', KEYS[1], 'quarantine', ARGV[2])
end
local age = now - tonumber(record[2])
if age < 0 then
  -- The time was written while the clock was ahead: to keep the time would silence the node until then.
  redis.call('HSET', KEYS[1], 'since', string.format('%.0f', now))
  age = 0
end
if age < quarantine then
  return {2, now, quarantine - age}
end
if not record[3] then
  redis.call('HSET', KEYS[1], 'fingerprint', ARGV[1])
end
