"""Held messages in a SQLite file, shared by the sidecars of one machine.

A row is visible from `visible` on: its due time, the end of its lease, or the time of its next try. Knows: the table,
the engine, the doorbell that tells other processes. Never knows: brokers.
"""

from __future__ import annotations

import logging
import os
import secrets
import time
from typing import TYPE_CHECKING

import orjson

from pillion.components.doorbell import Doorbell, hung
from pillion.components.message_rows import leased
from pillion.components.sqlite_engine import Engine, Location, open_engine
from pillion.errors import ComponentError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Sequence

    from pillion.kinds.holding import HeldMessage, Leased

log = logging.getLogger("pillion.components.holding")

LAYOUT = """
CREATE TABLE IF NOT EXISTS held_messages (
  id INTEGER PRIMARY KEY, area TEXT NOT NULL, visible REAL NOT NULL, due REAL NOT NULL,
  owner TEXT NOT NULL DEFAULT '', attempts INTEGER NOT NULL DEFAULT 0,
  topic TEXT NOT NULL, content_type TEXT NOT NULL, metadata TEXT NOT NULL, data BLOB NOT NULL)
"""
BY_TIME = "CREATE INDEX IF NOT EXISTS held_messages_by_time ON held_messages (area, visible, id)"


class SqliteHolding:
    """One area of a file."""

    def __init__(self, connection_string: str, *, shared: bool = True) -> None:
        """`shared`: other sidecars may use the file before this one does, so it is opened whether or not it is there.
        Raises `ConfigError` when the text names no database.
        """
        self._shared = shared
        self._location = Location.parse(connection_string)
        self._path = self._location.path
        self._owner = secrets.token_hex(8)
        self._area = ""
        self._engine: Engine | None = None
        self._doorbell: Doorbell | None = None

    @property
    def exists(self) -> bool:
        return self._shared or (not self._location.memory and os.path.exists(self._path))

    async def open(self, area: str, stirred: Callable[[], None]) -> None:
        self._area = area
        self._location.make_folder()
        engine = await open_engine(self._location)
        try:
            await engine.write(_create)
            if not self._location.memory:
                # All areas of a file share a folder of bells: a ring for another area costs one look.
                self._doorbell = await hung(self._path, self._owner, lambda data: stirred())
        except BaseException:
            await engine.close()
            raise
        self._engine = engine

    async def close(self) -> None:
        engine, self._engine = self._engine, None
        if engine is None:
            return
        area, owner, now = self._area, self._owner, time.time()

        def let_go(db: sqlite3.Connection) -> int:
            return db.execute(
                "UPDATE held_messages SET visible = ?, owner = '' WHERE area = ? AND owner = ?", (now, area, owner)
            ).rowcount

        try:
            await engine.write(let_go)
        finally:
            if self._doorbell is not None:
                self._doorbell.ring(b"*")
                self._doorbell.close()
                self._doorbell = None
            await engine.close()

    def _opened(self) -> Engine:
        if self._engine is None:
            raise ComponentError("the holding area is closed")
        return self._engine

    async def hold(self, messages: Sequence[HeldMessage]) -> None:
        area = self._area
        rows = [
            (area, one.due, one.due, one.topic, one.content_type, orjson.dumps(dict(one.metadata)).decode(), one.data)
            for one in messages
        ]

        def insert(db: sqlite3.Connection) -> None:
            db.executemany(
                "INSERT INTO held_messages (area, visible, due, topic, content_type, metadata, data) "
                "VALUES (?, ?, ?, ?, ?, ?, ?)",
                rows,
            )

        await self._opened().write(insert)
        if self._doorbell is not None:
            self._doorbell.ring(b"*")

    async def lease(self, lease_s: float, limit: int) -> tuple[list[Leased], float | None]:
        area, owner = self._area, self._owner
        next_s = await self._opened().read(lambda db: _next(db, area))
        if next_s is None or next_s > 0:
            return [], next_s

        def take(db: sqlite3.Connection) -> tuple[list[Leased], float | None]:
            now = time.time()
            rows = db.execute(
                "SELECT id, attempts + 1, topic, data, content_type, metadata, due FROM held_messages "
                "WHERE area = ? AND visible <= ? ORDER BY visible, id LIMIT ?",
                (area, now, limit),
            ).fetchall()
            if not rows:
                return [], _next(db, area)
            db.executemany(
                "UPDATE held_messages SET visible = ?, owner = ?, attempts = attempts + 1 WHERE id = ?",
                [(now + lease_s, owner, row[0]) for row in rows],
            )
            return [leased(*row) for row in rows], None

        return await self._opened().write(take)

    async def done(self, ids: Sequence[int]) -> None:
        marks = [(id,) for id in ids]
        await self._opened().write(lambda db: _discard(db, marks))

    async def again(self, id: int, pause_s: float) -> None:
        visible = time.time() + pause_s

        def back(db: sqlite3.Connection) -> int:
            return db.execute("UPDATE held_messages SET visible = ?, owner = '' WHERE id = ?", (visible, id)).rowcount

        await self._opened().write(back)

    def __repr__(self) -> str:
        return f"<SqliteHolding {self._path}, area {self._area}>"


def _create(db: sqlite3.Connection) -> None:
    db.execute(LAYOUT)
    db.execute(BY_TIME)


def _next(db: sqlite3.Connection, area: str) -> float | None:
    [visible] = db.execute("SELECT min(visible) FROM held_messages WHERE area = ?", (area,)).fetchone()
    return None if visible is None else visible - time.time()


def _discard(db: sqlite3.Connection, marks: list[tuple[int]]) -> None:
    db.executemany("DELETE FROM held_messages WHERE id = ?", marks)
