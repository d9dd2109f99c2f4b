"""`sqlite` name resolution: a table of hosts that sidecars of the reference share with ours (spec `components.md` 9).

Each sidecar renews its row; a row is good while it is younger than `updateInterval`. `registry_names` is the better
choice where only our own sidecars take part: it knows of a death at once.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pillion.components.names_cache import NamesCache
from pillion.components.sqlite_engine import Engine, Location, open_engine
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import seconds, setting
from pillion.tasks import Tasks
from pillion.wire.addresses import join_host_port

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from pillion.kinds.component import Context
    from pillion.kinds.names import Instance

log = logging.getLogger("pillion.components.sqlite_names")

KEEP_S = 1.0
SHUN_S = 5.0
MAX_ADDRESSES = 1000
"""Rows that one look-up returns."""
_LEVEL = 1
"""Migrations applied to the layout below, kept under the key `nr-migrations`."""


class SqliteNames:
    """A resolver on the reference's tables."""

    @dataclass(frozen=True)
    class Settings:
        connection_string: str = setting(aliases=("url",), help="path or file: URI of the database")
        timeout: float = setting(1.0, aliases=("timeoutInSeconds",), parse=seconds, help="wait of one request")
        busy_timeout: float = setting(0.8, parse=seconds, help="wait for another process's transaction")
        disable_wal: bool = setting(False, key="disableWAL", help="rollback journal instead of WAL")
        table_name: str = setting("hosts", help="table of the hosts")
        metadata_table_name: str = setting("metadata", help="table of the layout's level and the last clean-up")
        update_interval: float = setting(5.0, parse=seconds, help="age at which a row is stale, whole seconds")
        cleanup_interval: float = setting(3600.0, parse=seconds, help="how often stale rows are removed; 0: never")

        def __post_init__(self) -> None:
            for name in (self.table_name, self.metadata_table_name):
                if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                    raise ConfigError(f"nameresolution sqlite: {name!r} is no table name", mend="letters, digits and _")
            if self.timeout < 1:
                raise ConfigError("nameresolution sqlite: timeout is below 1s")
            if self.update_interval != int(self.update_interval) or self.update_interval < self.timeout + 1:
                raise ConfigError(
                    "nameresolution sqlite: updateInterval must be whole seconds, at least timeout plus 1s"
                )

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._engine: Engine | None = None
        self._tasks = Tasks("nameresolution sqlite")
        self._mine: list[tuple[str, str, str, str]] = []
        self._cache = NamesCache(self._look_up, keep_s=KEEP_S, shun_s=SHUN_S)

    async def open(self) -> None:
        settings = self._settings
        location = Location.parse(settings.connection_string, disable_wal=settings.disable_wal)
        self._engine = await open_engine(location, timeout_s=settings.timeout, busy_timeout_s=settings.busy_timeout)
        await self._engine.write(self._create)
        if settings.cleanup_interval > 0:
            self._tasks.keep(self._clean, "clean-up")

    async def ping(self) -> None:
        await self._opened().read(lambda db: db.execute("SELECT 1").fetchall())

    async def close(self) -> None:
        await self._tasks.close()
        await self._cache.close()
        engine, self._engine = self._engine, None
        if engine is None:
            return
        remove = f"DELETE FROM {self._settings.table_name} WHERE registration_id=?"
        try:
            for registration, *_ in self._mine:
                await engine.write(partial(_run, statement=remove, values=(registration,)))
        except ComponentError as error:
            log.warning("the registration could not be taken back: %s", error)
        self._mine.clear()
        await engine.close()

    def _opened(self) -> Engine:
        if self._engine is None:
            raise ComponentError("the sqlite name resolver is closed")
        return self._engine

    async def register(self, instance: Instance) -> None:
        """Write the row; one that an earlier sidecar left at the same address gives way."""
        address = join_host_port(instance.address, instance.internal_port)
        row = (str(uuid.uuid4()), address, instance.app_id, instance.namespace)
        await self._opened().write(partial(_run, statement=self._insert("REPLACE"), values=(*row, int(time.time()))))
        if not self._mine:
            self._tasks.keep(self._renew, "renewal")
        self._mine.append(row)

    async def resolve(self, app_id: str, namespace: str) -> Sequence[str]:
        return await self._cache.get(app_id, namespace)

    def failed(self, app_id: str, namespace: str, address: str) -> None:
        self._cache.failed(app_id, namespace, address)

    async def _look_up(self, app_id: str, namespace: str) -> Sequence[str]:
        fresh = int(time.time()) - int(self._settings.update_interval)
        statement = (
            f"SELECT address FROM {self._settings.table_name} WHERE app_id=? AND namespace=? AND last_update>?"
            f" LIMIT {MAX_ADDRESSES}"
        )
        rows = await self._opened().read(lambda db: db.execute(statement, (app_id, namespace, fresh)).fetchall())
        return [address for [address] in rows]

    async def _renew(self) -> None:
        """Renew each row; one that vanished (a suspended machine) is written again unless its address is taken."""
        update = f"UPDATE {self._settings.table_name} SET last_update=? WHERE registration_id=? AND address=?"
        while True:
            await asyncio.sleep(self._settings.update_interval - self._settings.timeout)
            for row in self._mine:
                now = int(time.time())
                try:
                    if await self._opened().write(partial(_run, statement=update, values=(now, row[0], row[1]))):
                        continue
                    again = partial(_run, statement=self._insert("IGNORE"), values=(*row, now))
                    if await self._opened().write(again):
                        log.warning("the registration of %s had vanished and was written again", row[2])
                    else:
                        log.error("another sidecar registered at %s, which is the address of %s", row[1], row[2])
                except ComponentError as error:
                    log.warning("the registration of %s could not be renewed: %s", row[2], error)

    async def _clean(self) -> None:
        while True:
            await asyncio.sleep(self._settings.cleanup_interval)
            try:
                await self._opened().write(self._remove_stale)
            except ComponentError as error:
                log.warning("stale hosts could not be removed: %s", error)

    def _insert(self, conflict: str) -> str:
        return (
            f"INSERT OR {conflict} INTO {self._settings.table_name}"
            " (registration_id, address, app_id, namespace, last_update) VALUES (?,?,?,?,?)"
        )

    def _create(self, db: sqlite3.Connection) -> None:
        hosts, metadata = self._settings.table_name, self._settings.metadata_table_name
        db.execute(f"CREATE TABLE IF NOT EXISTS {metadata} (key TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)")
        found = db.execute(f"SELECT value FROM {metadata} WHERE key='nr-migrations'").fetchone()
        if found is not None and int(found[0]) >= _LEVEL:
            return
        db.execute(
            f"CREATE TABLE IF NOT EXISTS {hosts} (registration_id TEXT NOT NULL PRIMARY KEY, address TEXT NOT NULL,"
            " app_id TEXT NOT NULL, namespace TEXT NOT NULL, last_update INTEGER NOT NULL)"
        )
        db.execute(f"CREATE UNIQUE INDEX IF NOT EXISTS {hosts}_address_idx ON {hosts} (address)")
        db.execute(f"CREATE INDEX IF NOT EXISTS {hosts}_last_update_idx ON {hosts} (last_update)")
        db.execute(f"REPLACE INTO {metadata} (key, value) VALUES ('nr-migrations', '{_LEVEL}')")

    def _remove_stale(self, db: sqlite3.Connection) -> None:
        stale = int(time.time()) - int(self._settings.update_interval)
        db.execute(f"DELETE FROM {self._settings.table_name} WHERE last_update<?", (stale,))

    def __repr__(self) -> str:
        return f"<SqliteNames in {self._engine!r}: {[row[2] for row in self._mine]}>"


def _run(db: sqlite3.Connection, statement: str, values: tuple[object, ...]) -> int:
    """Execute a statement and return the number of rows it changed."""
    return db.execute(statement, values).rowcount
