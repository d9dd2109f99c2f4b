"""Fixtures for all tests: real servers, one of each for a session (for each worker under xdist).

A server whose program is absent skips its tests with the name of the package, or fails them when the environment has
PILLION_REQUIRE_SERVERS=1. Tests share the session's servers: they use keys, tables and users of their own, and never
stop them. A test that needs an outage takes a `private_` one.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import settings

from servers import (
    Certificates,
    EtcdServer,
    PostgresServer,
    RedisCluster,
    RedisSentinel,
    RedisServer,
    ServerMissing,
    redis_json_module,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    T = TypeVar("T")


# On every push the same examples, so that a failure belongs to the change; new ones are looked for everywhere else.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@contextmanager
def _running(make: Callable[[], AbstractContextManager[T]]) -> Iterator[T]:
    try:
        server = make()
        opened = server.__enter__()
    except ServerMissing as missing:
        if os.environ.get("PILLION_REQUIRE_SERVERS") == "1":
            pytest.fail(f"{missing} (PILLION_REQUIRE_SERVERS=1)")
        pytest.skip(str(missing))
    try:
        yield opened
    finally:
        server.__exit__(None, None, None)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """A Redis without password."""
    with _running(RedisServer) as server:
        yield server


@pytest.fixture(scope="session")
def redis_acl_server() -> Iterator[RedisServer]:
    """A Redis with the user `rider` alone."""
    with _running(lambda: RedisServer(username="rider", password="p4ss-word")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_json_server() -> Iterator[RedisServer]:
    """A Redis with the JSON module."""
    with _running(lambda: RedisServer(options=(f"loadmodule {redis_json_module()}",))) as server:
        yield server


@pytest.fixture(scope="session")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """PEM files of a server at 127.0.0.1 and of a client."""
    return Certificates.issue(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="session")
def redis_tls_server(certificates: Certificates) -> Iterator[RedisServer]:
    """A Redis that speaks TLS, wants a client certificate and has the user `rider` alone."""
    with _running(lambda: RedisServer(certificates=certificates, username="rider", password="swordfish")) as server:
        yield server


@pytest.fixture(scope="session")
def redis_cluster() -> Iterator[RedisCluster]:
    """Three masters."""
    with _running(RedisCluster) as cluster:
        yield cluster


@pytest.fixture
def redis_sentinel() -> Iterator[RedisSentinel]:
    """A master, a replica and a sentinel; the test may fail the master over."""
    with _running(RedisSentinel) as sentinel:
        yield sentinel


@pytest.fixture
def private_redis() -> Iterator[RedisServer]:
    """A Redis that the test may stop, kill or pause."""
    with _running(RedisServer) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A PostgreSQL with the database `pillion`."""
    with _running(PostgresServer) as server:
        yield server


@pytest.fixture
def private_postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL that the test may stop, kill or pause."""
    with _running(PostgresServer) as server:
        yield server


@pytest.fixture(scope="session")
def etcd_server() -> Iterator[EtcdServer]:
    """An etcd."""
    with _running(EtcdServer) as server:
        yield server
