-- Report the waits of a process, for `redlock status` and the page Locks. The lock does not depend on the reports.
--
-- KEYS  the beginning of the key of the reports; the period is appended, because a lock node is no cluster.
-- ARGV  the process, its report, length of a period in seconds.
-- Returns the number of processes that have reported in this period.
--
-- Each period has its own hash, so the report of a dead process expires. All commands here are commands of the lock, so
-- users need no further permission.
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
local key = KEYS[1] .. string.format('%.0f', math.floor(time[1] / ARGV[3]))
local found = redis.call('HMGET', key, 'count', 'process ' .. ARGV[1])
local count, place = tonumber(found[1] or '0'), found[2]
if not place then
  count = count + 1
  place = string.format('%.0f', count)
  redis.call('HSET', key, 'count', place, 'process ' .. ARGV[1], place)
end
redis.call('HSET', key, place, ARGV[1] .. ' ' .. now .. ' ' .. ARGV[2])
redis.call('PEXPIRE', key, ARGV[3] * 3000)
return count
