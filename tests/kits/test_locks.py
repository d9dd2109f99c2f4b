"""Every lock store passes the kit."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from pillion.components.redis_lock import RedisLock
from pillion.components.sqlite_lock import SqliteLock
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import Context, decode
from pillion.testing.lock_kit import LockKit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from servers import RedisSentinel, RedisServer


@pytest.mark.redis
class TestRedis(LockKit):
    server: RedisServer

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        type(self).server = redis_server

    @asynccontextmanager
    async def store(self) -> AsyncIterator[RedisLock]:
        settings = decode(RedisLock.Settings, {"redisHost": self.server.address}, where="kit")
        yield RedisLock(settings, Context("kit"))


class TestSqlite(LockKit):
    path: Path

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        type(self).path = tmp_path / "locks.sqlite"

    @asynccontextmanager
    async def store(self) -> AsyncIterator[SqliteLock]:
        settings = decode(SqliteLock.Settings, {"connectionString": str(self.path)}, where="kit")
        yield SqliteLock(settings, Context("kit"))


class TestSqliteInMemory(TestSqlite):
    survives = False

    @asynccontextmanager
    async def store(self) -> AsyncIterator[SqliteLock]:
        settings = decode(SqliteLock.Settings, {"connectionString": ":memory:"}, where="kit")
        yield SqliteLock(settings, Context("kit"))


@pytest.mark.redis
def test_a_cluster_is_refused() -> None:
    settings = decode(RedisLock.Settings, {"redisHost": "127.0.0.1:1", "redisType": "cluster"}, where="kit")
    with pytest.raises(ConfigError, match="cluster"):
        RedisLock(settings, Context("kit"))


@pytest.mark.redis
def test_replicas_need_sentinels(redis_sentinel: RedisSentinel) -> None:
    """A master with replicas and no failover could forget a lock when one of them takes its place."""

    async def run() -> None:
        settings = decode(RedisLock.Settings, {"redisHost": redis_sentinel.master.address}, where="kit")
        store = RedisLock(settings, Context("kit"))
        try:
            with pytest.raises(ComponentError, match="replicas"):
                await store.open()
        finally:
            await store.close()

    asyncio.run(run())


CONTENDER = """
import asyncio, sys
from pillion.components.sqlite_lock import SqliteLock
from pillion.kinds.component import Context, decode

async def run(path, counter, owner):
    store = SqliteLock(decode(SqliteLock.Settings, {"connectionString": path}, where="here"), Context("here"))
    await store.open()
    for _ in range(15):
        while not await store.try_lock("shared", owner, 60):
            await asyncio.sleep(0.001)
        number = int(open(counter).read())
        await asyncio.sleep(0.001)
        open(counter, "w").write(str(number + 1))
        assert await store.unlock("shared", owner) == 0
    await store.close()

asyncio.run(run(*sys.argv[1:]))
"""


def test_processes_take_turns(tmp_path: Path) -> None:
    """Three processes count in one file under one lock; no count is lost."""
    counter = tmp_path / "count"
    counter.write_text("0")
    arguments = [
        sys.executable,
        "-W",
        "ignore::ResourceWarning",
        "-c",
        CONTENDER,
        str(tmp_path / "l.sqlite"),
        str(counter),
    ]
    running = [subprocess.Popen([*arguments, f"process {n}"]) for n in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert counter.read_text() == "45"
