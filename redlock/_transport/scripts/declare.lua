-- Let a node vote at once. Only for operators of a node that can have forgotten nothing.
--
-- KEYS  the node's record.
-- ARGV  the server's run_id.
-- Returns 1 declared, now or before, or 0 the node has another record.
--
-- An operator repeats a declaration that failed half-way. The record of a declaration without a later client says that
-- this process votes already, so nothing is changed. The first client adds its quarantine to the record. A vote for
-- that client may have been forgotten since, with the record of the vote.
if redis.call('EXISTS', KEYS[1]) == 1 then
  local record = redis.call('HMGET', KEYS[1], 'run_id', 'since', 'fingerprint', 'quarantine')
  return record[1] == ARGV[1] and record[2] == '0' and not (record[3] or record[4]) and 1 or 0
end
redis.call('HSET', KEYS[1], 'run_id', ARGV[1], 'since', '0')
return 1
