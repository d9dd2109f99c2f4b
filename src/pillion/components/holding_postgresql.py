"""Held messages in PostgreSQL, shared by sidecars of any number of machines; the server's clock decides what is due.

Messages are leased with `FOR UPDATE SKIP LOCKED`, so that sidecars do not wait for each other; a NOTIFY tells the
others of new ones. Knows: the table and the channel. Never knows: brokers.
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

import orjson

from pillion.components.message_rows import leased
from pillion.components.postgresql_ear import listen
from pillion.components.postgresql_pool import PostgresPool, PostgresSettings
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillion.kinds.holding import HeldMessage, Leased

TABLE = "pillion_held_messages"
CHANNEL = "pillion_held"
LOCK = 0x50494C48
"""Key of the advisory lock under which the table is made: two sidecars must not make it at the same time."""
NOW = "extract(epoch FROM clock_timestamp())::float8"


class PostgresHolding:
    """One area of a database."""

    exists = True

    def __init__(self, connection_string: str, where: str) -> None:
        """Raises `ConfigError` when the text is no connection string."""
        self._pool = PostgresPool(PostgresSettings(connection_string=connection_string), where)
        self._owner = secrets.token_hex(8)
        self._area = ""
        self._tasks: Tasks | None = None

    async def open(self, area: str, stirred: Callable[[], None]) -> None:
        self._area = area
        await self._pool.open()
        try:
            await self._pool.transaction(_create)
        except BaseException:
            await self._pool.close()
            raise
        self._tasks = Tasks(f"listening to {CHANNEL}")
        # What was said before listening began is missed: so whoever listens looks.
        ear = partial(listen, self._pool, CHANNEL, lambda said: stirred() if said == area else None, stirred)
        self._tasks.keep(ear, "ear")

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, None
        if tasks is None:
            return
        await tasks.close()
        try:
            await self._pool.execute(
                f"WITH freed AS (UPDATE {TABLE} SET visible = {NOW}, owner = '' WHERE area = $1 AND owner = $2 "
                f"RETURNING 1) SELECT pg_notify('{CHANNEL}', $1) FROM freed LIMIT 1",
                self._area,
                self._owner,
            )
        finally:
            await self._pool.close()

    async def hold(self, messages: Sequence[HeldMessage]) -> None:
        rows = [
            (self._area, one.due, one.topic, one.content_type, orjson.dumps(dict(one.metadata)).decode(), one.data)
            for one in messages
        ]

        async def insert(connection: Any) -> None:
            await connection.executemany(
                f"INSERT INTO {TABLE} (area, visible, due, topic, content_type, metadata, data) "
                "VALUES ($1, $2, $2, $3, $4, $5, $6)",
                rows,
            )
            await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, self._area)

        await self._pool.transaction(insert)

    async def lease(self, lease_s: float, limit: int) -> tuple[list[Leased], float | None]:
        [[next_s]] = await self._pool.fetch(f"SELECT min(visible) - {NOW} FROM {TABLE} WHERE area = $1", self._area)
        if next_s is None or next_s > 0:
            return [], next_s

        async def take(connection: Any) -> list[Any]:
            rows: list[Any] = await connection.fetch(
                f"""WITH ready AS (
                  SELECT id FROM {TABLE} WHERE area = $1 AND visible <= {NOW}
                  ORDER BY visible, id LIMIT $2 FOR UPDATE SKIP LOCKED)
                UPDATE {TABLE} AS held SET visible = {NOW} + $3, owner = $4, attempts = attempts + 1
                FROM ready WHERE held.id = ready.id
                RETURNING held.id, attempts, topic, data, content_type, metadata, due""",
                self._area,
                limit,
                lease_s,
                self._owner,
            )
            return rows

        rows = await self._pool.transaction(take)
        found = [leased(*row) for row in rows]
        # Nothing, though something is due: others are taking it at this moment.
        return sorted(found, key=lambda one: (one.message.due, one.id)), None if found else 0.05

    async def done(self, ids: Sequence[int]) -> None:
        await self._pool.execute(f"DELETE FROM {TABLE} WHERE id = ANY($1)", list(ids))

    async def again(self, id: int, pause_s: float) -> None:
        await self._pool.execute(f"UPDATE {TABLE} SET visible = {NOW} + $2, owner = '' WHERE id = $1", id, pause_s)

    def __repr__(self) -> str:
        return f"<PostgresHolding {self._pool!r}, area {self._area}>"


async def _create(connection: Any) -> None:
    await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
    await connection.execute(
        f"""CREATE TABLE IF NOT EXISTS {TABLE} (
          id bigserial PRIMARY KEY, area text NOT NULL, visible float8 NOT NULL, due float8 NOT NULL,
          owner text NOT NULL DEFAULT '', attempts int NOT NULL DEFAULT 0,
          topic text NOT NULL, content_type text NOT NULL, metadata text NOT NULL, data bytea NOT NULL)"""
    )
    await connection.execute(f"CREATE INDEX IF NOT EXISTS {TABLE}_by_time ON {TABLE} (area, visible, id)")
