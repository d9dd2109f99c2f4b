"""The brokers of the house against the contract of brokers."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import pytest

from pillion.components.memory_broker import MemoryPubSub
from pillion.components.redis_streams import RedisPubSub
from pillion.components.sqlite_broker import SqlitePubSub
from pillion.kinds.component import Context, decode
from pillion.testing.pubsub_kit import PubSubKit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillion.kinds.pubsub import PubSub
    from servers import RedisServer


class TestMemory(PubSubKit):
    stores: ClassVar = False
    redelivers: ClassVar = False

    @contextlib.asynccontextmanager
    async def broker(self, app_id: str) -> AsyncIterator[PubSub]:
        yield MemoryPubSub(MemoryPubSub.Settings(), Context("memory", app_id=app_id))


class TestSqlite(PubSubKit):
    path: Path

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "messages.db"

    @contextlib.asynccontextmanager
    async def broker(self, app_id: str) -> AsyncIterator[PubSub]:
        metadata = {"connectionString": str(self.path), "redeliverInterval": "50ms"}
        settings = decode(SqlitePubSub.Settings, metadata, where="test")
        yield SqlitePubSub(settings, Context("sqlite", app_id=app_id))


class TestSqliteInMemory(TestSqlite):
    """A database that lives as long as its process; there is nobody to ring at."""

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = Path(":memory:")


@pytest.mark.redis
class TestRedis(PubSubKit):
    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        self.address = redis_server.address

    @contextlib.asynccontextmanager
    async def broker(self, app_id: str) -> AsyncIterator[PubSub]:
        metadata = {"redisHost": self.address, "processingTimeout": "200ms", "redeliverInterval": "50"}
        yield RedisPubSub(decode(RedisPubSub.Settings, metadata, where="test"), Context("redis", app_id=app_id))
