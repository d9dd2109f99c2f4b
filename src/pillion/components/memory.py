"""`state.in-memory`: a dictionary. For tests and first steps; what it holds ends with the process.

Knows: nothing but Python. It is also the shortest full answer to what `kinds.state` asks of a store.
"""

from __future__ import annotations

import heapq
import os
import random
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from pillion.clock import Clock, SystemClock, rfc3339
from pillion.components.like import like_to_regex
from pillion.errors import ComponentError, EtagMismatch
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
    escaped,
    ttl_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillion.kinds.component import Context


@dataclass(frozen=True, slots=True)
class MemoryStateSettings:
    """No settings of its own."""


@dataclass(slots=True)
class _Row:
    value: bytes
    etag: str
    expires: float | None
    """Seconds since 1970."""
    is_json: bool
    """Whether the value is a document; otherwise it is opaque, whatever its bytes are."""


class MemoryState:
    """The in-memory state store. Every call completes within its first step: nothing comes in between."""

    Settings = MemoryStateSettings
    features = frozenset(Feature) - {Feature.PARTITION_KEY}
    max_operations = 0

    def __init__(self, settings: MemoryStateSettings, context: Context, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._rows: dict[str, _Row] = {}
        self._expiries: list[tuple[float, str]] = []

    async def open(self) -> None:
        pass

    async def ping(self) -> None:
        pass

    async def close(self) -> None:
        self._rows.clear()
        self._expiries.clear()

    async def get(self, request: Get) -> Found:
        self._forget_expired()
        return self._find(request.key)

    async def bulk_get(self, requests: Sequence[Get]) -> list[Found]:
        self._forget_expired()
        return [self._find(request.key) for request in requests]

    async def set(self, request: Set) -> None:
        await self.transact((request,), request.metadata)

    async def delete(self, request: Delete) -> None:
        await self.transact((request,), request.metadata)

    async def transact(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> None:
        await self.transact_versions(operations, metadata)

    async def transact_versions(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> list[str | None]:
        self._forget_expired()
        before: dict[str, _Row | None] = {}
        versions: list[str | None] = []
        try:
            for operation in operations:
                before.setdefault(operation.key, self._rows.get(operation.key))
                self._apply(operation)
                row = self._rows.get(operation.key)
                versions.append(None if row is None else row.etag)
        except ComponentError:
            for key, row in before.items():
                self._put(key, row)
            raise
        return versions

    async def keys_like(self, pattern: str, *, token: str = "", limit: int = 0) -> tuple[list[str], str]:
        """The token is the last key of the page before."""
        matching = like_to_regex(pattern)
        self._forget_expired()
        keys = sorted(key for key in self._rows if matching.fullmatch(key))
        first = bisect_right(keys, token) if token else 0
        page = keys[first : first + limit] if limit > 0 else keys[first:]
        more = first + len(page) < len(keys)
        return page, page[-1] if page and more else ""

    async def query(self, request: Query) -> QueryResult:
        query = parse(request.document)
        self._forget_expired()
        head = len(request.prefix)
        own = [key for key in self._rows if key.startswith(request.prefix) and SEPARATOR not in key[head:]]

        def document(key: str) -> object:
            row = self._rows[key]
            return orjson.loads(row.value) if row.is_json else None

        page, token = select(query, own, key=str, document=document)
        return QueryResult([self._find(key) for key in page], token)

    async def delete_with_prefix(self, prefix: str) -> int:
        """Delete every key that begins with `prefix`; return how many."""
        self._forget_expired()
        doomed = [key for key in self._rows if key.startswith(prefix)]
        for key in doomed:
            del self._rows[key]
        return len(doomed)

    def _find(self, key: str) -> Found:
        row = self._rows.get(key)
        if row is None:
            return Found(key)
        metadata = {} if row.expires is None else {"ttlExpireTime": rfc3339(row.expires)}
        return Found(key, row.value, row.etag, metadata)

    def _apply(self, operation: Operation) -> None:
        check_options(operation.concurrency, operation.consistency)
        row = self._rows.get(operation.key)
        if operation.etag and (row is None or row.etag != operation.etag):
            raise EtagMismatch
        if isinstance(operation, Delete):
            self._put(operation.key, None)
            return
        if not operation.etag and operation.concurrency == "first-write" and row is not None:
            raise EtagMismatch
        ttl = ttl_of(operation.metadata)
        value = escaped(operation.value) if operation.is_json else operation.value
        expires = self._clock.now() + ttl if ttl and ttl > 0 else None
        self._put(operation.key, _Row(value, new_etag(), expires, operation.is_json))

    def _put(self, key: str, row: _Row | None) -> None:
        if row is None:
            self._rows.pop(key, None)
            return
        self._rows[key] = row
        if row.expires is not None:
            heapq.heappush(self._expiries, (row.expires, key))

    def _forget_expired(self) -> None:
        now = self._clock.now()
        while self._expiries and self._expiries[0][0] <= now:
            _, key = heapq.heappop(self._expiries)
            row = self._rows.get(key)
            if row is not None and row.expires is not None and row.expires <= now:
                del self._rows[key]
        # A key that is written again and again with a long TTL leaves its old entries behind: rebuild, do not grow.
        if len(self._expiries) > 64 + 2 * len(self._rows):
            self._expiries = [(row.expires, key) for key, row in self._rows.items() if row.expires is not None]
            heapq.heapify(self._expiries)

    def __repr__(self) -> str:
        return f"<MemoryState: {len(self._rows)} keys>"


def new_etag() -> str:
    """Return a random UUID, version 4 (RFC 9562, section 5.4), in its text form."""
    text = "%032x" % (_random_bits(128) & _FREE_BITS | _FIXED_BITS)
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


_random_bits = random.Random(os.urandom(32)).getrandbits
"""Unique, not secret: the system's own source would hand the interpreter to another thread each time."""
_FREE_BITS = ~(0xF << 76 | 0x3 << 62)
_FIXED_BITS = 0x4 << 76 | 0x2 << 62
"""Version and variant (RFC 9562, section 4)."""
