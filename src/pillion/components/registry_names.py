"""`pillion`: the name registry of one machine, a table in a SQLite file of the data folder.

Every sidecar writes a row with its address and its process. A row whose process has ended is ignored at once and
removed by whoever sees it; rows from another place (a container that shares the folder) count by their heartbeat.
No multicast is involved: it works behind VPNs, firewalls and without a network.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pillion.components.names_cache import NamesCache
from pillion.components.processes import Process, alive, this_process
from pillion.components.sqlite_engine import Engine, Location, open_engine
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import setting
from pillion.tasks import Tasks
from pillion.wire.addresses import join_host_port

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from pillion.kinds.component import Context
    from pillion.kinds.names import Instance

log = logging.getLogger("pillion.components.registry_names")

BEAT_S = 15.0
"""The pause between two heartbeats."""
SILENT_S = 45.0
"""A row of another place counts as dead when its heartbeat is older."""
KEEP_S = 1.0
SHUN_S = 5.0

_SCHEMA = (
    """CREATE TABLE IF NOT EXISTS pillion_names (
  registration TEXT PRIMARY KEY,
  app_id TEXT NOT NULL,
  namespace TEXT NOT NULL,
  address TEXT NOT NULL,                 -- host:port of the internal gRPC API
  pid INTEGER NOT NULL,
  started TEXT NOT NULL,                 -- see processes.Process
  place TEXT NOT NULL,
  beat REAL NOT NULL                     -- seconds since 1970
) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS pillion_names_app ON pillion_names (app_id, namespace)",
)

_Row = tuple[str, str, int, str, str, float]
"""registration, address, pid, started, place, beat"""


class RegistryNames:
    """A resolver; several in one process share the file's engine."""

    @dataclass(frozen=True)
    class Settings:
        connection_string: str = setting(
            "", aliases=("url",), help="path of the file; by default names.db in the data folder of `pillion run`"
        )

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._context = context
        self._engine: Engine | None = None
        self._tasks = Tasks("nameresolution pillion")
        self._registered: dict[str, tuple[str, str, str]] = {}
        self._cache = NamesCache(self._look_up, keep_s=KEEP_S, shun_s=SHUN_S)

    async def open(self) -> None:
        path = self._settings.connection_string
        if not path:
            if not self._context.data_dir:
                raise ConfigError("nameresolution pillion: connectionString is missing", mend="give the path of a file")
            path = os.path.join(self._context.data_dir, "names.db")
        self._engine = await open_engine(Location.parse(path))
        await self._engine.write(_create)

    async def ping(self) -> None:
        await self._opened().read(lambda db: db.execute("SELECT 1 FROM pillion_names LIMIT 1").fetchall())

    async def close(self) -> None:
        """Take the registrations back and let go of the file."""
        await self._tasks.close()
        await self._cache.close()
        engine, self._engine = self._engine, None
        if engine is None:
            return
        try:
            for registration in self._registered:
                await engine.write(partial(_remove, registrations=[registration]))
        except ComponentError as error:
            log.warning("the registration could not be taken back: %s", error)
        self._registered.clear()
        await engine.close()

    def _opened(self) -> Engine:
        if self._engine is None:
            raise ComponentError("the name registry is closed")
        return self._engine

    async def register(self, instance: Instance) -> None:
        engine = self._opened()
        address = join_host_port(instance.address, instance.internal_port)
        registration = secrets.token_hex(16)
        key = (instance.app_id, instance.namespace, address)
        await engine.write(partial(_write, registration=registration, key=key, process=this_process(), now=time.time()))
        if not self._registered:
            self._tasks.keep(self._beat, "heartbeat")
        self._registered[registration] = key

    async def resolve(self, app_id: str, namespace: str) -> Sequence[str]:
        return await self._cache.get(app_id, namespace)

    def failed(self, app_id: str, namespace: str, address: str) -> None:
        self._cache.failed(app_id, namespace, address)

    async def _look_up(self, app_id: str, namespace: str) -> Sequence[str]:
        engine = self._opened()
        rows = await engine.read(partial(_rows, app_id=app_id, namespace=namespace))
        now = time.time()
        addresses: list[str] = []
        dead: list[str] = []
        for registration, address, pid, started, place, beat in rows:
            lives = alive(Process(pid, started, place))
            if lives or (lives is None and beat > now - SILENT_S):
                addresses.append(address)
            elif lives is False:
                dead.append(registration)
        if dead:
            await engine.write(partial(_remove, registrations=dead))
        return addresses

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            for registration, key in list(self._registered.items()):
                work = partial(_write, registration=registration, key=key, process=this_process(), now=time.time())
                try:
                    await self._opened().write(work)
                except ComponentError as error:
                    log.warning("the heartbeat of the name registry failed and is tried again: %s", error)

    def __repr__(self) -> str:
        return f"<RegistryNames in {self._engine!r}: {[key[0] for key in self._registered.values()]}>"


def _create(db: sqlite3.Connection) -> None:
    for statement in _SCHEMA:
        db.execute(statement)


def _write(db: sqlite3.Connection, registration: str, key: tuple[str, str, str], process: Process, now: float) -> None:
    """Write or refresh a row: one that somebody removed in error comes back with the next heartbeat."""
    db.execute(
        "INSERT INTO pillion_names (registration, app_id, namespace, address, pid, started, place, beat)"
        " VALUES (?,?,?,?,?,?,?,?) ON CONFLICT (registration) DO UPDATE SET beat=excluded.beat",
        (registration, *key, process.pid, process.started, process.place, now),
    )


def _rows(db: sqlite3.Connection, app_id: str, namespace: str) -> list[_Row]:
    return db.execute(
        "SELECT registration, address, pid, started, place, beat FROM pillion_names WHERE app_id=? AND namespace=?",
        (app_id, namespace),
    ).fetchall()


def _remove(db: sqlite3.Connection, registrations: Sequence[str]) -> None:
    for registration in registrations:
        db.execute("DELETE FROM pillion_names WHERE registration=?", (registration,))
