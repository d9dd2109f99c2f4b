"""Engines of leadership, each against the real thing: never two at once, terms that grow, an end that is told."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import pytest

from pillion.clock import FakeClock, SystemClock
from pillion.components import leadership_postgresql
from pillion.components.leadership_alone import Alone
from pillion.components.leadership_etcd import EtcdLease
from pillion.components.leadership_file import APART, FileLock
from pillion.components.leadership_postgresql import PostgresLock
from pillion.errors import ComponentError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pillion.kinds.leadership import Leadership
    from servers import EtcdServer, PostgresServer


async def one_after_the_other(make: Callable[[], Leadership]) -> None:
    """The second is elected when the first resigns, with a greater term, and knows that it is not the first."""
    first, second = make(), make()
    try:
        await first.open()
        await second.open()
        async with asyncio.timeout(90):
            term = await first.elected()
            assert first.holds()
            waiting = asyncio.create_task(second.elected())
            done, _ = await asyncio.wait((waiting,), timeout=0.3)
            assert not done
            assert not second.holds()
            await first.close()
            assert not first.holds()
            assert await waiting >= term + APART
            assert second.inherited
            assert second.holds()
    finally:
        await first.close()
        await second.close()


def test_by_file(tmp_path: Path) -> None:
    """The clock may stand still, or go back: terms grow."""
    clock = FakeClock()
    asyncio.run(one_after_the_other(lambda: FileLock(tmp_path / "deep" / "lock", clock)))


def test_a_damaged_file_was_someones(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_text('{"te')

    async def play() -> None:
        engine = FileLock(path, FakeClock())
        await engine.open()
        assert await engine.elected() >= 1_767_225_600_000
        assert engine.inherited
        await engine.close()
        nowhere = FileLock(path / "in" / "a" / "file", FakeClock())
        with pytest.raises(ComponentError, match="Not a directory"):
            await nowhere.open()

    asyncio.run(play())


def test_alone() -> None:
    async def play() -> None:
        engine = Alone(FakeClock())
        await engine.open()
        assert await engine.elected() == 1_767_225_600_000
        assert engine.holds()
        assert not engine.inherited
        await engine.close()

    asyncio.run(play())


@pytest.mark.postgresql
def test_by_postgresql(postgres_server: PostgresServer) -> None:
    """Who resigns makes room at once; a session that the server ends is told as a loss before the next one leads."""
    postgres_server.sql("DROP TABLE IF EXISTS pillion_leadership")

    def make() -> PostgresLock:
        return PostgresLock(postgres_server.dsn, SystemClock(), name="kit")

    async def cut() -> None:
        first, second = make(), make()
        told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        first.lost(told.set_result)
        try:
            await first.open()
            await second.open()
            async with asyncio.timeout(90):
                await first.elected()
                waiting = asyncio.create_task(second.elected())
                await asyncio.to_thread(
                    postgres_server.sql,
                    "SELECT pg_terminate_backend(l.pid) FROM pg_locks l WHERE l.locktype = 'advisory' AND l.granted",
                )
                assert "PostgreSQL" in await told
                assert not first.holds()
                assert not waiting.done()
                await waiting
                assert not first.holds()
        finally:
            await first.close()
            await second.close()

    asyncio.run(one_after_the_other(make))
    asyncio.run(cut())


@pytest.mark.postgresql
def test_whoever_waits_for_postgresql_asks_again(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server lets nobody wait for ever: who hears that another leads stands on, on the same connection."""
    monkeypatch.setattr(leadership_postgresql, "TURN_S", 0.05)
    postgres_server.sql("DROP TABLE IF EXISTS pillion_leadership")

    async def play() -> None:
        first, second = (PostgresLock(postgres_server.dsn, SystemClock(), name="turns") for _ in range(2))
        asked = asyncio.Event()
        handler = logging.Handler()
        monkeypatch.setattr(handler, "emit", lambda record: asked.set() if "another leads" in record.msg else None)
        log = logging.getLogger("pillion.components.leadership")
        monkeypatch.setattr(log, "level", logging.DEBUG)
        log.addHandler(handler)
        try:
            await first.open()
            await second.open()
            async with asyncio.timeout(90):
                await first.elected()
                waiting = asyncio.create_task(second.elected())
                connection = second._connection
                await asked.wait()
                assert second._connection is connection
                await first.close()
                await waiting
        finally:
            log.removeHandler(handler)
            await first.close()
            await second.close()

    asyncio.run(play())


@pytest.mark.etcd
def test_by_etcd(etcd_server: EtcdServer) -> None:
    """The first endpoint does not answer: the next one is asked."""
    endpoints = [etcd_server.url, "http://127.0.0.1:1"]
    asyncio.run(one_after_the_other(lambda: EtcdLease(endpoints, SystemClock(), key="kit/leader")))


@pytest.mark.etcd
@pytest.mark.postgresql
def test_whoever_stood_still_vouches_for_nothing(etcd_server: EtcdServer, postgres_server: PostgresServer) -> None:
    """Before the lease can have expired, by the monotonic clock, whether or not a timer has run."""

    async def play(engine: Leadership, clock: FakeClock, vouched_s: float) -> None:
        try:
            await engine.open()
            await engine.elected()
            clock.advance(vouched_s - 0.1)
            assert engine.holds()
            clock.advance(0.2)
            assert not engine.holds()
        finally:
            await engine.close()

    clock = FakeClock()
    asyncio.run(play(EtcdLease([etcd_server.url], clock, key="still/leader"), clock, 8.0))
    asyncio.run(play(PostgresLock(postgres_server.dsn, clock, name="still"), clock, 4.0))


def test_settings_that_are_none() -> None:
    with pytest.raises(ConfigError):
        EtcdLease([], SystemClock())
    with pytest.raises(ConfigError, match="no endpoint"):
        EtcdLease(["ftp://x"], SystemClock())
    with pytest.raises(ConfigError, match="does not begin a key=value pair"):
        PostgresLock("nonsense", SystemClock())
