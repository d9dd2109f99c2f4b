"""`configuration.postgresql`: rows of a table that the operator made, changes by NOTIFY (spec `components.md` 6).

The table has the columns key, value, version and metadata (JSON); a trigger of the operator's notifies a channel with
`{"table", "action", "data": {"key", …}}`. What a notification says is not believed but read: the row that counts is the
one of the highest version, which need not be the one that changed. Knows: that. Never knows: who subscribed.
"""

from __future__ import annotations

import asyncio
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from pillion.components.configuration_rows import newest
from pillion.components.postgresql_pool import PostgresPool, PostgresSettings, translated
from pillion.components.watching import Channels, Subscription, Watching
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import seconds, setting
from pillion.kinds.configuration import MAX_ITEMS
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pillion.components.configuration_rows import Row
    from pillion.kinds.component import Context
    from pillion.kinds.configuration import Item, Watch, Watcher

log = logging.getLogger("pillion.components.postgresql")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 5.0
"""Between attempts to connect the listener again."""
ALIVE_S = 20.0
"""After so long the listening connection is asked whether it is still one."""
_TABLE = re.compile(r"[a-z0-9./_]{1,64}")
_KEY = re.compile(r"[a-zA-Z0-9./_]+")


@dataclass(frozen=True, slots=True)
class PostgresConfigurationSettings(PostgresSettings):
    """Metadata of `configuration.postgresql`."""

    table: str = setting("", help="table of the items: lower-case letters, digits, . / _; it must exist")
    notify_channel: str = setting("", aliases=("pgNotifyChannel",), help="channel of the operator's trigger")
    connection_max_idle_time: float = setting(
        0.0, aliases=("connMaxIdleTime",), parse=seconds, help="idle connections are closed after; 0: 5m"
    )


class PostgresConfiguration:
    """The store."""

    Settings = PostgresConfigurationSettings

    def __init__(self, settings: PostgresConfigurationSettings, context: Context) -> None:
        self._where = f"component {context.name}"
        if not _TABLE.fullmatch(settings.table) or "" in (parts := settings.table.split(".")) or len(parts) > 2:
            mend = "1 to 64 of a-z, 0-9, . / _, with one dot at most"
            raise ConfigError(f"table {settings.table!r} is not acceptable", where=self._where, mend=mend)
        self._table = ".".join(f'"{part}"' for part in parts)
        self._name = parts[-1]
        self._channel = settings.notify_channel
        self._pool = PostgresPool(settings, self._where)
        self._watching = Watching(self._where, self._read)
        self._channels = Channels(self._listen, self._forget)
        self._listener = _Listener(self._pool, self._where, self._notified, lambda: self._watching.heard(None))
        self._select = f"SELECT key, value, version::text, metadata::text FROM {self._table}"

    async def open(self) -> None:
        await self._pool.open()
        [row] = await self._pool.fetch("SELECT to_regclass($1) IS NOT NULL AS found", self._table)
        if not row["found"]:
            raise ConfigError(f"the table {self._table} does not exist", where=self._where, mend="create it")

    async def ping(self) -> None:
        await self._pool.fetch("SELECT 1")

    async def close(self) -> None:
        await self._listener.close()
        await self._watching.close()
        await self._pool.close()

    async def get(self, keys: Sequence[str], metadata: Mapping[str, str]) -> dict[str, Item]:
        # The reference compares the request's metadata with itself, which finds nothing; here it has no effect.
        _check(keys)
        return await self._read(keys)

    async def subscribe(self, keys: Sequence[str], metadata: Mapping[str, str], watcher: Watcher) -> Watch:
        _check(keys)
        asked = next((value for key, value in metadata.items() if key.lower() == "pgnotifychannel"), "")
        channel = self._channel or asked
        if not channel:
            raise ComponentError("postgresql: no channel to listen to: set notifyChannel, or pgNotifyChannel")
        if len(channel.encode()) > 63 or "\0" in channel:
            raise ComponentError(f"postgresql: {channel[:80]!r} is no name of a channel")
        async with self._channels.entering([channel]):
            watched = await self._watching.add(keys, watcher)
        return Subscription(watched, self._channels, [channel])

    async def _read(self, keys: Sequence[str]) -> dict[str, Item]:
        if keys:
            rows: list[Row] = await self._pool.fetch(f"{self._select} WHERE key = ANY($1::text[])", list(keys))
        else:
            some = f"SELECT DISTINCT key FROM {self._table} LIMIT {MAX_ITEMS + 1}"
            rows = await self._pool.fetch(f"{self._select} WHERE key IN ({some})")
        return newest(rows)

    async def _listen(self, channel: str) -> None:
        await self._listener.listen(channel)

    def _forget(self, channel: str) -> None:
        self._listener.forget(channel)

    def _notified(self, payload: str) -> None:
        """Look at the key that changed; at all of them when the trigger does not say it as expected."""
        try:
            event = orjson.loads(payload)
            table, key = event.get("table"), event["data"]["key"]
        except (ValueError, KeyError, TypeError, AttributeError):
            self._watching.heard(None)
            return
        if isinstance(table, str) and table.rpartition(".")[2].lower() != self._name:
            return
        self._watching.heard(key if isinstance(key, str) else None)

    def __repr__(self) -> str:
        return f"<PostgresConfiguration {self._table} {self._pool!r}, {self._watching!r}>"


