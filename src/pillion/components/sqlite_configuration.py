"""`configuration.sqlite`: configuration in one file, with changes told to every sidecar of the machine (ours).

Whoever writes the table - another sidecar's process, `sqlite3` on the command line, a script - is noticed by the
operating system's word that the file is being written. Reading inside the write lock then waits for that writer's
COMMIT. Knows: the table. Never knows: subscriptions' ends.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pillion.components.configuration_rows import newest
from pillion.components.file_watch import FileWatch
from pillion.components.sqlite_engine import Engine, Location, open_engine
from pillion.components.watching import Subscription, Watching
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import seconds, setting
from pillion.kinds.configuration import MAX_ITEMS

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

    from pillion.components.configuration_rows import Row
    from pillion.kinds.component import Context
    from pillion.kinds.configuration import Item, Watch, Watcher

PAUSE_S = 0.02
"""Between two readings: what a file pays for that is written all the time."""


@dataclass(frozen=True, slots=True)
class SqliteConfigurationSettings:
    """Metadata of `configuration.sqlite`."""

    connection_string: str = setting(aliases=("url",), help="path or file: URI of the database")
    timeout: float = setting(20.0, aliases=("timeoutInSeconds",), parse=seconds, help="wait of one request")
    busy_timeout: float = setting(2.0, parse=seconds, help="wait for another process's transaction")
    disable_wal: bool = setting(False, key="disableWAL", help="rollback journal instead of WAL")
    table_name: str = setting("configuration", help="table of the items; made when it is not there")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", self.table_name):
            mend = "letters, digits and _"
            raise ConfigError(f"configuration.sqlite: {self.table_name!r} is no table name", mend=mend)
        if self.timeout < 1:
            raise ConfigError("configuration.sqlite: timeout is below 1s")


class SqliteConfiguration:
    """The store."""

    Settings = SqliteConfigurationSettings

    def __init__(self, settings: SqliteConfigurationSettings, context: Context) -> None:
        self._settings = settings
        self._where = f"component {context.name}"
        self._engine: Engine | None = None
        self._watch: FileWatch | None = None
        self._watching = Watching(self._where, self._read_settled, pause_s=PAUSE_S)

    async def open(self) -> None:
        settings = self._settings
        location = Location.parse(settings.connection_string, disable_wal=settings.disable_wal)
        if location.memory or location.read_only:
            raise ConfigError("configuration.sqlite needs a file that can be written", where=self._where)
        self._engine = await open_engine(location, timeout_s=settings.timeout, busy_timeout_s=settings.busy_timeout)
        await self._engine.write(self._create)
        path = location.path
        self._watch = FileWatch(path, partial(self._watching.heard, None), suffixes=("-wal", "-journal"))
        self._watch.open()

    async def ping(self) -> None:
        await self._opened().read(lambda db: db.execute("SELECT 1").fetchall())

    async def close(self) -> None:
        watch, self._watch = self._watch, None
        if watch is not None:
            await watch.close()
        await self._watching.close()
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    async def get(self, keys: Sequence[str], metadata: Mapping[str, str]) -> dict[str, Item]:
        return newest(await self._opened().read(partial(self._select, keys=keys)))

    async def subscribe(self, keys: Sequence[str], metadata: Mapping[str, str], watcher: Watcher) -> Watch:
        return Subscription(await self._watching.add(keys, watcher))

    async def _read_settled(self, keys: Sequence[str]) -> dict[str, Item]:
        """Read when nobody else is in the middle of a transaction: the hint comes before the COMMIT can be seen."""
        return newest(await self._opened().write(partial(self._select, keys=keys)))

    def _opened(self) -> Engine:
        if self._engine is None:
            raise ComponentError("sqlite: the configuration store is closed")
        return self._engine

    def _create(self, db: sqlite3.Connection) -> None:
        db.execute(
            f"CREATE TABLE IF NOT EXISTS {self._settings.table_name} (key TEXT NOT NULL, value TEXT NOT NULL,"
            " version TEXT NOT NULL DEFAULT '', metadata TEXT CHECK (json_type(metadata) = 'object'),"
            " PRIMARY KEY (key, version))"
        )

    def _select(self, db: sqlite3.Connection, keys: Sequence[str]) -> list[Row]:
        columns = "SELECT key, CAST(value AS TEXT), CAST(version AS TEXT), CAST(metadata AS TEXT)"
        statement = f"{columns} FROM {self._settings.table_name}"
        if keys:
            statement += " WHERE key IN (SELECT value FROM json_each(?))"
            return db.execute(statement, (json.dumps(list(keys)),)).fetchall()
        # One more than can be served, counted in keys, so that the answer is an error instead of a part.
        statement += f" WHERE key IN (SELECT DISTINCT key FROM {self._settings.table_name} LIMIT {MAX_ITEMS + 1})"
        return db.execute(statement).fetchall()

    def __repr__(self) -> str:
        return f"<SqliteConfiguration {self._engine!r}, {self._watching!r}>"
