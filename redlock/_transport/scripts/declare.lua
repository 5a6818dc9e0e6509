-- Let a node vote at once. Only for operators of a node that can have forgotten nothing.
--
-- KEYS  the node's record.
-- ARGV  the server's run_id.
-- Returns 1 declared, or 0 the node has a record already.
if redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
redis.call('HSET', KEYS[1], 'run_id', ARGV[1], 'since', '0')
return 1
