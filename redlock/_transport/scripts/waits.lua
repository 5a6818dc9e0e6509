-- The recent reports of waits, as `wait.lua` wrote them. Changes nothing.
--
-- KEYS  the beginning of the key of the reports; the period is appended, because a lock node is no cluster.
-- ARGV  length of a period in seconds, most bytes, most reports of a period.
-- Returns the node's time in milliseconds, then reports of this period and the period before, each `process time report`.
local time = redis.call('TIME')
local found, left = {string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))}, tonumber(ARGV[2])
for back = 0, 1 do
  local key = KEYS[1] .. string.format('%.0f', math.floor(time[1] / ARGV[1]) - back)
  local count = tonumber(redis.call('HMGET', key, 'count')[1] or '0')
  -- A client can store any number, and each report takes time in which the node casts no vote.
  for place = 1, math.min(count, tonumber(ARGV[3])) do
    local report = redis.call('HMGET', key, string.format('%.0f', place))[1]
    left = left - (report and #report or 0)
    if not report or left < 0 then
      break
    end
    found[#found + 1] = report
  end
end
return found
