"""Fixtures for all tests: real servers, one of each for a session (for each worker under xdist).

A server whose program is absent skips its tests with the name of the package, or fails them when the environment has
PILLION_REQUIRE_SERVERS=1. Tests share the session's servers: they use keys, tables and users of their own, and never
stop them. A test that needs an outage takes a `private_` one.
"""

from __future__ import annotations

import logging
import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

import pytest
from hypothesis import HealthCheck, settings

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
    from collections.abc import Callable, Generator, Iterator
    from contextlib import AbstractContextManager

    T = TypeVar("T")


# A machine that stands still for a while says nothing about an example.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# On every push the same examples, so that a failure belongs to the change; new ones are looked for everywhere else.
settings.register_profile("ci", settings.get_profile("patient"), derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "patient")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test has logged of hostile texts must be fit for the pipe between processes, which is UTF-8."""
    report = yield
    report.sections = [(name, text.encode("utf-8", "backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.fixture(autouse=True)
def process_as_before() -> Iterator[None]:
    """What a test does to its process ends with it: logs, environment, folder, answers to signals."""
    logs = {name: (log.level, log.propagate, log.disabled, log.handlers[:]) for name, log in _loggers().items()}
    environ, folder = dict(os.environ), os.getcwd()
    answers = {number: answer for number in _SIGNALS if (answer := signal.getsignal(number)) is not None}
    yield
    for name, log in _loggers().items():
        level, log.propagate, log.disabled, handlers = logs.get(name, (logging.NOTSET, True, False, log.handlers[:]))
        log.setLevel(level)
        for handler in log.handlers[:]:
            if handler not in handlers:
                log.removeHandler(handler)
    for name in os.environ.keys() - environ.keys() - {"PYTEST_CURRENT_TEST"}:
        del os.environ[name]
    os.environ |= {name: value for name, value in environ.items() if name != "PYTEST_CURRENT_TEST"}
    os.chdir(folder)
    for number, answer in answers.items():
        signal.signal(number, answer)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD, signal.SIGUSR1)


def _loggers() -> dict[str, logging.Logger]:
    made = {name: log for name, log in logging.root.manager.loggerDict.items() if isinstance(log, logging.Logger)}
    return {"": logging.getLogger(), **made}


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
