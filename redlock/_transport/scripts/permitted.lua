-- The commands that the lock needs and this user may not run. Changes nothing.
--
-- KEYS  none: with a key that the user may not access, the node would refuse the whole script.
-- ARGV  the node's record.
-- Returns the names of the commands that are refused, or nil where the server can't tell (before 7.0).
if not redis.acl_check_cmd then
  return false
end
local key = ARGV[1]
-- Only a node probe uses the last command. Without permission the probe must not send it and fill the ACL log.
local needed = {
  {'EVALSHA', '', '0'}, {'EVAL', '', '0'}, {'SCRIPT', 'LOAD', ''}, {'INFO'}, {'TIME'},
  {'HMGET', key, ''}, {'HSET', key, '', ''}, {'GET', key}, {'SET', key, ''}, {'DEL', key}, {'PTTL', key},
  {'PEXPIRE', key, '1'}, {'LLEN', key}, {'RPUSH', key, ''}, {'BLPOP', key, '1'}, {'CONFIG', 'GET', 'save'},
}
local named = {SCRIPT = 'SCRIPT LOAD', CONFIG = 'CONFIG GET'}
local refused = {}
for _, command in ipairs(needed) do
  if not redis.acl_check_cmd(unpack(command)) then
    refused[#refused + 1] = named[command[1]] or command[1]
  end
end
return refused
