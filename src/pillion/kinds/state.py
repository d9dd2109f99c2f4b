"""State stores: what a block asks of one, and what it may answer (spec `components.md` 2, `http-api.md` 4.2)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pillion.errors import ComponentError
from pillion.kinds.component import Component
from pillion.wire.gojson import escaped as escaped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Feature(StrEnum):
    """What a store declares; a declared feature is a tested feature. The text is the capability name of `/metadata`."""

    ETAG = "ETAG"
    TRANSACTIONAL = "TRANSACTIONAL"
    QUERY_API = "QUERY_API"
    TTL = "TTL"
    DELETE_WITH_PREFIX = "DELETE_WITH_PREFIX"
    KEYS_LIKE = "KEYS_LIKE"
    PARTITION_KEY = "PARTITION_KEY"


@dataclass(slots=True)
class Get:
    """Read one key. `consistency` is "", "eventual" or "strong"."""

    key: str
    consistency: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Found:
    """What was read. `value` None: no such key (then all else is empty). `error` is set in bulk reads alone.

    `metadata` holds `ttlExpireTime` (RFC 3339, UTC) when the row expires and the store can tell.
    """

    key: str
    value: bytes | None = None
    etag: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


@dataclass(slots=True)
class Set:
    """Write one key.

    `is_json` tells that `value` is compact JSON text with sorted keys, made from a JSON document (HTTP); stores that
    escape `<`, `>` and `&` apply `escaped`. Otherwise `value` is opaque bytes (gRPC). `etag` None or "" means absent.
    `concurrency` is "", "first-write" or "last-write". `metadata["ttlInSeconds"]` is read by `ttl_of`.
    """

    key: str
    value: bytes
    etag: str | None = None
    concurrency: str = ""
    consistency: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    content_type: str = ""
    is_json: bool = False


@dataclass(slots=True)
class Delete:
    """Delete one key; deleting what is not there is no error unless an `etag` is given."""

    key: str
    etag: str | None = None
    concurrency: str = ""
    consistency: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


Operation = Set | Delete


@dataclass(slots=True)
class Query:
    """A query document as sent by the client: JSON text of `{"filter", "sort", "page"}`.

    Rows are asked for whose key is `prefix` and then text without `||`: those of one application.
    """

    document: bytes
    metadata: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""


@dataclass(slots=True)
class QueryResult:
    """Rows of a query and the token of the next page ("" at the end)."""

    items: list[Found]
    token: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


@runtime_checkable
class StateStore(Component, Protocol):
    """A key-value store. Keys come with their prefix already applied.

    `set` and `delete` raise `EtagMismatch`, `EtagInvalid` or `ComponentError`. A returned call is durable in the
    store's own sense.
    """

    features: frozenset[Feature]

    async def get(self, request: Get) -> Found: ...

    async def set(self, request: Set) -> None: ...

    async def delete(self, request: Delete) -> None: ...


@runtime_checkable
class BulkGetStore(StateStore, Protocol):
    """A store that reads many keys at once; every requested key is answered, in any order."""

    async def bulk_get(self, requests: Sequence[Get]) -> list[Found]: ...


@runtime_checkable
class TransactionalStore(StateStore, Protocol):
    """A store that applies a list of operations all or none, in order.

    `max_operations` 0 means no limit.
    """

    max_operations: int

    async def transact(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> None: ...


@runtime_checkable
class VersionedStore(TransactionalStore, Protocol):
    """A store that can tell which ETags a transaction has made: its caller need not read them again."""

    async def transact_versions(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> list[str | None]:
        """As `transact`. The new ETag for each operation, None for a deletion and where the store cannot tell."""


@runtime_checkable
class QueryStore(StateStore, Protocol):
    """A store that answers the query API."""

    async def query(self, request: Query) -> QueryResult: ...


@runtime_checkable
class KeysStore(StateStore, Protocol):
    """A store that lists its keys by a SQL LIKE pattern (`\\` escapes), paged.

    An empty pattern raises `ComponentError`, a token that the store did not give `TokenInvalid`.
    """

    async def keys_like(self, pattern: str, *, token: str = "", limit: int = 0) -> tuple[list[str], str]: ...


def like_prefix(text: str) -> str:
    """Return the LIKE pattern of the keys that begin with `text`."""
    for special in "\\%_":
        text = text.replace(special, f"\\{special}")
    return f"{text}%"


def ttl_of(metadata: Mapping[str, str]) -> int | None:
    """Return `ttlInSeconds` (key in any case): None when absent, -1 or 0 for no expiry, else seconds.

    Raises `ComponentError` for anything that is not an integer from -1 to 2^31-1.
    """
    if not metadata:
        return None
    text = metadata.get("ttlInSeconds")
    if text is None:
        text = next((value for key, value in metadata.items() if key.lower() == "ttlinseconds"), None)
    if text is None or text == "":
        return None
    try:
        ttl = int(text)
    except ValueError:
        raise ComponentError(f"error parsing TTL: ttlInSeconds {text!r} is not an integer") from None
    if not -1 <= ttl < 2**31:
        raise ComponentError(f"error parsing TTL: ttlInSeconds {ttl} is outside -1 to {2**31 - 1}")
    return ttl


def check_options(concurrency: str, consistency: str) -> None:
    """Raise `ComponentError` for an unknown concurrency or consistency."""
    if concurrency not in ("", "first-write", "last-write"):
        raise ComponentError(f"unrecognized concurrency type '{concurrency}'")
    if consistency not in ("", "strong", "eventual"):
        raise ComponentError(f"unrecognized consistency type '{consistency}'")
