"""Leadership by PostgreSQL: an advisory lock that lives as long as one dedicated connection.

Knows: the lock, the table of terms, how long a check vouches. Never knows: what is led.

The server drops the lock when it ends the session, and the holder may not know yet. So the holder asks every `CHECK_S`
and vouches for itself only until `VOUCH_S` after it last *sent* a question that was answered; whoever gets the lock
waits longer than that before it leads, unless the last leader resigned or there was none. A primary that loses commits
when it fails over loses the lock with them: use synchronous replication there, as for any lock in a database.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import asyncpg

from pillion.components.candidacy import Candidacy
from pillion.components.leadership_file import APART
from pillion.components.postgresql_pool import FAILURES, parse_connection_string
from pillion.errors import ComponentError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.clock import Clock

log = logging.getLogger("pillion.components.leadership")
CHECK_S, VOUCH_S, WAIT_S = 1.0, 4.0, 5.0
IDLE_S = 6.0
"""The server ends a session that asks nothing for so long, and the lock with it: its process stands still."""
TURN_S = 10.0
"""How long the server lets a candidate wait for the lock before it says that another still has it. A candidate that
hears nothing for longer is not waiting any more: the server, or the way to it, has gone without a word."""
_LOST = (*FAILURES, TimeoutError)
_TABLE = """CREATE TABLE IF NOT EXISTS pillion_leadership (
  name text PRIMARY KEY, term bigint NOT NULL, resigned boolean NOT NULL)"""
_TERM = """INSERT INTO pillion_leadership AS l (name, term, resigned) VALUES ($1, $2, false)
ON CONFLICT (name) DO UPDATE SET term = greatest(l.term + $3, $2), resigned = false RETURNING term"""


class PostgresLock(Candidacy):
    """A `Leadership` named `name` in the database of a connection string. `connect` is asyncpg's."""

    def __init__(
        self,
        connection_string: str,
        clock: Clock,
        *,
        name: str = "placement",
        connect: Callable[..., Awaitable[Any]] = asyncpg.connect,
    ) -> None:
        try:
            self._dsn = f"postgresql://?{urlencode(parse_connection_string(connection_string))}"
        except ValueError as error:
            raise ConfigError(str(error)) from error
        super().__init__("PostgreSQL", clock, _LOST)
        self._name = name
        self._key = int.from_bytes(
            hashlib.sha256(f"pillion leadership {name}".encode()).digest()[:8], "big", signed=True
        )
        self._connect_to = connect
        self._connection: Any = None

    async def open(self) -> None:
        """Raises `ComponentError` when the database cannot be used as it is: what is wrong with it now stays wrong."""
        try:
            await self._connect()
        except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
            raise ComponentError(f"leadership by PostgreSQL: {error}") from error
        except _LOST as error:
            log.warning("leadership: PostgreSQL is not reached yet: %s", error)
            self._drop()  # a connection that is only half prepared is of no use

    async def _connect(self) -> Any:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._connect_to(
                self._dsn, timeout=10, server_settings={"application_name": "pillion leadership"}
            )
            await self._connection.execute(_TABLE, timeout=VOUCH_S)
            await self._connection.execute(f"SET lock_timeout = {int(TURN_S * 1000)}", timeout=VOUCH_S)
            try:
                await self._connection.execute(f"SET idle_session_timeout = {int(IDLE_S * 1000)}", timeout=VOUCH_S)
            except asyncpg.UndefinedObjectError:
                log.warning("leadership: this PostgreSQL, older than 14, keeps the lock of a process that stands still")
        return self._connection

    async def _stand(self) -> int:
        connection = await self._connect()
        await self._lock(connection)
        before = await connection.fetchrow(
            "SELECT resigned FROM pillion_leadership WHERE name = $1", self._name, timeout=5
        )
        if before is not None and not before["resigned"]:
            await connection.execute("SELECT pg_sleep($1)", WAIT_S, timeout=WAIT_S + VOUCH_S)
        now_ms = int(self._clock.now() * 1000)
        asked = self._clock.monotonic()
        term = int(await connection.fetchval(_TERM, self._name, now_ms, APART, timeout=VOUCH_S))
        self.inherited = before is not None
        self._lead(asked + VOUCH_S, partial(self._check, connection))
        return term

    async def _lock(self, connection: Any) -> None:
        """Wait in the server for our turn."""
        while True:
            try:
                await connection.execute("SELECT pg_advisory_lock($1)", self._key, timeout=TURN_S + VOUCH_S)
                return
            except asyncpg.LockNotAvailableError:
                log.debug("leadership: another leads")

    async def _check(self, connection: Any) -> None:
        """Vouch for this process as long as its session answers."""
        while True:
            await asyncio.sleep(CHECK_S)
            asked = self._clock.monotonic()
            left = self._vouched_until - asked
            if left <= 0:
                raise TimeoutError("this process stood still")
            async with asyncio.timeout(left):
                await connection.execute("SELECT 1")
            self._vouched_until = asked + VOUCH_S

    async def _turn_elsewhere(self) -> None:
        """There is one database."""

    def _drop(self) -> None:
        super()._drop()
        connection, self._connection = self._connection, None
        if connection is not None and not connection.is_closed():
            connection.terminate()

    async def close(self) -> None:
        await self._tasks.close()
        connection = self._connection
        if self._leads and connection is not None:
            self._leads = False
            try:
                await connection.execute(
                    "UPDATE pillion_leadership SET resigned = true WHERE name = $1", self._name, timeout=2
                )
                await connection.close(timeout=2)
            except _LOST as error:
                log.warning("leadership: resigning: %s", error)
        self._drop()
