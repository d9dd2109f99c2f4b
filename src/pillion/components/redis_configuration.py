"""`configuration.redis`: string values `value||version` under the application's own keys (spec `components.md` 6).

Changes come as keyspace events (redis.io/docs/manual/keyspace-notifications), which Redis sends once and forgets; after
an outage everything watched is read again. Knows: that layout. Never knows: connections (`redis_ear`, `redis_client`).
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.components.redis_client import RedisClient, RedisError
from pillion.components.redis_ear import CHANNEL, PATTERN, Ear
from pillion.components.redis_settings import RedisSettings
from pillion.components.watching import Channels, Subscription, Watching
from pillion.errors import ComponentError, NotSupported
from pillion.kinds.configuration import MAX_ITEMS, Item

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pillion.components.redis_ear import Channel
    from pillion.kinds.component import Context
    from pillion.kinds.configuration import Watch, Watcher

log = logging.getLogger("pillion.components.redis")

EVENTS = "Kg$xe"
"""Keyspace events of: generic commands, strings, expiry, eviction."""
CHUNK = 1000
"""Keys that one command asks for."""
_ONE, _ALL = "=", "*"
"""How the channels of one key, and of all, are named here."""
_WITHOUT_CHANGE = frozenset({b"expire", b"persist"})


class RedisConfiguration:
    """The store."""

    Settings = RedisSettings

    def __init__(self, settings: RedisSettings, context: Context) -> None:
        self._where = f"component {context.name}"
        self._client = RedisClient(settings, self._where)
        self._space = f"__keyspace@{settings.redis_db}__:"
        self._must_be_master = settings.failover
        self._watching = Watching(self._where, self._read)
        self._channels = Channels(self._listen, self._forget)
        self._ear: Ear | None = None
        self._events_refused = False

    async def open(self) -> None:
        await self._client.open()

    async def ping(self) -> None:
        await self._client.ping()

    async def close(self) -> None:
        ear, self._ear = self._ear, None
        if ear is not None:
            await ear.close()
        await self._watching.close()
        await self._client.close()

    async def get(self, keys: Sequence[str], metadata: Mapping[str, str]) -> dict[str, Item]:
        if len(keys) == 1:  # the common request, without detours
            [key] = keys
            try:
                value = await self._client.call(key, b"GET", key, safe=True)
            except RedisError as error:
                if error.code != "WRONGTYPE":
                    raise
                return {}
            return {key: _item(value)} if value else {}
        return await self._read(keys)

    async def subscribe(self, keys: Sequence[str], metadata: Mapping[str, str], watcher: Watcher) -> Watch:
        if self._client.is_cluster:
            raise NotSupported("configuration.redis: in a cluster each server tells its own changes only")
        if self._ear is None:
            self._ear = Ear(
                self._client.locator(""),
                self._client.dialing,
                heard=self._heard,
                resumed=self._resumed,
                must_be_master=self._must_be_master,
            )
        names = [_ONE + key for key in keys] or [_ALL]
        async with self._channels.entering(names):
            watched = await self._watching.add(keys, watcher)
        return Subscription(watched, self._channels, names)

    # --- reading ---

    async def _read(self, keys: Sequence[str]) -> dict[str, Item]:
        if not keys:
            keys = [key.decode(errors="replace") for key in await self._client.scan("*", limit=MAX_ITEMS)]
        found: dict[str, Item] = {}
        for start in range(0, len(keys), CHUNK):
            part = keys[start : start + CHUNK]
            for key, value in zip(part, await self._values(part), strict=True):
                if value:
                    found[key] = _item(value)
        return found

    async def _values(self, keys: Sequence[str]) -> Iterable[bytes | None]:
        """Return the string values; None for what is missing or of another type."""
        if not self._client.is_cluster:
            values: list[bytes | None] = await self._client.call(keys[0], b"MGET", *keys, safe=True)
            return values
        replies = await asyncio.gather(
            *(self._client.call(key, b"GET", key, safe=True) for key in keys), return_exceptions=True
        )
        for reply in replies:
            if isinstance(reply, BaseException) and not (isinstance(reply, RedisError) and reply.code == "WRONGTYPE"):
                raise reply
        return [None if isinstance(reply, BaseException) else reply for reply in replies]

    # --- listening ---

    def _channel(self, name: str) -> Channel:
        if name == _ALL:
            return PATTERN, f"{self._space}*".encode()
        return CHANNEL, (self._space + name.removeprefix(_ONE)).encode()

    async def _listen(self, name: str) -> None:
        if self._ear is None:
            raise ComponentError("redis: the configuration store is closed")
        await self._ear.listen(self._channel(name))

    def _forget(self, name: str) -> None:
        if self._ear is not None:
            self._ear.forget(self._channel(name))

    def _heard(self, channel: bytes, event: bytes) -> None:
        if event not in _WITHOUT_CHANGE:
            self._watching.heard(channel[len(self._space) :].decode(errors="replace"))

    async def _resumed(self) -> None:
        """A connection listens: see that there is something to hear, and what was missed before."""
        await self._enable_events()
        self._watching.heard(None)

    async def _enable_events(self) -> None:
        """Add the events we need to those that are on; a server that was started anew has forgotten them."""
        [master] = self._client.masters()
        try:
            _, flags = await master.call("CONFIG", "GET", "notify-keyspace-events", safe=True)
            wanted = "".join(dict.fromkeys(flags.decode() + EVENTS))
            if "A" in wanted:  # stands for g, $, x, e and more
                wanted = "".join(flag for flag in wanted if flag not in "g$lshzxetd")
            if set(wanted) != set(flags.decode()):
                await master.call("CONFIG", "SET", "notify-keyspace-events", wanted, safe=True)
        except (RedisError, ValueError) as error:
            if not self._events_refused:
                self._events_refused = True
                log.warning(
                    "%s: keyspace events cannot be switched on (%s); the server must have notify-keyspace-events %s",
                    self._where, error, EVENTS,
                )  # fmt: skip

    def __repr__(self) -> str:
        return f"<RedisConfiguration {self._client}, {self._watching!r}>"


def _item(raw: bytes) -> Item:
    """Split `value||version`; what comes after a second `||` does not count, as in the reference."""
    value, *rest = raw.decode(errors="replace").split("||")
    return Item(value, rest[0] if rest else "")
