"""The scripts of `state.redis`: each changes a value on one condition about its version (spec `components.md` 2.1).

A value is a hash with the fields `data`, `version` and `first-write`; where the server has the JSON module and the
request says so, it is a JSON document with members of the same names. A write may change the one into the other and
goes on counting the versions; a value of any other kind counts as absent and is replaced.
"""

from __future__ import annotations

from pillion.components.redis_client import Script

# Returns version (false: none), whether first-write was used, and what the value is: hash (or nothing), json, other.
_READ = """
local function read(key)
  local row = redis.pcall('HMGET', key, 'version', 'first-write')
  if not row.err then
    return row[1], row[2], 'hash'
  end
  local version = redis.pcall('JSON.GET', key, '$.version')
  if type(version) ~= 'string' then
    return false, false, 'other'
  end
  local guard = redis.pcall('JSON.GET', key, '$["first-write"]')
  return string.match(version, '^%[(%d+)%]$') or '', guard ~= '[]', 'json'
end
"""

# `wanted` is a version or '0' for "whatever it is", which a value once written with first-write does not grant.
_MAY_WRITE = """
local function may_write(version, guarded, wanted)
  return not version or version == '' or version == wanted or (not guarded and wanted == '0')
end
"""

_EXPIRE = """
local function expire(key, ttl)
  if ttl == '0' then
    redis.call('PERSIST', key)
  elseif ttl ~= '' then
    redis.call('EXPIRE', key, ttl)
  end
end
"""

_WRITE = """
local function write(verb, key, kind, value, version, guarded)
  if kind ~= verb then
    redis.call('DEL', key)
  end
  if verb == 'json' then
    local number = string.format('%.0f', (tonumber(version or '0') or 0) + 1)
    local guard = guarded and ',"first-write":0' or ''
    redis.call('JSON.SET', key, '$', '{"data":' .. value .. ',"version":' .. number .. guard .. '}')
    return
  end
  redis.call('HSET', key, 'data', value)
  if guarded then
    redis.call('HSET', key, 'first-write', 0)
  end
  if kind == 'json' and version and version ~= '' then
    redis.call('HSET', key, 'version', version)
  end
  redis.call('HINCRBY', key, 'version', 1)
end
"""


def _set(verb: str) -> Script:
    return Script(f"""
{_READ}{_MAY_WRITE}{_EXPIRE}{_WRITE}
local version, guarded, kind = read(KEYS[1])
if not may_write(version, guarded, ARGV[1]) then
  return 0
end
write('{verb}', KEYS[1], kind, ARGV[2], version, guarded or ARGV[3] == '0')
expire(KEYS[1], ARGV[4])
return 1
""")


SET = _set("hash")
"""Arguments: version or 0, value, 0 for first-write, ttl in seconds ("": leave it, 0: none). Returns 1, or 0 for no."""

SET_JSON = _set("json")
"""As SET; the value is JSON text, which the caller has examined."""

DELETE = Script(f"""
{_READ}
local version, guarded, kind = read(KEYS[1])
if kind == 'other' or (version and version ~= ARGV[1]) then
  return 0
end
redis.call('DEL', KEYS[1])
return 1
""")
"""Argument: the version. Returns 1, or 0 when another one is there."""

TRANSACT = Script(f"""
{_READ}{_MAY_WRITE}{_EXPIRE}{_WRITE}
local seen, plan = {{}}, {{}}
for i, key in ipairs(KEYS) do
  local verb, wanted = ARGV[4 * i - 2], ARGV[4 * i - 1]
  local first = wanted == 'first'
  if first then
    wanted = '0'
  end
  local row = seen[key]
  if not row then
    local version, guarded, kind = read(key)
    row = {{version = version, guarded = guarded, kind = kind}}
  end
  if verb == 'delete' then
    if wanted ~= '0' and (row.kind == 'other' or (row.version and row.version ~= wanted)) then
      return i
    end
    seen[key] = {{version = false, guarded = false, kind = 'hash'}}
  else
    if not may_write(row.version, row.guarded, wanted) then
      return i
    end
    local number = row.version and row.version ~= '' and tonumber(row.version) or 0
    if not number then
      return redis.error_reply('ERR the version of a stored value is not a number')
    end
    seen[key] = {{version = string.format('%.0f', number + 1), guarded = row.guarded or first, kind = verb}}
    row = {{version = row.version, guarded = row.guarded or first, kind = row.kind}}
  end
  plan[i] = row
end
if ARGV[1] == 'check' then
  return 0
end
for i, key in ipairs(KEYS) do
  local verb, row = ARGV[4 * i - 2], plan[i]
  if verb == 'delete' then
    redis.call('DEL', key)
  else
    write(verb, key, row.kind, ARGV[4 * i], row.version, row.guarded)
    expire(key, ARGV[4 * i + 1])
  end
end
return 0
""")
"""All or nothing. Keys: one for each operation. Arguments: `check` or `apply`, then for each operation its verb (hash,
json, delete), version, 0 or `first` (first-write), value, ttl. All conditions are examined, in order and as if the
operations before had been done, before the first write. Returns 0, or the number of the operation that may not be
done.
"""
