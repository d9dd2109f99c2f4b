"""`state.postgresql`: version 1 keeps values as jsonb, version 2 as bytes (spec `components.md` 2.2).

Knows: the statements of both. Never knows: their columns (`postgresql_layouts`) and connections (`postgresql_pool`).
"""

from __future__ import annotations

import asyncio
import base64
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass
from datetime import UTC, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import orjson

from pillion.clock import rfc3339
from pillion.components.gathered import Gathered
from pillion.components.like import check_like
from pillion.components.postgresql_layouts import Layout, layout_1, layout_2
from pillion.components.postgresql_pool import PostgresPool, PostgresSettings, identifier, touched
from pillion.components.postgresql_query import PostgresDialect
from pillion.errors import ComponentError, EtagInvalid, EtagMismatch, TokenInvalid
from pillion.kinds.component import Context, seconds, setting
from pillion.kinds.query import parse
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
    like_prefix,
    ttl_of,
)
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger("pillion.components.postgresql")

LARGE = 64 << 10
"""Values of more bytes are written by a statement of their own."""
_BY_KEY = 'key COLLATE "C"'
MIGRATION_S = 60.0
"""How long one process waits for another that prepares the tables."""
_MADE_MEANWHILE = (
    asyncpg.UniqueViolationError,
    asyncpg.DuplicateTableError,
    asyncpg.DuplicateColumnError,
    asyncpg.DuplicateObjectError,
)
"""What `IF NOT EXISTS` meets when another process was quicker: it looks before it takes its place in the catalogue."""


def _interval(text: str) -> float:
    return seconds(text) if text.strip() else 3600.0


@dataclass(frozen=True, slots=True)
class PostgresStateSettings(PostgresSettings):
    """Metadata of both versions."""

    metadata_table_name: str = setting("dapr_metadata", help="table of migrations and clean-up")
    cleanup_interval: float = setting(
        3600.0,
        aliases=("cleanupIntervalInSeconds",),
        parse=_interval,
        help="how often expired rows are removed; 0: never",
    )


@dataclass(frozen=True, slots=True)
class PostgresState1Settings(PostgresStateSettings):
    """Metadata of version 1."""

    table_name: str = setting("state", help="table of the values")


@dataclass(frozen=True, slots=True)
class PostgresState2Settings(PostgresStateSettings):
    """Metadata of version 2."""

    table_prefix: str = setting("", help="the values are in <tablePrefix>state")


_Row = tuple[str, "str | bytes", "int | None", bool]
"""Key, value, seconds to live, flag."""


