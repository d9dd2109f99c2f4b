"""`state.redis`: values as hashes with the fields `data`, `version` and `first-write` (spec `components.md` 2.1).

Knows: that layout and its scripts. Never knows: connections and topologies; `redis_client` does.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pillion.components.like import like_to_redis_glob
from pillion.components.redis_client import RedisClient, Script, slot_of
from pillion.components.redis_link import Link, RedisError
from pillion.components.redis_settings import RedisSettings
from pillion.errors import ComponentError, EtagInvalid, EtagMismatch
from pillion.kinds.component import setting
from pillion.kinds.state import Delete, Feature, Found, Get, Operation, Set, check_options, ttl_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillion.kinds.component import Context

log = logging.getLogger("pillion.components.redis")

MAX_KEYS = 1_000_000
"""Keys that one listing may look at: SCAN gives no order, so they are all collected before they are sorted."""
REPLICATION_WAIT_MS = 1000

# Arguments: version or 0, value, 0 for first-write, ttl in seconds ("": leave it, 0: none). Returns 1, or 0 for "no".
SET = Script("""
local row = redis.pcall('HMGET', KEYS[1], 'version', 'first-write')
if row.err then
  redis.call('DEL', KEYS[1])
  row = {false, false}
end
local version = row[1]
if version and version ~= '' and version ~= ARGV[1] and (row[2] or ARGV[1] ~= '0') then
  return 0
end
redis.call('HSET', KEYS[1], 'data', ARGV[2])
if ARGV[3] == '0' then
  redis.call('HSET', KEYS[1], 'first-write', 0)
end
redis.call('HINCRBY', KEYS[1], 'version', 1)
if ARGV[4] == '0' then
  redis.call('PERSIST', KEYS[1])
elseif ARGV[4] ~= '' then
  redis.call('EXPIRE', KEYS[1], ARGV[4])
end
return 1
""")

# Argument: the version. Returns 1, or 0 when another one is there.
DELETE = Script("""
local version = redis.pcall('HGET', KEYS[1], 'version')
if type(version) == 'table' or (version and version ~= ARGV[1]) then
  return 0
end
redis.call('DEL', KEYS[1])
return 1
""")

# Keys: one for each operation. Arguments: "check" or "apply", then for each operation its kind (s, d), version or 0,
# value, ttl. All conditions are examined, in order and as if the operations before had been done, before the first
# write: the whole is done or nothing. Returns 0, or the number of the operation that may not be done.
TRANSACT = Script("""
local seen = {}
for i, key in ipairs(KEYS) do
  local row = seen[key]
  if not row then
    local found = redis.pcall('HMGET', key, 'version', 'first-write')
    row = {false, false, found.err}
    if not found.err then
      row = {found[1], found[2], false}
    end
    seen[key] = row
  end
  local kind, wanted = ARGV[4 * i - 2], ARGV[4 * i - 1]
  local version = row[1]
  if kind == 's' then
    if version and version ~= '' and version ~= wanted and (row[2] or wanted ~= '0') then
      return i
    end
    local number = tonumber(version or '0')
    if version and version ~= '' and not number then
      return redis.error_reply('ERR the version of an existing value is not a number')
    end
    seen[key] = {string.format('%.0f', (number or 0) + 1), row[2], false}
  else
    if wanted ~= '0' and (row[3] or (version and version ~= wanted)) then
      return i
    end
    seen[key] = {false, false, false}
  end
end
if ARGV[1] == 'check' then
  return 0
end
for i, key in ipairs(KEYS) do
  if ARGV[4 * i - 2] == 'd' then
    redis.call('DEL', key)
  else
    if redis.call('TYPE', key).ok ~= 'hash' then
      redis.call('DEL', key)
    end
    redis.call('HSET', key, 'data', ARGV[4 * i])
    redis.call('HINCRBY', key, 'version', 1)
    local ttl = ARGV[4 * i + 1]
    if ttl == '0' then
      redis.call('PERSIST', key)
    elseif ttl ~= '' then
      redis.call('EXPIRE', key, ttl)
    end
  end