def _check(keys: Sequence[str]) -> None:
    for key in keys:
        if not _KEY.fullmatch(key):
            raise ComponentError(f"postgresql: the key {key!r} has characters other than a-z, A-Z, 0-9, . / _")


class _Listener:
    """One connection that listens to channels and is replaced when it is lost; `resumed` is told of each new one."""

    def __init__(
        self, pool: PostgresPool, where: str, heard: Callable[[str], None], resumed: Callable[[], None]
    ) -> None:
        self._pool, self._where = pool, where
        self._heard, self._resumed = heard, resumed
        self._wanted: dict[str, asyncio.Future[None]] = {}
        self._stirred = asyncio.Event()
        self._trouble = "not connected"
        self._tasks = Tasks(f"{where}, listening")
        self._started = False
        self._serving = False

    async def listen(self, channel: str) -> None:
        """Return when notifications of `channel` arrive; raises `ComponentError` after the pool's time limit."""
        future = self._wanted.get(channel)
        if future is None:
            future = self._wanted[channel] = asyncio.get_running_loop().create_future()
            self._stirred.set()
        if not self._started:
            self._started = True
            self._tasks.keep(self._live, "connection")
        done, _ = await asyncio.wait([future], timeout=self._pool.timeout_s)
        if not done or future.cancelled():
            raise ComponentError(f"postgresql: changes cannot be listened to: {self._trouble}")
        future.result()

    def forget(self, channel: str) -> None:
        future = self._wanted.pop(channel, None)
        if future is not None:
            future.cancel()
            self._stirred.set()

    async def close(self) -> None:
        await self._tasks.close()
        for future in self._wanted.values():
            future.cancel()
        self._wanted.clear()

    async def _live(self) -> None:
        pause_s = FIRST_PAUSE_S
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                with translated():
                    await self._once()
            except ComponentError as error:
                self._trouble = str(error)
                if self._serving:
                    log.warning("%s: listening was interrupted (%s); connecting again", self._where, error)
            finally:
                self._serving = False
                for channel, future in self._wanted.items():
                    if future.done():
                        self._wanted[channel] = loop.create_future()
            if loop.time() - began > LONGEST_PAUSE_S:
                pause_s = FIRST_PAUSE_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    async def _once(self) -> None:
        """One connection: keep its channels as wanted until it is lost; raises `ComponentError`."""
        gone = False

        def heard(connection: Any, process: int, channel: str, payload: str) -> None:
            self._heard(payload)

        def lost(connection: Any) -> None:
            nonlocal gone
            gone = True
            self._stirred.set()

        async with self._pool.connection() as connection:
            connection.add_termination_listener(lost)
            listening: set[str] = set()
            try:
                while not gone:
                    self._stirred.clear()
                    for channel in listening - set(self._wanted):
                        await connection.remove_listener(channel, heard)
                        listening.discard(channel)
                    for channel in set(self._wanted) - listening:
                        await connection.add_listener(channel, heard)
                        listening.add(channel)
                    self._settle(listening)
                    try:
                        async with asyncio.timeout(ALIVE_S):
                            await self._stirred.wait()
                    except TimeoutError:
                        await connection.execute("SELECT 1")
            finally:
                if not gone:
                    connection.remove_termination_listener(lost)
                    for channel in listening:
                        await connection.remove_listener(channel, heard)
            raise ComponentError("postgresql: the server closed the connection")

    def _settle(self, listening: set[str]) -> None:
        """Tell those who wait; a new connection has missed what was said before it."""
        if not self._serving:
            self._serving = True
            self._resumed()
        for channel in listening:
            future = self._wanted.get(channel)
            if future is not None and not future.done():
                future.set_result(None)
