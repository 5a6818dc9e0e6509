-- The commands of the lock and of its administration that this user may not run, or that the server does not know.
-- Changes nothing.
--
-- KEYS  none: with a key that the user may not access, the node would refuse the whole script.
-- ARGV  the node's record.
-- Returns the names of these commands, or nil where the server can't tell (before 7.0).
if not redis.acl_check_cmd then
  return false
end
local key = ARGV[1]
-- Only a node probe uses the last line. Without permission the probe must not send these and fill the ACL log.
local needed = {
  {'EVALSHA', '', '0'}, {'EVAL', '', '0'}, {'SCRIPT', 'LOAD', ''}, {'TIME'},
  {'INFO', 'server'}, {'INFO', 'replication'},
  {'HMGET', key, ''}, {'HSET', key, '', ''}, {'GET', key}, {'SET', key, ''}, {'DEL', key}, {'PTTL', key},
  {'PEXPIRE', key, '1'}, {'LLEN', key}, {'RPUSH', key, ''}, {'BLPOP', key, '1'},
  {'CONFIG', 'GET', 'save'}, {'SCAN', '0'}, {'INFO', 'memory'}, {'INFO', 'persistence'}, {'INFO', 'clients'},
}
local with_second = {SCRIPT = true, CONFIG = true, INFO = true}
local refused = {}
for _, command in ipairs(needed) do
  -- A command that the server's configuration has renamed raises an error.
  local known, allowed = pcall(redis.acl_check_cmd, unpack(command))
  if not (known and allowed) then
    refused[#refused + 1] = with_second[command[1]] and command[1] .. ' ' .. command[2] or command[1]
  end
end
return refused
