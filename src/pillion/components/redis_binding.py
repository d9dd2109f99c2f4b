"""`bindings.redis`: plain keys of Redis (spec `components.md` 4).

Knows: four commands. Never knows: connections and topologies (`redis_client`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.components.redis_client import RedisClient, Script
from pillion.components.redis_settings import RedisSettings
from pillion.errors import ComponentError
from pillion.kinds.bindings import Response
from pillion.kinds.component import truthy
from pillion.kinds.message_timing import ttl_of

if TYPE_CHECKING:
    from pillion.kinds.bindings import Request
    from pillion.kinds.component import Context

INCREMENT = Script("local n = redis.call('INCR', KEYS[1]) redis.call('PEXPIRE', KEYS[1], ARGV[1]) return n")
"""Increments and gives the key its time to live in one go: a counter never stays for ever by accident."""


@dataclass(frozen=True, slots=True)
class RedisBindingSettings(RedisSettings):
    """Metadata of `bindings.redis`."""


class RedisBinding:
    """The Redis output binding."""

    Settings = RedisBindingSettings
    operations = ("create", "get", "delete", "increment")

    def __init__(self, settings: RedisBindingSettings, context: Context) -> None:
        self._client = RedisClient(settings, f"component {context.name}")

    async def open(self) -> None:
        await self._client.open()

    async def ping(self) -> None:
        await self._client.ping()

    async def close(self) -> None:
        await self._client.close()

    async def invoke(self, request: Request) -> Response | None:
        key = request.metadata.get("key", "")
        if not key:
            raise ComponentError("redis binding: missing key on request metadata")
        if request.operation == "get":
            return await self._get(key, also_delete=truthy(request.metadata.get("delete")))
        if request.operation == "delete":
            await self._client.call(key, b"DEL", key)
            return None
        ttl_s = ttl_of(request.metadata)
        ttl_ms = None if ttl_s is None else round(ttl_s * 1000)
        if request.operation == "increment":
            if ttl_ms is None:
                await self._client.call(key, b"INCR", key)
            else:
                await self._client.run(INCREMENT, (key,), (ttl_ms,))
        elif ttl_ms is None:
            await self._client.call(key, b"SET", key, request.data)
        elif ttl_ms <= 0:  # what has no time to live is gone at once
            await self._client.call(key, b"DEL", key)
        else:
            await self._client.call(key, b"SET", key, request.data, b"PX", ttl_ms)
        return None

    async def _get(self, key: str, *, also_delete: bool) -> Response:
        if also_delete:
            found = await self._client.call(key, b"GETDEL", key)
        else:
            found = await self._client.call(key, b"GET", key, safe=True)
        return Response(found or b"")

    def __repr__(self) -> str:
        return f"<RedisBinding {self._client!r}>"