class _PostgresState(ABC):
    """What both versions share."""

    features = frozenset({Feature.ETAG, Feature.TRANSACTIONAL, Feature.TTL, Feature.KEYS_LIKE})
    max_operations = 0

    def __init__(self, settings: PostgresStateSettings, context: Context, layout: Layout) -> None:
        self._settings = settings
        self._where = f"component {context.name}"
        self._pool = PostgresPool(settings, self._where)
        self._tasks = Tasks(self._where)
        self._reads: Gathered[str, Found] = Gathered(self._where, self._find)
        self._writes: Gathered[_Row, ComponentError | None] = Gathered(self._where, self._write)
        self._layout = layout
        self._statements(layout)

    def _statements(self, layout: Layout) -> None:
        table, expires = layout.table, layout.expires
        alive = f"({expires} IS NULL OR {expires} > CURRENT_TIMESTAMP)"
        self._select = (
            f"SELECT key, {layout.value} AS value, {layout.flag} AS flag, {layout.etag} AS etag, {expires} AS expires"
            f" FROM {table} WHERE key = ANY($1::text[]) AND {alive}"
        )
        self._upsert, self._insert_first, self._update = {}, {}, {}
        for flag in (False, True):
            literal = "true" if flag else "false"
            insert, change = layout.insert.format(flag=literal), layout.update.format(flag=literal)
            upsert = f"INSERT INTO {table} AS old {insert} ON CONFLICT (key) DO UPDATE SET {change}"
            self._upsert[flag] = upsert
            self._insert_first[flag] = (
                f"{upsert} WHERE old.{expires} IS NOT NULL AND old.{expires} <= CURRENT_TIMESTAMP"
            )
            self._update[flag] = f"UPDATE {table} SET {change} WHERE key = $1 AND {layout.etag} = $4 AND {alive}"
        self._upsert_many = f"INSERT INTO {table} AS old {layout.many}"
        self._delete = f"DELETE FROM {table} WHERE key = $1"
        self._delete_version = f"DELETE FROM {table} WHERE key = $1 AND {layout.etag} = $2 AND {alive}"
        self._keys = (
            f"SELECT row_id, key FROM {table} WHERE key LIKE $1 AND row_id > $2 AND {alive} ORDER BY row_id LIMIT $3"
        )
        self._claim_cleanup = (
            f"INSERT INTO {layout.metadata} AS old (key, value) VALUES ($1, CURRENT_TIMESTAMP::text)"
            " ON CONFLICT (key) DO UPDATE SET value = CURRENT_TIMESTAMP::text WHERE"
            " old.value::timestamptz < CURRENT_TIMESTAMP - $2::interval"
        )
        self._cleanup = f"DELETE FROM {table} WHERE {expires} IS NOT NULL AND {expires} <= CURRENT_TIMESTAMP"

    async def open(self) -> None:
        await self._pool.open()
        await self._prepare()
        if self._settings.cleanup_interval > 0:
            self._tasks.keep(partial(self._clean_regularly, self._settings.cleanup_interval), "clean-up")

    async def ping(self) -> None:
        await self._pool.fetch("SELECT 1")

    async def close(self) -> None:
        await self._tasks.close()
        await self._reads.close()
        await self._writes.close()
        await self._pool.close()

    # --- operations ---

    async def get(self, request: Get) -> Found:
        check_options("", request.consistency)
        _check_key(request.key)
        found = await self._reads.get(request.key)
        if found.error:
            raise ComponentError(found.error)
        return found

    async def bulk_get(self, requests: Sequence[Get]) -> list[Found]:
        keys = [request.key for request in requests]
        for key in keys:
            _check_key(key)
        return await self._find(keys) if keys else []

    async def set(self, request: Set) -> None:
        plain = not request.etag and request.concurrency != "first-write" and len(request.value) <= LARGE
        if not plain:
            self._check(request, await self._pool.execute(*self._command(request)))
            return
        check_options(request.concurrency, request.consistency)
        _check_key(request.key)
        ttl = ttl_of(request.metadata)
        flag, value = self._encode(request)
        if (error := await self._writes.get((request.key, value, ttl if ttl and ttl > 0 else None, flag))) is not None:
            raise error

    async def delete(self, request: Delete) -> None:
        self._check(request, await self._pool.execute(*self._command(request)))

    async def transact(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> None:
        # Every transaction takes its row locks in the order of the keys, so that two of them cannot deadlock. The
        # sort is stable: operations on the same key keep their order, and no others can be told apart afterwards.
        ordered = sorted(operations, key=lambda operation: operation.key)
        commands = [(operation, self._command(operation)) for operation in ordered]
        if len(commands) == 1:
            [(operation, command)] = commands
            self._check_part(operation, await self._pool.execute(*command))
            return

        async def apply(connection: Any) -> None:
            for operation, command in commands:
                self._check_part(operation, touched(await connection.execute(*command)))

        if commands:
            await self._pool.transaction(apply)

    async def keys_like(self, pattern: str, *, token: str = "", limit: int = 0) -> tuple[list[str], str]:
        """The token is the row id of the last key of the page before."""
        if token and not (token.isascii() and token.isdigit() and len(token) <= 18):
            raise TokenInvalid(f"keys like: the continuation token {token!r} is not one of this store's")
        most = limit + 1 if limit > 0 else None
        rows = await self._pool.fetch(self._keys, check_like(pattern), int(token or 0), most)
        page = rows[:limit] if limit > 0 else rows
        return [row["key"] for row in page], str(page[-1]["row_id"]) if len(rows) > len(page) else ""

    # --- parts ---

    async def _find(self, keys: list[str]) -> list[Found]:
        rows = {row["key"]: row for row in await self._pool.fetch(self._select, keys)}
        return [self._found(rows[key]) if key in rows else Found(key) for key in keys]

    async def _write(self, rows: list[_Row]) -> list[ComponentError | None]:
        """Write rows without conditions by one statement, that is all or none. A value that the server refuses makes it
        fail; then each row is written alone. Of several rows with one key the last stays.
        """
        last = {row[0]: row for row in rows}
        try:
            await self._pool.execute(self._upsert_many, *map(list, zip(*last.values(), strict=True)))
        except ComponentError as error:
            refused = isinstance(error.__cause__, asyncpg.DataError)
            if not refused or len(rows) == 1:
                raise
            return [await self._write_alone(row) for row in rows]
        return [None] * len(rows)

    async def _write_alone(self, row: _Row) -> ComponentError | None:
        key, value, ttl, flag = row
        try:
            await self._pool.execute(self._upsert[flag], key, value, ttl)
        except ComponentError as error:
            return error
        return None

    def _command(self, operation: Operation) -> tuple[Any, ...]:
        """Return the statement of an operation and its arguments."""
        check_options(operation.concurrency, operation.consistency)
        etag = self._etag(operation.etag) if operation.etag else None
        if isinstance(operation, Delete):
            return (self._delete, operation.key) if etag is None else (self._delete_version, operation.key, etag)
        ttl = ttl_of(operation.metadata)
        flag, value = self._encode(operation)
        values = (operation.key, value, ttl if ttl and ttl > 0 else None)
        if etag is not None:
            return (self._update[flag], *values, etag)
        if operation.concurrency == "first-write":
            return (self._insert_first[flag], *values)
        return (self._upsert[flag], *values)

    def _check(self, operation: Operation, rows: int) -> None:
        if rows:
            return
        if operation.etag:
            raise EtagMismatch
        if isinstance(operation, Set):
            raise ComponentError("no item was updated")

    def _check_part(self, operation: Operation, rows: int) -> None:
        """As `_check`, for one of a transaction: callers have to tell a row that was there already from an outage. For
        single values the reference answers a plain error, and so do we (spec `components.md` 2.2).
        """
        if not rows and isinstance(operation, Set):
            raise EtagMismatch("no item was updated")
        self._check(operation, rows)

    def _found(self, row: Any) -> Found:
        expires = row["expires"]
        metadata = {} if expires is None else {"ttlExpireTime": rfc3339(expires.astimezone(UTC).timestamp())}
        try:
            return Found(row["key"], self._decode(row["value"], row["flag"]), row["etag"], metadata)
        except ValueError:
            return Found(row["key"], error=f"the stored value of key {row['key']!r} is not base64")

    @abstractmethod
    def _etag(self, text: str) -> str:
        """Return the ETag as the statement compares it; raises `EtagInvalid` or `EtagMismatch`."""

    @abstractmethod
    def _encode(self, request: Set) -> tuple[bool, str | bytes]:
        """Return the flag and the value for the statement."""

    @abstractmethod
    def _decode(self, value: Any, flag: bool) -> bytes:
        """Return the value as it was given to `set`; raises ValueError."""

    # --- tables ---

    async def _prepare(self) -> None:
        """Bring the tables up to date while no other process does: it holds the row `lock` of the metadata table. The
        transaction that holds it is rolled back; the migrations run beside it.
        """
        meta = self._layout.metadata
        await self._create(f"CREATE TABLE IF NOT EXISTS {meta} (key text NOT NULL PRIMARY KEY, value text NOT NULL)")
        await self._pool.execute(
            f"INSERT INTO {meta} (key, value) VALUES ('lock', 'lock') ON CONFLICT (key) DO NOTHING"
        )
        async with self._pool.connection() as holder:
            lock = holder.transaction()
            await lock.start()
            try:
                await holder.fetch(f"SELECT value FROM {meta} WHERE key = 'lock' FOR UPDATE", timeout=MIGRATION_S)
                await self._migrate()
            finally:
                await lock.rollback()

    async def _migrate(self) -> None:
        layout = self._layout
        [row] = await self._pool.fetch("SELECT to_regclass($1) IS NOT NULL AS made", layout.table)
        levels = await self._pool.fetch(f"SELECT value FROM {layout.metadata} WHERE key = $1", layout.level_key)
        level = levels[0]["value"] if levels else "0"
        if not level.isdigit():
            raise ComponentError(f"postgresql: the migration level {level!r} is not a number")
        # The level of version 1 is kept once for all its tables: a second table is missing at any level.
        done = int(level) if row["made"] else 0
        try:
            for statements in layout.steps[done:]:
                for statement in statements:
                    await self._create(statement)
        except ComponentError as error:
            if not isinstance(error.__cause__, asyncpg.UndefinedColumnError):
                raise
            raise ComponentError(
                f"postgresql: the table {layout.table} exists and has other columns: a table of another version? Give"
                " another tableName (v1) or tablePrefix (v2)"
            ) from error
        if int(level) < len(layout.steps):
            await self._pool.execute(
                f"INSERT INTO {layout.metadata} VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = $2",
                layout.level_key,
                str(len(layout.steps)),
            )

    async def _create(self, statement: str) -> None:
        """Execute a CREATE … IF NOT EXISTS, again if another process was quicker: they can collide in the catalogue."""
        try:
            await self._pool.execute(statement)
        except ComponentError as error:
            if not isinstance(error.__cause__, _MADE_MEANWHILE):
                raise
            await self._pool.execute(statement)

    async def _clean_regularly(self, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.clean_up(interval_s)
            except ComponentError as error:
                log.warning("%s: expired rows could not be removed: %s", self._where, error)

    async def clean_up(self, interval_s: float) -> int:
        """Remove expired rows unless another process did so within the interval; return how many went."""

        async def clean(connection: Any) -> int:
            # 100 ms of slack: two timers of the same interval never agree exactly (spec `components.md` 2.2).
            pause = timedelta(seconds=max(interval_s - 0.1, 0.0))
            if not touched(await connection.execute(self._claim_cleanup, self._layout.cleanup_key, pause)):
                return 0
            return touched(await connection.execute(self._cleanup))

        return await self._pool.transaction(clean)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} table {self._layout.table}, {self._pool}>"


def _check_key(key: str) -> None:
    """Raise for a key that the server refuses: alone, it would spoil the question that it is gathered into."""
    if "\0" in key:
        raise ComponentError("postgresql: a key must not contain the character U+0000")


class PostgresState1(_PostgresState):
    """Version 1: jsonb."""

    Settings = PostgresState1Settings
    features = _PostgresState.features | {Feature.QUERY_API}

    def __init__(self, settings: PostgresState1Settings, context: Context) -> None:
        where = f"component {context.name}"
        table = identifier(settings.table_name, "tableName", where=where)
        metadata = identifier(settings.metadata_table_name, "metadataTableName", where=where)
        super().__init__(settings, context, layout_1(table, metadata))

    async def query(self, request: Query) -> QueryResult:
        query = parse(request.document)
        prefix, layout = request.prefix, self._layout
        made = PostgresDialect(like_prefix(prefix), len(prefix) + 1)
        statement = (
            f"SELECT key, value::text AS value, flag, etag, expires FROM (SELECT key, value, {layout.flag} AS flag,"
            f" {layout.etag} AS etag, {layout.expires} AS expires, CASE WHEN isbinary THEN NULL ELSE value END AS doc"
            f" FROM {layout.table} WHERE key LIKE $1 AND strpos(substr(key, $2::integer), '||') = 0"
            f" AND ({layout.expires} IS NULL OR {layout.expires} > CURRENT_TIMESTAMP)) AS own"
            f" WHERE {made.where(query.where)}"
            f" ORDER BY {made.order(query.order, _BY_KEY)}"
            f" LIMIT {made.parameter(query.limit + 1)}::bigint OFFSET {made.parameter(query.offset)}::bigint"
        )
        rows = await self._pool.fetch(statement, *made.parameters)
        page = [self._found(row) for row in rows[: query.limit]]
        return QueryResult(page, query.token(len(page), len(rows) > len(page)))

    def _etag(self, text: str) -> str:
        if text.isascii() and text.isdigit() and int(text[:11]) < 2**32:
            return text
        raise EtagInvalid(f"{text!r} is not a number of 32 bits")

    def _encode(self, request: Set) -> tuple[bool, str | bytes]:
        if request.is_json:
            return False, escaped(request.value).decode()
        return True, f'"{base64.b64encode(request.value).decode()}"'

    def _decode(self, value: Any, flag: bool) -> bytes:
        if not flag:
            return str(value).encode()
        text = orjson.loads(value)
        if not isinstance(text, str):
            raise ValueError("not a string")
        return base64.b64decode(text, validate=True)


class PostgresState2(_PostgresState):
    """Version 2: bytes."""

    Settings = PostgresState2Settings

    def __init__(self, settings: PostgresState2Settings, context: Context) -> None:
        where = f"component {context.name}"
        identifier(f"{settings.table_prefix}state", "tablePrefix", where=where)
        metadata = identifier(settings.metadata_table_name, "metadataTableName", where=where)
        super().__init__(settings, context, layout_2(settings.table_prefix, metadata))

    def _etag(self, text: str) -> str:
        try:
            return str(UUID(text))
        except ValueError:
            raise EtagMismatch from None

    def _encode(self, request: Set) -> tuple[bool, str | bytes]:
        return False, escaped(request.value) if request.is_json else request.value

    def _decode(self, value: Any, flag: bool) -> bytes:
        return bytes(value)
