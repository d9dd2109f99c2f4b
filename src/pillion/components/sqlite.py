"""`state.sqlite`: the state store in one file (spec `components.md` 2.2), durable and shared by several processes.

Knows: the tables and their statements, which are those of the reference, so that either can open the other's file.
Never knows: threads and transactions; `sqlite_engine` does.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from pillion.components.like import like_to_sqlite_glob
from pillion.components.memory import new_etag
from pillion.components.sqlite_engine import Engine, Location, open_engine
from pillion.components.sqlite_query import SqliteDialect
from pillion.errors import ComponentError, ConfigError, EtagMismatch, TokenInvalid
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
    import sqlite3
    from collections.abc import Mapping, Sequence

log = logging.getLogger("pillion.components.sqlite")

LEVEL = 1
"""Migrations that this layout stands for; kept as text in the metadata table under `migrations`."""

_ALIVE = "(expiration_time IS NULL OR expiration_time > CURRENT_TIMESTAMP)"
_ROWS = (64, 32, 16, 8, 4, 2, 1)
"""Numbers of values that one INSERT writes: each statement hands the interpreter over to other threads once."""
_CHUNKS = (1, 8, 64, 512)
"""Numbers of keys that one SELECT asks for: few different statements, so that each stays prepared."""


def _timeout(text: str) -> float:
    value = seconds(text)
    if value < 1:
        raise ValueError("must be 1s or more")
    return value


@dataclass(frozen=True, slots=True)
class SqliteStateSettings:
    """Metadata of `state.sqlite`."""

    connection_string: str = setting(aliases=("url",), secret=True, help="path or file: URI of the database")
    timeout: float = setting(
        20.0, aliases=("timeoutInSeconds",), parse=_timeout, help="wait of one request, 1s or more"
    )
    busy_timeout: float = setting(2.0, parse=seconds, help="wait for another process's transaction")
    disable_wal: bool = setting(False, key="disableWAL", help="rollback journal instead of WAL, for network disks")
    table_name: str = setting("state", help="table of the values")
    metadata_table_name: str = setting("metadata", help="table of migrations and clean-up")
    cleanup_interval: float = setting(
        0.0,
        aliases=("cleanupIntervalInSeconds",),
        parse=seconds,
        help="how often expired rows are removed; 0: never",
    )


@dataclass(slots=True)
class _Write:
    """One operation, checked and encoded on the caller's side. `value` None is a deletion."""

    key: str
    value: str | None
    is_binary: bool
    etag: str | None
    first_write: bool
    ttl_s: int | None
    new_etag: str

    @classmethod
    def of(cls, operation: Operation, new_etag: str) -> _Write:
        if operation.concurrency or operation.consistency:
            check_options(operation.concurrency, operation.consistency)
        etag = operation.etag or None
        if isinstance(operation, Delete):
            return cls(operation.key, None, False, etag, False, None, new_etag)
        ttl = ttl_of(operation.metadata) if operation.metadata else None
        value = escaped(operation.value) if operation.is_json else binascii.b2a_base64(operation.value, newline=False)
        return cls(
            operation.key,
            value.decode(),
            not operation.is_json,
            etag,
            operation.concurrency == "first-write",
            ttl if ttl and ttl > 0 else None,
            new_etag,
        )

    @property
    def is_plain(self) -> bool:
        """Whether this overwrites whatever is there."""
        return self.value is not None and self.etag is None and not self.first_write

    @property
    def expiry(self) -> str | None:
        """The modifier of `datetime` that tells when the value goes."""
        return None if self.ttl_s is None else f"+{self.ttl_s} seconds"


