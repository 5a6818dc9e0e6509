-- Report the waits of one process, for `redlock status` and the page Locks. No part of any promise.
--
-- KEYS  the beginning of the names of the reports; the period is appended: a lock node is no cluster
-- ARGV  the process, its report, length of a period in seconds
-- gives the number of processes that have reported in this period
--
-- A hash for each period: what a process that has died reported goes with it. Commands that the lock needs anyway.
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
