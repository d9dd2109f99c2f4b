"""`lock.redis`: a lock is a key that exists while it is held; its value is the owner (spec `components.md` 7).

Knows: that layout. Never knows: connections and topologies (`redis_client`).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pillion.components.redis_client import RedisClient, RedisError, Script
from pillion.components.redis_settings import RedisSettings
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.lock import Unlocked

if TYPE_CHECKING:
    from pillion.kinds.component import Context

UNLOCK = Script("""
local holder = redis.call('GET', KEYS[1])
if not holder then
  return 1
end
if holder ~= ARGV[1] then
  return 2
end
redis.call('DEL', KEYS[1])
return 0
""")
"""Argument: the owner. Returns the number of an `Unlocked`."""


class RedisLock:
    """The store, on one master: a copy that is behind would give a lock away twice."""

    Settings = RedisSettings

    def __init__(self, settings: RedisSettings, context: Context) -> None:
        where = f"component {context.name}"
        if settings.redis_type == "cluster":
            raise ConfigError("lock.redis does not work in a cluster", where=where, mend="use one server, or sentinels")
        self._failover = settings.failover
        self._client = RedisClient(settings, where)

    async def open(self) -> None:
        await self._client.open()
        if not self._failover and await self._has_replicas():
            raise ComponentError("lock.redis: the server has replicas; that needs failover and its sentinels")

    async def ping(self) -> None:
        await self._client.ping()

    async def close(self) -> None:
        await self._client.close()

    async def try_lock(self, key: str, owner: str, expiry_s: int) -> bool:
        return await self._client.call(key, b"SET", key, owner, b"NX", b"EX", expiry_s) is not None

    async def unlock(self, key: str, owner: str) -> Unlocked:
        return Unlocked(await self._client.run(UNLOCK, (key,), (owner,)))

    async def _has_replicas(self) -> bool:
        [master] = self._client.masters()
        try:
            told: bytes = await master.call("INFO", "replication", safe=True)
        except RedisError as error:
            if error.code == "NOPERM":
                return False
            raise
        match = re.search(rb"^connected_slaves:(\d+)", told, re.MULTILINE)
        return match is not None and int(match[1]) > 0

    def __repr__(self) -> str:
        return f"<RedisLock {self._client}>"
