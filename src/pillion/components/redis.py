"""`state.redis`: values as hashes with the fields `data`, `version` and `first-write` (spec `components.md` 2.1).

Where the server has the JSON module, values whose request metadata say `contentType: application/json` are documents.

Knows: that layout. Never knows: its scripts in detail (`redis_scripts`), connections and topologies (`redis_client`).
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from pillion.components.like import like_to_redis_glob
from pillion.components.redis_client import RedisClient, Script, slot_of
from pillion.components.redis_link import Link, RedisError
from pillion.components.redis_query import Index, found_rows, read_indexes
from pillion.components.redis_scripts import DELETE, SET, SET_JSON, TRANSACT
from pillion.components.redis_settings import RedisSettings
from pillion.errors import ComponentError, EtagInvalid, EtagMismatch, QueryInvalid, TokenInvalid
from pillion.kinds.component import setting, whole
from pillion.kinds.keys import SEPARATOR
from pillion.kinds.query import parse, select
from pillion.kinds.state import (
    Delete,
    Feature,
    Found,
    Get,
    Operation,
    Query,
    QueryResult,
    Set,
    check_options,
    ttl_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillion.kinds.component import Context

log = logging.getLogger("pillion.components.redis")

MAX_KEYS = 1_000_000
"""Keys that one listing may look at: SCAN gives no order, so they are all collected before they are sorted."""
REPLICATION_WAIT_MS = 1000
MAX_SEARCHED = 10_000
"""Rows that a search may find before they are held against the query itself; more is an error."""


def _ttl(text: str) -> int | None:
    return whole(text) if text.strip() else None


@dataclass(frozen=True, slots=True)
class RedisStateSettings(RedisSettings):
    """Metadata of `state.redis`."""

    ttl_in_seconds: int | None = setting(None, parse=_ttl, help="time to live of values saved without one")
    query_indexes: tuple[Index, ...] = setting(
        (), parse=read_indexes, help="indexes of the query API, which needs the modules for JSON and search"
    )


class RedisState:
    """The Redis state store."""

    Settings = RedisStateSettings
    features = frozenset({Feature.ETAG, Feature.TRANSACTIONAL, Feature.TTL, Feature.KEYS_LIKE})
    """`open` adds QUERY_API where there are indexes."""
    max_operations = 0

    def __init__(self, settings: RedisStateSettings, context: Context) -> None:
        self._settings = settings
        self._client = RedisClient(settings, f"component {context.name}")
        default = settings.ttl_in_seconds
        self._default_ttl: str | int = "" if default is None else max(default, 0)
        self._replicas = 0
        self._has_json = False
        self._strong: dict[Link, Link] = {}
        """The connection for strong writes to the server of each shared link."""
        self._opening_strong = asyncio.Lock()

    async def open(self) -> None:
        await self._client.open()
        self._replicas = await self._count_replicas()
        self._has_json = await self._probe_json()
        if self._settings.query_indexes:
            await self._make_indexes()
            self.features |= {Feature.QUERY_API}

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
        if request.metadata and self._wants_json(request.metadata) and (found := await self._get_json(key)) is not None:
            return found
        try:
            data, version = await self._client.call(key, b"HMGET", key, b"data", b"version", safe=True)
        except RedisError as error:
            if error.code != "WRONGTYPE":
                raise
            if self._has_json and (found := await self._get_json(key)) is not None:
                return found
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
        script = SET
        if request.metadata and self._wants_json(request.metadata):
            script = SET_JSON
            _check_json(request)
        if request.consistency == "strong" and self._replicas:
            done = await self._replicated(request.key, script, arguments)
        else:
            done = await self._client.run(script, (request.key,), arguments)
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
        calls = [(group, *self._transaction(group, metadata)) for group in by_slot.values()]
        if len(calls) > 1:
            for group, keys, arguments in calls:
                _examine(group, await self._client.run(TRANSACT, keys, ("check", *arguments), safe=True))
        for group, keys, arguments in calls:
            _examine(group, await self._client.run(TRANSACT, keys, ("apply", *arguments)))

    async def transact_versions(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> list[str | None]:
        """A version is a number that grows by one with each write: known where the one before was asked for."""
        await self.transact(operations, metadata)
        return [
            str(int(one.etag) + 1) if isinstance(one, Set) and one.etag and one.etag.isdigit() else None
            for one in operations
        ]

    async def keys_like(self, pattern: str, *, token: str = "", limit: int = 0) -> tuple[list[str], str]:
        """The token is the number of keys listed before."""
        if token and not (token.isascii() and token.isdigit() and len(token) < 10):
            raise TokenInvalid(f"keys like: the continuation token {token!r} is not one of this store's")
        found = await self._client.scan(like_to_redis_glob(pattern), limit=MAX_KEYS)
        keys = sorted(key.decode(errors="replace") for key in found)
        first = int(token or 0)
        page = keys[first : first + limit] if limit > 0 else keys[first:]
        after = first + len(page)
        return page, str(after) if after < len(keys) else ""

    async def query(self, request: Query) -> QueryResult:
        """Rows come from the index `queryIndexName` of the request's metadata."""
        query = parse(request.document)
        name = request.metadata.get("queryIndexName", "")
        index = next((one for one in self._settings.query_indexes if one.name == name), None)
        if index is None:
            raise QueryInvalid(f"there is no index {name!r}; the request's metadata queryIndexName names one")
        [link, *_] = self._client.masters()
        asked = ("FT.SEARCH", name, index.search(query.where), "RETURN", 2, "$.data", "$.version", "TIMEOUT", 0)
        # All at once: the order of a search is not the same from one window of it to the next.
        rows = found_rows(await link.call(*asked, "LIMIT", 0, MAX_SEARCHED + 1, "DIALECT", 2, safe=True))
        if len(rows) > MAX_SEARCHED:
            raise ComponentError(f"redis: the search finds more than {MAX_SEARCHED} rows; narrow the filter")
        head = len(request.prefix)
        own = [
            Found(key, data, version)
            for key, data, version in rows
            if data is not None and key.startswith(request.prefix) and SEPARATOR not in key[head:]
        ]
        page, token = select(query, own, key=lambda one: one.key, document=lambda one: orjson.loads(one.value or b""))
        return QueryResult(page, token)

    # --- parts ---

    async def _make_indexes(self) -> None:
        """Create the indexes anew, as the reference does: their keys may be others than before."""
        if not self._has_json or self._client.is_cluster:
            raise ComponentError("redis: queryIndexes need one server with the modules for JSON and search")
        [link, *_] = self._client.masters()
        for index in self._settings.query_indexes:
            try:
                await link.call("FT.DROPINDEX", index.name)
            except RedisError as error:
                if "unknown command" in str(error):
                    raise ComponentError(f"redis: queryIndexes need the module for search: {error}") from error
                log.debug("redis: there was no index %s: %s", index.name, error)
            await link.call(*index.command())

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

    def _transaction(
        self, operations: Sequence[Operation], metadata: Mapping[str, str]
    ) -> tuple[list[str], list[bytes | str | int]]:
        arguments: list[bytes | str | int] = []
        for operation in operations:
            if isinstance(operation, Set):
                ttl = self._ttl_argument(operation.metadata)
                as_json = self._wants_json(operation.metadata) or self._wants_json(metadata)
                if as_json:
                    _check_json(operation)
                wanted = (
                    "first" if not operation.etag and operation.concurrency == "first-write" else _version(operation)
                )
                arguments += ("json" if as_json else "hash", wanted, operation.value, ttl)
            else:
                arguments += ("delete", _version(operation), b"", "")
        return [operation.key for operation in operations], arguments

    def _wants_json(self, metadata: Mapping[str, str]) -> bool:
        if not self._has_json or not metadata:
            return False
        return any(key.lower() == "contenttype" and value == "application/json" for key, value in metadata.items())

    async def _get_json(self, key: str) -> Found | None:
        """Return a document's data; None when the value is no document of ours."""
        try:
            text = await self._client.call(key, b"JSON.GET", key, b"$.data", b"$.version", safe=True)
        except RedisError:
            return None  # the module has no error code for "another type"; the caller looks for a hash then
        if text is None:
            return Found(key)
        found = orjson.loads(text)
        data, version = found.get("$.data"), found.get("$.version")
        if not data or not version:
            raise ComponentError(f"redis: the document of key {key!r} lacks its member data or version")
        return Found(key, orjson.dumps(data[0]), str(version[0]))

    async def _probe_json(self) -> bool:
        """Tell whether the server has the JSON module: then it misses an argument, not the command."""
        [first, *_] = self._client.masters()
        try:
            await first.call("JSON.GET", safe=True)
        except RedisError as error:
            return "unknown command" not in str(error) and error.code != "NOPERM"
        return True

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
        outcome = await link.call(b"EVALSHA", script.sha, 1, key, *arguments)
        # Only now: a script that the server did not know has been sent again, behind all that was sent with it.
        await link.call("WAIT", self._replicas, REPLICATION_WAIT_MS, safe=True)
        return outcome

    def __repr__(self) -> str:
        return f"<RedisState {self._client}>"


def _version(operation: Operation) -> str:
    """Return the number that the scripts compare; last-write ignores the ETag, in this store alone."""
    if not operation.etag or operation.concurrency == "last-write":
        return "0"
    if not (operation.etag.isascii() and operation.etag.isdigit() and len(operation.etag) <= 19):
        raise EtagInvalid(f"{operation.etag!r} is not a number")
    return operation.etag


def _check_json(request: Set) -> None:
    """Raise unless the value is one JSON text: the script puts it between the braces of a document."""
    try:
        orjson.loads(request.value)
    except orjson.JSONDecodeError as error:
        raise ComponentError(f"the value of key {request.key} is not JSON, as its contentType says: {error}") from error


def _refusal(request: Operation) -> ComponentError:
    if request.etag:
        return EtagMismatch()
    return ComponentError(f"failed to set key {request.key}: it was written with first-write before")


def _examine(operations: Sequence[Operation], refused: int) -> None:
    """Raise for the number that TRANSACT returned, unless it is 0."""
    if refused:
        operation = operations[refused - 1]
        raise EtagMismatch if isinstance(operation, Delete) else _refusal(operation)
