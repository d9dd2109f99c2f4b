"""`lock.sqlite`: locks in one file, shared by the sidecars of one machine, kept across their ends (ours).

A lock is a row; taking it is one statement inside a transaction, so that of any number of processes one succeeds. Its
end is a time on the machine's clock, which all processes that can share the file read alike: setting the clock moves
the ends of the locks that are held. Knows: the table. Never knows: who the owners are.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pillion.components.sqlite_engine import Engine, Location, open_engine
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import seconds, setting
from pillion.kinds.lock import Unlocked

if TYPE_CHECKING:
    import sqlite3

    from pillion.kinds.component import Context

TIDY = 4
"""Expired rows that one acquisition removes: more than it adds, so that the table cannot grow with locks forgotten."""


@dataclass(frozen=True, slots=True)
class SqliteLockSettings:
    """Metadata of `lock.sqlite`."""

    connection_string: str = setting(aliases=("url",), help="path or file: URI of the database, or :memory:")
    timeout: float = setting(20.0, aliases=("timeoutInSeconds",), parse=seconds, help="wait of one request")
    busy_timeout: float = setting(2.0, parse=seconds, help="wait for another process's transaction")
    disable_wal: bool = setting(False, key="disableWAL", help="rollback journal instead of WAL")
    table_name: str = setting("lock", help="table of the locks; made when it is not there")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", self.table_name):
            raise ConfigError(f"lock.sqlite: {self.table_name!r} is no table name", mend="letters, digits and _")
        if self.timeout < 1:
            raise ConfigError("lock.sqlite: timeout is below 1s")


class SqliteLock:
    """The store."""

    Settings = SqliteLockSettings

    def __init__(self, settings: SqliteLockSettings, context: Context) -> None:
        self._settings = settings
        self._where = f"component {context.name}"
        self._engine: Engine | None = None
        table = settings.table_name
        self._take = (
            f"INSERT INTO {table} (key, owner, expires) VALUES (?1, ?2, ?3) ON CONFLICT (key) DO UPDATE"
            " SET owner = excluded.owner, expires = excluded.expires WHERE expires <= ?4"
        )
        expired = f"SELECT key FROM {table} WHERE expires <= ? ORDER BY expires LIMIT {TIDY}"
        self._tidy = f"DELETE FROM {table} WHERE key IN ({expired})"
        self._holder = f"SELECT owner FROM {table} WHERE key = ? AND expires > ?"
        self._remove = f"DELETE FROM {table} WHERE key = ?"

    async def open(self) -> None:
        settings = self._settings
        location = Location.parse(settings.connection_string, disable_wal=settings.disable_wal)
        if location.read_only:
            raise ConfigError("lock.sqlite needs a file that can be written", where=self._where)
        self._engine = await open_engine(location, timeout_s=settings.timeout, busy_timeout_s=settings.busy_timeout)
        await self._engine.write(self._create)

    async def ping(self) -> None:
        await self._opened().read(lambda db: db.execute("SELECT 1").fetchall())

    async def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    async def try_lock(self, key: str, owner: str, expiry_s: int) -> bool:
        return await self._opened().write(partial(self._try, key=key, owner=owner, expiry_s=expiry_s))

    async def unlock(self, key: str, owner: str) -> Unlocked:
        return await self._opened().write(partial(self._give_back, key=key, owner=owner))

    # --- on the engine's thread, in a transaction: its turn has come, so the time is read there ---

    def _try(self, db: sqlite3.Connection, key: str, owner: str, expiry_s: int) -> bool:
        now = time.time_ns() // 1_000_000
        db.execute(self._tidy, (now,))
        return db.execute(self._take, (key, owner, now + expiry_s * 1000, now)).rowcount == 1

    def _give_back(self, db: sqlite3.Connection, key: str, owner: str) -> Unlocked:
        found = db.execute(self._holder, (key, time.time_ns() // 1_000_000)).fetchone()
        if found is None:
            return Unlocked.LOCK_DOES_NOT_EXIST
        if found[0] != owner:
            return Unlocked.LOCK_BELONGS_TO_OTHERS
        db.execute(self._remove, (key,))
        return Unlocked.SUCCESS

    def _create(self, db: sqlite3.Connection) -> None:
        table = self._settings.table_name
        db.execute(
            f"CREATE TABLE IF NOT EXISTS {table} (key TEXT NOT NULL PRIMARY KEY, owner TEXT NOT NULL,"
            " expires INTEGER NOT NULL) WITHOUT ROWID"
        )
        db.execute(f"CREATE INDEX IF NOT EXISTS {table}_expires ON {table} (expires)")

    def _opened(self) -> Engine:
        if self._engine is None:
            raise ComponentError("sqlite: the lock store is closed")
        return self._engine

    def __repr__(self) -> str:
        return f"<SqliteLock {self._engine!r}>"