class SqliteState:
    """The SQLite state store."""

    Settings = SqliteStateSettings
    features = frozenset({Feature.ETAG, Feature.TRANSACTIONAL, Feature.TTL, Feature.KEYS_LIKE, Feature.QUERY_API})
    max_operations = 0

    def __init__(self, settings: SqliteStateSettings, context: Context) -> None:
        self._settings = settings
        self._where = f"component {context.name}"
        self._location = Location.parse(settings.connection_string, disable_wal=settings.disable_wal)
        for name in (settings.table_name, settings.metadata_table_name):
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                raise ConfigError(f"table name {name!r} is not an identifier", where=self._where)
        self._tasks = Tasks(self._where)
        self._engine: Engine | None = None
        self._statements(settings.table_name, settings.metadata_table_name)

    def _statements(self, table: str, metadata: str) -> None:
        self._make_metadata = (
            f"CREATE TABLE IF NOT EXISTS {metadata} (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)"
        )
        # The reference reads by position in places: this order of the columns is part of the layout.
        self._make_state = (
            f"CREATE TABLE {table} (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL, is_binary BOOLEAN NOT NULL,"
            " etag TEXT NOT NULL, expiration_time TIMESTAMP DEFAULT NULL,"
            " update_time TIMESTAMP DEFAULT CURRENT_TIMESTAMP)"
        )
        self._level = f"SELECT value FROM {metadata} WHERE key = 'migrations'"
        self._set_level = f"INSERT OR REPLACE INTO {metadata} (key, value) VALUES ('migrations', ?)"
        self._upserts = {
            size: f"INSERT INTO {table} (key, value, is_binary, etag, expiration_time, update_time) VALUES "
            + ", ".join(["(?, ?, ?, ?, datetime('now', ?), CURRENT_TIMESTAMP)"] * size)
            + " ON CONFLICT (key) DO UPDATE SET value = excluded.value, is_binary = excluded.is_binary,"
            " etag = excluded.etag, expiration_time = excluded.expiration_time, update_time = excluded.update_time"
            for size in _ROWS
        }
        self._insert_first = (
            f"{self._upserts[1]} WHERE {table}.expiration_time IS NOT NULL"
            f" AND {table}.expiration_time <= CURRENT_TIMESTAMP"
        )
        self._update = (
            f"UPDATE {table} SET value = ?, is_binary = ?, etag = ?, expiration_time = datetime('now', ?),"
            f" update_time = CURRENT_TIMESTAMP WHERE key = ? AND etag = ? AND {_ALIVE}"
        )
        self._delete = f"DELETE FROM {table} WHERE key = ?"
        self._delete_version = f"DELETE FROM {table} WHERE key = ? AND etag = ? AND {_ALIVE}"
        columns = "key, value, is_binary, etag, strftime('%Y-%m-%dT%H:%M:%SZ', expiration_time)"
        self._select = {
            size: f"SELECT {columns} FROM {table} WHERE key IN ({','.join('?' * size)}) AND {_ALIVE}"
            for size in _CHUNKS
        }
        self._keys = (
            f"SELECT rowid, key FROM {table} WHERE key GLOB ? AND rowid > ? AND {_ALIVE} ORDER BY rowid LIMIT ?"
        )
        self._own_rows = (
            f"SELECT {columns} FROM (SELECT *, CASE WHEN is_binary OR NOT json_valid(value) THEN NULL ELSE value END AS"
            f" doc FROM {table} WHERE key GLOB ?1 AND instr(substr(key, ?2), '||') = 0 AND {_ALIVE}) WHERE"
        )
        self._claim_cleanup = (
            f"INSERT INTO {metadata} (key, value) VALUES ('last-cleanup', CURRENT_TIMESTAMP)"
            " ON CONFLICT (key) DO UPDATE SET value = excluded.value"
            " WHERE (julianday('now') - julianday(value)) * 86400.0 > ?"
        )
        self._cleanup = (
            f"DELETE FROM {table} WHERE expiration_time IS NOT NULL AND expiration_time <= CURRENT_TIMESTAMP"
        )

    async def open(self) -> None:
        self._engine = await open_engine(
            self._location, timeout_s=self._settings.timeout, busy_timeout_s=self._settings.busy_timeout
        )
        if not self._location.read_only:
            await self._engine.write(self._migrate)
        if self._settings.cleanup_interval > 0 and not self._location.read_only:
            self._tasks.keep(partial(self._clean_regularly, self._settings.cleanup_interval), "clean-up")

    async def ping(self) -> None:
        await self._opened.read(lambda db: db.execute("SELECT 1").fetchone())

    async def close(self) -> None:
        await self._tasks.close()
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    @property
    def _opened(self) -> Engine:
        if self._engine is None:
            raise ComponentError("the state store is not open")
        return self._engine

    # --- operations ---

    async def get(self, request: Get) -> Found:
        check_options("", request.consistency)
        found: Found = await self._opened.read_row(self._find_many, request.key)
        if found.error:
            raise ComponentError(found.error)
        return found

    async def bulk_get(self, requests: Sequence[Get]) -> list[Found]:
        keys = [request.key for request in requests]
        return await self._opened.read(lambda db: self._find_many(db, keys))

    async def set(self, request: Set) -> None:
        await self._opened.write_row(self._write_many, _Write.of(request, new_etag()))

    async def delete(self, request: Delete) -> None:
        await self._opened.write_row(self._write_many, _Write.of(request, new_etag()))

    async def transact(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> None:
        await self.transact_versions(operations, metadata)

    async def transact_versions(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> list[str | None]:
        etag = new_etag()  # one for all: an ETag has to be new for its key, no more
        writes = [_Write.of(operation, etag) for operation in operations]

        def apply(db: sqlite3.Connection) -> None:
            for error in self._write_many(db, writes):
                if error is not None:
                    raise error

        await self._opened.write(apply)
        return [None if write.value is None else write.new_etag for write in writes]

    async def keys_like(self, pattern: str, *, token: str = "", limit: int = 0) -> tuple[list[str], str]:
        """The token is the row id of the last key of the page before."""
        glob = like_to_sqlite_glob(pattern)
        after = _row_id(token)
        size = limit if limit > 0 else -1
        rows: list[tuple[int, str]] = await self._opened.read(
            lambda db: db.execute(self._keys, (glob, after, size + 1 if size > 0 else -1)).fetchall()
        )
        page = rows[:size] if size > 0 else rows
        return [key for _, key in page], str(page[-1][0]) if len(rows) > len(page) else ""

    async def query(self, request: Query) -> QueryResult:
        query = parse(request.document)
        prefix = request.prefix
        made = SqliteDialect(like_to_sqlite_glob(like_prefix(prefix)), len(prefix) + 1)
        statement = (
            f"{self._own_rows} {made.where(query.where)} ORDER BY {made.order(query.order, 'key')}"
            f" LIMIT {made.parameter(query.limit + 1)} OFFSET {made.parameter(query.offset)}"
        )
        rows = await self._opened.read(lambda db: db.execute(statement, made.parameters).fetchall())
        page = [_found(*row) for row in rows[: query.limit]]
        return QueryResult(page, query.token(len(page), len(rows) > len(page)))

    # --- on the engine's threads ---

    def _find_many(self, db: sqlite3.Connection, keys: Sequence[str]) -> list[Found]:
        rows: dict[str, tuple[Any, ...]] = {}
        for first in range(0, len(keys), _CHUNKS[-1]):
            chunk = keys[first : first + _CHUNKS[-1]]
            size = next(size for size in _CHUNKS if size >= len(chunk))
            asked: list[str | None] = [*chunk, *([None] * (size - len(chunk)))]
            for row in db.execute(self._select[size], asked):
                rows[row[0]] = row
        # Two callers may have asked for the same key: each gets an answer of its own.
        return [_found(*rows[key]) if key in rows else Found(key) for key in keys]

    def _write_many(self, db: sqlite3.Connection, writes: Sequence[_Write]) -> list[EtagMismatch | None]:
        outcomes: list[EtagMismatch | None] = []
        plain: list[_Write] = []
        for write in writes:
            if write.is_plain:
                plain.append(write)
                outcomes.append(None)
            else:
                self._put_many(db, plain)
                plain.clear()
                outcomes.append(self._write(db, write))
        self._put_many(db, plain)
        return outcomes

    def _put_many(self, db: sqlite3.Connection, writes: Sequence[_Write]) -> None:
        """Write values that overwrite whatever is there, in order."""
        done, count = 0, len(writes)
        for size in _ROWS:
            while count - done >= size:
                values: list[Any] = []
                for write in writes[done : done + size]:
                    values += (write.key, write.value, write.is_binary, write.new_etag, write.expiry)
                db.execute(self._upserts[size], values)
                done += size

    def _write(self, db: sqlite3.Connection, write: _Write) -> EtagMismatch | None:
        """Apply one operation; a mismatch has changed nothing."""
        if write.value is None:
            if write.etag is None:
                db.execute(self._delete, (write.key,))
                return None
            changed = db.execute(self._delete_version, (write.key, write.etag)).rowcount
            return None if changed else EtagMismatch()
        if write.etag is not None:
            values = (write.value, write.is_binary, write.new_etag, write.expiry, write.key, write.etag)
            changed = db.execute(self._update, values).rowcount
            return None if changed else EtagMismatch()
        if not write.first_write:
            self._put_many(db, (write,))
            return None
        row = (write.key, write.value, write.is_binary, write.new_etag, write.expiry)
        return None if db.execute(self._insert_first, row).rowcount else EtagMismatch()

    def _migrate(self, db: sqlite3.Connection) -> None:
        db.execute(self._make_metadata)
        row = db.execute(self._level).fetchone()
        try:
            level = int(row[0]) if row else 0
        except ValueError:
            raise ComponentError(f"sqlite: the migration level {row[0]!r} is not a number") from None
        if level < LEVEL:
            db.execute(self._make_state)
            db.execute(self._set_level, (str(LEVEL),))

    # --- clean-up ---

    async def _clean_regularly(self, interval_s: float) -> None:
        while True:
            await asyncio.sleep(interval_s)
            try:
                await self.clean_up(interval_s)
            except ComponentError as error:
                log.warning("%s: expired rows could not be removed: %s", self._where, error)

    async def clean_up(self, interval_s: float) -> int:
        """Remove expired rows unless another process did so within the interval; return how many went."""

        def clean(db: sqlite3.Connection) -> int:
            # 100 ms of slack: two timers of the same interval never agree exactly (spec `components.md` 2.2).
            if not db.execute(self._claim_cleanup, (max(interval_s - 0.1, 0.0),)).rowcount:
                return 0
            return db.execute(self._cleanup).rowcount

        return await self._opened.write(clean)

    def __repr__(self) -> str:
        return f"<SqliteState {self._location.uri} table {self._settings.table_name}>"


def _found(key: str, value: Any, is_binary: Any, etag: str, expires: str | None) -> Found:
    metadata = {"ttlExpireTime": expires} if expires else {}
    text = value if isinstance(value, bytes) else str(value).encode()
    if not is_binary:
        return Found(key, text, etag, metadata)
    try:
        return Found(key, base64.b64decode(text, validate=True), etag, metadata)
    except binascii.Error:
        return Found(key, error=f"the stored value of key {key!r} is not base64")


def _row_id(token: str) -> int:
    if not token:
        return 0
    try:
        number = int(token)
    except ValueError:
        number = -1
    if not 0 <= number < 2**63:
        raise TokenInvalid(f"keys like: the continuation token {token!r} is not one of this store's")
    return number