end
return 0
""")


def _ttl(text: str) -> int | None:
    return int(text) if text.strip() else None


@dataclass(frozen=True, slots=True)
class RedisStateSettings(RedisSettings):
    """Metadata of `state.redis`."""

    ttl_in_seconds: int | None = setting(None, parse=_ttl, help="time to live of values saved without one")
    query_indexes: str = setting("", help="indexes of the query API, which needs the search module")


class RedisState:
    """The Redis state store."""

    Settings = RedisStateSettings
    features = frozenset({Feature.ETAG, Feature.TRANSACTIONAL, Feature.TTL, Feature.KEYS_LIKE})
    max_operations = 0

    def __init__(self, settings: RedisStateSettings, context: Context) -> None:
        self._settings = settings
        self._client = RedisClient(settings, f"component {context.name}")
        default = settings.ttl_in_seconds
        self._default_ttl: str | int = "" if default is None else max(default, 0)
        self._replicas = 0
        self._strong: dict[Link, Link] = {}
        """The connection for strong writes to the server of each shared link."""
        self._opening_strong = asyncio.Lock()

    async def open(self) -> None:
        await self._client.open()
        self._replicas = await self._count_replicas()

    async def ping(self) -> None:
        await self._client.ping()

    async def close(self) -> None:
        for link in self._strong.values():
            await link.close()
        self._strong.clear()
        await self._client.close()

    # --- operations ---

    async def get(self, request: Get) -> Found:
        key = request.key
        check_options("", request.consistency)
        try:
            data, version = await self._client.call(key, b"HMGET", key, b"data", b"version", safe=True)
        except RedisError as error:
            if error.code != "WRONGTYPE":
                raise
            return Found(key, await self._client.call(key, b"GET", key, safe=True))
        if data is None and version is None:
            return Found(key)
        if data is None or version is None:
            raise ComponentError(f"redis: the hash of key {key!r} lacks its field data or version")
        return Found(key, data, version.decode())

    async def bulk_get(self, requests: Sequence[Get]) -> list[Found]:
        """One command for each key, all in one write."""

        async def one(request: Get) -> Found:
            try:
                return await self.get(request)
            except ComponentError as error:
                return Found(request.key, error=str(error))

        return await asyncio.gather(*(one(request) for request in requests))

    async def set(self, request: Set) -> None:
        check_options(request.concurrency, request.consistency)
        version = _version(request)
        flag = 0 if request.concurrency == "first-write" else 1
        arguments = (version, request.value, flag, self._ttl_argument(request.metadata))
        if request.consistency == "strong" and self._replicas:
            done = await self._replicated(request.key, SET, arguments)
        else:
            done = await self._client.run(SET, (request.key,), arguments)
        if not done:
            raise _refusal(request)

    async def delete(self, request: Delete) -> None:
        check_options(request.concurrency, request.consistency)
        version = _version(request)
        if request.consistency == "strong" and self._replicas and version != "0":
            done = await self._replicated(request.key, DELETE, (version,))
        elif version == "0":
            await self._client.call(request.key, b"DEL", request.key)
            return
        else:
            done = await self._client.run(DELETE, (request.key,), (version,))
        if not done:
            raise EtagMismatch

    async def transact(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> None:
        """All or nothing, in one script. In a cluster that holds for the keys of one slot: conditions are examined in
        all slots before the first write, and examined again with it.
        """
        by_slot: dict[int, list[Operation]] = {}
        slots = self._client.is_cluster
        for operation in operations:
            check_options(operation.concurrency, operation.consistency)
            by_slot.setdefault(slot_of(operation.key) if slots else 0, []).append(operation)
        calls = [(group, *self._transaction(group)) for group in by_slot.values()]
        if len(calls) > 1:
            for group, keys, arguments in calls:
                _examine(group, await self._client.run(TRANSACT, keys, ("check", *arguments), safe=True))
        for group, keys, arguments in calls:
            _examine(group, await self._client.run(TRANSACT, keys, ("apply", *arguments)))

    async def keys_like(self, pattern: str, *, token: str = "", limit: int = 0) -> tuple[list[str], str]:
        """The token is the number of keys listed before."""
        if token and not (token.isascii() and token.isdigit() and len(token) < 10):
            raise ComponentError(f"keys like: the continuation token {token!r} is not one of this store's")
        found = await self._client.scan(like_to_redis_glob(pattern), limit=MAX_KEYS)
        keys = sorted(key.decode(errors="replace") for key in found)
        first = int(token or 0)
        page = keys[first : first + limit] if limit > 0 else keys[first:]
        after = first + len(page)
        return page, str(after) if after < len(keys) else ""

    # --- parts ---

    async def _count_replicas(self) -> int:
        [first, *_] = self._client.masters()
        try:
            told: bytes = await first.call("INFO", "replication", safe=True)
        except RedisError as error:
            if error.code != "NOPERM":
                raise
            log.warning("redis: strong writes will not wait for replicas: %s", error)
            return 0
        match = re.search(rb"^connected_slaves:(\d+)", told, re.MULTILINE)
        return int(match[1]) if match else 0

    def _ttl_argument(self, metadata: Mapping[str, str]) -> str | int:
        ttl = ttl_of(metadata) if metadata else None
        return self._default_ttl if ttl is None else max(ttl, 0)

    def _transaction(self, operations: Sequence[Operation]) -> tuple[list[str], list[bytes | str | int]]:
        arguments: list[bytes | str | int] = []
        for operation in operations:
            if isinstance(operation, Set):
                ttl = self._ttl_argument(operation.metadata)
                arguments += ("s", _version(operation), operation.value, ttl)
            else:
                arguments += ("d", _version(operation), b"", "")
        return [operation.key for operation in operations], arguments

    async def _replicated(self, key: str, script: Script, arguments: tuple[Any, ...]) -> Any:
        """Write, then wait for the replicas: WAIT is about the connection's own writes and holds up what follows it on
        the connection, so strong writes have one of their own.
        """
        shared = self._client.link_for(key)
        link = self._strong.get(shared)
        if link is None:
            async with self._opening_strong:
                link = self._strong.get(shared)
                if link is None:
                    link = self._strong[shared] = await self._client.own_link(key)
        written = link.call(b"EVALSHA", script.sha, 1, key, *arguments)
        waited = link.call("WAIT", self._replicas, REPLICATION_WAIT_MS, safe=True)
        outcomes: Sequence[Any] = await asyncio.gather(written, waited, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return outcomes[0]

    def __repr__(self) -> str:
        return f"<RedisState {self._client}>"


def _version(operation: Operation) -> str:
    """Return the number that the scripts compare; last-write ignores the ETag, in this store alone."""
    if not operation.etag or operation.concurrency == "last-write":
        return "0"
    if not (operation.etag.isascii() and operation.etag.isdigit() and len(operation.etag) <= 19):
        raise EtagInvalid(f"{operation.etag!r} is not a number")
    return operation.etag


def _refusal(request: Operation) -> ComponentError:
    if request.etag:
        return EtagMismatch()
    return ComponentError(f"failed to set key {request.key}: it was written with first-write before")


def _examine(operations: Sequence[Operation], refused: int) -> None:
    """Raise for the number that TRANSACT returned, unless it is 0."""
    if refused:
        operation = operations[refused - 1]
        raise EtagMismatch if isinstance(operation, Delete) else _refusal(operation)
