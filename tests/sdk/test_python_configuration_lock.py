"""The official Python SDK over configuration and locks, as its users use it against a real sidecar."""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import warnings
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from dapr.aio.clients import DaprClient as AsyncDaprClient
from dapr.clients import DaprClient
from dapr.clients.grpc._response import UnlockResponseStatus

from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import RedisServer

pytestmark = [
    pytest.mark.redis,
    pytest.mark.filterwarnings("ignore:The Distributed Lock API is an Alpha version:UserWarning"),
]
WAIT_S = 90


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sdk-configuration")


@pytest.fixture(scope="module")
def sidecar(folder: Path, redis_server: RedisServer) -> Iterator[SidecarProcess]:
    resources = {
        "redis.yaml": component("redis", "configuration.redis", redisHost=redis_server.address),
        "file.yaml": component("file", "configuration.sqlite", connectionString=str(folder / "c.sqlite")),
        "redislock.yaml": component("redislock", "lock.redis", redisHost=redis_server.address),
        "filelock.yaml": component("filelock", "lock.sqlite", connectionString=str(folder / "l.sqlite")),
    }
    with SidecarProcess(folder, "shop", resources=resources) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAPR_HTTP_PORT", str(running.http_port))
        patch.setattr("dapr.conf.settings.DAPR_HTTP_PORT", running.http_port)  # where the SDK asks for health
        yield running


@pytest.fixture
def client(sidecar: SidecarProcess) -> Iterator[DaprClient]:
    with DaprClient(f"127.0.0.1:{sidecar.grpc_port}") as client:
        yield client


def test_get_configuration(client: DaprClient, redis_server: RedisServer) -> None:
    redis_server.cli("MSET", "sdk:colour", "blue||3", "sdk:size", "10")
    redis_server.cli("HSET", "sdk:hash", "field", "value")
    items = client.get_configuration("redis", ["sdk:colour", "sdk:size", "sdk:hash", "sdk:missing"]).items
    assert {key: (item.value, item.version) for key, item in items.items()} == {
        "sdk:colour": ("blue", "3"), "sdk:size": ("10", ""),
    }  # fmt: skip


def test_subscribe_configuration(client: DaprClient, redis_server: RedisServer) -> None:
    """The id first, then each change, until unsubscribed; twice is once too often."""
    heard: queue.Queue[tuple[str, dict[str, Any]]] = queue.Queue()
    redis_server.cli("SET", "sdk:watched", "1||1")
    number = client.subscribe_configuration("redis", ["sdk:watched"], lambda i, r: heard.put((i, r.items)))
    redis_server.cli("SET", "sdk:watched", "2||2")
    told, items = heard.get(timeout=WAIT_S)
    assert told == number
    assert [(key, item.value, item.version) for key, item in items.items()] == [("sdk:watched", "2", "2")]
    assert client.unsubscribe_configuration("redis", number)
    assert not client.unsubscribe_configuration("redis", number)


def test_a_file_written_by_hand(client: DaprClient, folder: Path) -> None:
    """Plain SQL from another process' connection reaches a subscriber."""
    heard: queue.Queue[dict[str, Any]] = queue.Queue()
    client.subscribe_configuration("file", ["flag"], lambda _, response: heard.put(response.items))
    with closing(sqlite3.connect(folder / "c.sqlite")) as db, db:
        db.execute("REPLACE INTO configuration (key, value, version) VALUES ('flag', 'on', '1')")
    assert heard.get(timeout=WAIT_S)["flag"].value == "on"
    assert client.get_configuration("file", ["flag"]).items["flag"].version == "1"


@pytest.mark.parametrize("store", ["redislock", "filelock"])
def test_locks(client: DaprClient, store: str) -> None:
    with client.try_lock(store, "order 1", "me", 60) as lock:
        assert lock
        assert not client.try_lock(store, "order 1", "you", 60)
        assert client.unlock(store, "order 1", "you").status is UnlockResponseStatus.lock_belongs_to_others
    assert client.unlock(store, "order 1", "me").status is UnlockResponseStatus.lock_does_not_exist
    assert client.try_lock(store, "order 1", "you", 60)
    assert client.unlock(store, "order 1", "you").status is UnlockResponseStatus.success


def test_the_asynchronous_client(sidecar: SidecarProcess, redis_server: RedisServer) -> None:
    async def run() -> None:
        redis_server.cli("SET", "sdk:async", "yes||1")
        async with AsyncDaprClient(f"127.0.0.1:{sidecar.grpc_port}") as client:
            found = await client.get_configuration("redis", ["sdk:async"])
            assert found.items["sdk:async"].value == "yes"
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert (await client.try_lock("filelock", "async", "me", 60)).success
                status = (await client.unlock("filelock", "async", "me")).status
            assert status is UnlockResponseStatus.success

    asyncio.run(run())
