-- A Redis server as far as the scripts can tell: strings, hashes and lists, with expiry on the server's own clock.
--
-- The server is Lua, so a script needs one call from Python. `script` compiles the text of a script, and `server` makes
-- a server. A server runs a compiled script at a time of its clock and returns the elements of the reply as Redis does.
-- Numbers are cut to integers, false is nil, and an error is nil and its text.
local M = {}

function M.script(source)
  local compiled, problem = loadstring('local KEYS, ARGV, redis = ...\n' .. source)
  if not compiled then error(problem) end
  return compiled
end

local WRONGTYPE = 'WRONGTYPE Operation against a key holding the wrong kind of value'

local function fail(text) error({reply = text}) end

function M.server()
  local values, expires, now = {}, {}, 0
  local self, redis = {}, {}

  local function live(key)
    local at = expires[key]
    if at and now >= at then
      values[key], expires[key] = nil, nil
    end
    return values[key]
  end

  local function of(key, kind)
    local value = live(key)
    if value ~= nil and (type(value) ~= 'table' and 'string' or value.kind) ~= kind then fail(WRONGTYPE) end
    return value
  end

  local commands = {}
  function commands.GET(key) return of(key, 'string') or false end
  function commands.SET(key, value, px, ms)
    if px and px ~= 'PX' then fail('ERR syntax error') end
    values[key] = type(value) == 'number' and string.format('%.17g', value) or tostring(value)
    expires[key] = px and now + tonumber(ms) or nil
    return {ok = 'OK'}
  end
  function commands.DEL(key)
    local there = live(key) ~= nil
    values[key], expires[key] = nil, nil
    return there and 1 or 0
  end
  function commands.EXISTS(key) return live(key) ~= nil and 1 or 0 end
  function commands.PTTL(key)
    if live(key) == nil then return -2 end
    return expires[key] and expires[key] - now or -1
  end
  function commands.PEXPIRE(key, ms)
    if live(key) == nil then return 0 end
    expires[key] = now + tonumber(ms)
    return 1
  end
  function commands.HSET(key, ...)
    local hash = of(key, 'hash')
    if not hash then
      hash = {kind = 'hash', fields = {}}
      values[key], expires[key] = hash, nil
    end
    local pairs, added = {...}, 0
    for i = 1, #pairs, 2 do
      if hash.fields[pairs[i]] == nil then added = added + 1 end
      hash.fields[pairs[i]] = type(pairs[i + 1]) == 'number' and string.format('%.17g', pairs[i + 1]) or pairs[i + 1]
    end
    return added
  end
  function commands.HMGET(key, ...)
    local hash, out = of(key, 'hash'), {}
    for i, field in ipairs({...}) do out[i] = hash and hash.fields[field] or false end
    return out
  end
  function commands.HINCRBY(key, field, by)
    local hash = of(key, 'hash')
    local value = (hash and tonumber(hash.fields[field]) or 0) + by
    commands.HSET(key, field, string.format('%.0f', value))
    return value
  end
  function commands.HDEL(key, field)
    local hash = of(key, 'hash')
    if not hash or hash.fields[field] == nil then return 0 end
    hash.fields[field] = nil
    if next(hash.fields) == nil then values[key], expires[key] = nil, nil end
    return 1
  end
  function commands.LLEN(key)
    local list = of(key, 'list')
    return list and #list.items or 0
  end
  function commands.RPUSH(key, item)
    local list = of(key, 'list')
    if not list then
      list = {kind = 'list', items = {}}
      values[key], expires[key] = list, nil
    end
    table.insert(list.items, item)
    return #list.items
  end
  function commands.LPOP(key)
    local list = of(key, 'list')
    if not list then return false end
    local item = table.remove(list.items, 1)
    if #list.items == 0 then values[key], expires[key] = nil, nil end
    return item
  end
  -- Late in its millisecond: a script that rounds the time would give the next millisecond.
  function commands.TIME() return {tostring(math.floor(now / 1000)), tostring(now % 1000 * 1000 + 900)} end

  function redis.call(name, ...) return commands[name](...) end
  function redis.pcall(name, ...)
    local fine, reply = pcall(commands[name], ...)
    if fine then return reply end
    return {err = reply.reply}
  end
  function redis.error_reply(text) return {err = text} end

  local function integer(value)
    if value == true then return 1 end
    if type(value) ~= 'number' then return value end
    return value >= 0 and math.floor(value) or math.ceil(value)
  end

  local function give(reply)
    if type(reply) ~= 'table' then return 1, integer(reply) or nil end
    if reply.err then return nil, reply.err end
    if reply.ok then return 1, reply.ok end
    local out, n = {}, 0
    while reply[n + 1] ~= nil do
      n = n + 1
      out[n] = integer(reply[n]) or nil
    end
    return n + 1, unpack(out, 1, n)
  end

  -- How many values follow, plus one for a list; nil and a text for an error.
  function self.run(compiled, time, count, ...)
    now = time
    local keys, arguments, all = {}, {}, {...}
    for i = 1, #all do
      if i <= count then keys[i] = all[i] else arguments[i - count] = all[i] end
    end
    local fine, reply = pcall(compiled, keys, arguments, redis)
    if fine then return give(reply) end
    if type(reply) == 'table' and reply.reply then return nil, reply.reply end
    return nil, 'ERR ' .. tostring(reply)
  end

  local function element(value)
    if value == nil then return '$-1\r\n' end
    if type(value) == 'number' then return string.format(':%.0f\r\n', value + 0) end
    return '$' .. #value .. '\r\n' .. value .. '\r\n'
  end

  local function encoded(kind, ...)
    if kind == nil then return '-' .. ... .. '\r\n' end
    local count, parts = select('#', ...), {...}
    for i = 1, count do parts[i] = element(parts[i]) end
    return '*' .. count .. '\r\n' .. table.concat(parts)
  end

  -- As `run`, with the reply in the Redis protocol, as a list.
  function self.reply(...) return encoded(self.run(...)) end

  function self.pop(key, time)
    now = time
    return commands.LPOP(key) or nil
  end
  function self.flush() values, expires = {}, {} end

  local function copy(value)
    if type(value) ~= 'table' then return value end
    local out = {}
    for k, v in pairs(value) do out[k] = copy(v) end
    return out
  end
  function self.snapshot() return {copy(values), copy(expires)} end
  function self.restore(snapshot) values, expires = copy(snapshot[1]), copy(snapshot[2]) end

  function self.get(key, time)
    now = time
    local value = live(key)
    return type(value) == 'string' and value or nil
  end
  function self.field(key, name, time)
    now = time
    local value = live(key)
    return type(value) == 'table' and value.fields and value.fields[name] or nil
  end
  function self.set(key, value) values[key], expires[key] = value, nil end
  function self.delete(key) values[key], expires[key] = nil, nil end
  function self.count(prefix, time)
    now = time
    local found = 0
    for key in pairs(copy(values)) do
      if string.sub(key, 1, #prefix) == prefix and live(key) ~= nil then found = found + 1 end
    end
    return found
  end
  return self
end

return M
