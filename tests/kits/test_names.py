"""The name resolvers of the house against the contract, and what is particular to each."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
import time
from typing import TYPE_CHECKING, ClassVar

import pytest

from pillion.clock import FakeClock
from pillion.components.mdns import MdnsNames
from pillion.components.names_cache import NamesCache
from pillion.components.processes import Process, alive, this_process
from pillion.components.registry_names import RegistryNames
from pillion.components.sqlite_names import SqliteNames
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import Context, decode
from pillion.kinds.names import Instance
from pillion.testing.names_kit import NamesKit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pillion.kinds.names import Resolver


class TestRegistry(NamesKit):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    @contextlib.asynccontextmanager
    async def resolver(self) -> AsyncIterator[Resolver]:
        yield RegistryNames(RegistryNames.Settings(), Context("names", data_dir=str(self.folder)))

    def test_a_killed_sidecar_is_forgotten_at_once(self) -> None:
        """Its process is gone, so its row does not count, however fresh its heartbeat; and it is removed."""
        program = (
            "import asyncio, os, sys\n"
            "from pillion.components.registry_names import RegistryNames\n"
            "from pillion.kinds.component import Context\nfrom pillion.kinds.names import Instance\n"
            "async def main():\n"
            "    names = RegistryNames(RegistryNames.Settings(), Context('names', data_dir=sys.argv[1]))\n"
            "    await names.open()\n"
            "    await names.register(Instance('victim', '', '127.0.0.1', 50001))\n"
            "    print('ready', flush=True)\n"
            "    await asyncio.Event().wait()\n"
            "asyncio.run(main())"
        )

        async def run() -> None:
            child = await asyncio.create_subprocess_exec(
                sys.executable, "-c", program, str(self.folder), stdout=asyncio.subprocess.PIPE
            )
            assert child.stdout is not None
            assert await child.stdout.readline() == b"ready\n"
            assert await self._found("victim") == ["127.0.0.1:50001"]
            child.kill()
            await child.communicate()
            assert await self._found("victim") == []

        asyncio.run(run())
        with contextlib.closing(sqlite3.connect(self.folder / "names.db")) as db:
            assert db.execute("SELECT count(*) FROM pillion_names").fetchone() == (0,)

    def test_rows_of_another_place_count_by_their_heartbeat(self) -> None:
        """A process number of another container says nothing here."""

        async def run() -> None:
            async with self._open():
                with contextlib.closing(sqlite3.connect(self.folder / "names.db", isolation_level=None)) as db:
                    row = "INSERT INTO pillion_names VALUES (?, 'far', '', ?, 1, '1', 'elsewhere', ?)"
                    db.execute(row, ("fresh", "10.0.0.1:1", time.time()))
                    db.execute(row, ("stale", "10.0.0.2:1", time.time() - 60))
                assert await self._found("far") == ["10.0.0.1:1"]

        asyncio.run(run())

    def test_without_a_place_for_the_file_it_says_so(self) -> None:
        names = RegistryNames(RegistryNames.Settings(), Context("names"))
        with pytest.raises(ConfigError, match="connectionString is missing"):
            asyncio.run(names.open())


class TestSqlite(NamesKit):
    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "names.db"

    @contextlib.asynccontextmanager
    async def resolver(self) -> AsyncIterator[Resolver]:
        settings = decode(SqliteNames.Settings, {"connectionString": str(self.path)}, where="test")
        yield SqliteNames(settings, Context("names"))

    def test_the_tables_are_the_references(self) -> None:
        """Spec 9: hosts(registration_id, address, app_id, namespace, last_update) and the level under nr-migrations."""

        async def run() -> None:
            async with self._open() as names:
                await names.register(self._instance("app", 50001, "ns"))
                with contextlib.closing(sqlite3.connect(self.path)) as db:
                    [row] = db.execute("SELECT address, app_id, namespace, typeof(last_update) FROM hosts")
                    assert row == ("127.0.0.1:50001", "app", "ns", "integer")
                    assert db.execute("SELECT key, value FROM metadata").fetchall() == [("nr-migrations", "1")]

        asyncio.run(run())

    def test_stale_rows_do_not_count(self) -> None:
        async def run() -> None:
            async with self._open():
                with contextlib.closing(sqlite3.connect(self.path, isolation_level=None)) as db:
                    row = "INSERT INTO hosts VALUES (?, ?, 'app', '', ?)"
                    db.execute(row, ("a", "10.0.0.1:1", int(time.time())))
                    db.execute(row, ("b", "10.0.0.2:1", int(time.time()) - 5))
                assert await self._found("app") == ["10.0.0.1:1"]

        asyncio.run(run())

    def test_the_same_address_again_replaces_the_row(self) -> None:
        """A sidecar that was killed and starts again at its old port is one sidecar."""

        async def run() -> None:
            async with self._open() as one, self._open() as other:
                await one.register(self._instance("app", 50001))
                await other.register(self._instance("app2", 50001))
                assert await self._found("app") == []
                assert await self._found("app2") == ["127.0.0.1:50001"]

        asyncio.run(run())

    @pytest.mark.parametrize(
        "extra",
        [{"tableName": "a b"}, {"timeout": "100ms"}, {"updateInterval": "1500ms"}, {"updateInterval": "1s"}],
    )
    def test_bad_settings(self, extra: dict[str, str]) -> None:
        with pytest.raises(ConfigError, match="nameresolution sqlite"):
            decode(SqliteNames.Settings, {"connectionString": "x.db", **extra}, where="test")


class TestMdns(NamesKit):
    namespaces: ClassVar = False

    @contextlib.asynccontextmanager
    async def resolver(self) -> AsyncIterator[Resolver]:
        yield MdnsNames(MdnsNames.Settings(), Context("names"))


class TestMdnsOnIpv6(TestMdns):
    """Brackets around the host of an address."""

    address: ClassVar = "[fd00::7]"

    def _instance(self, app_id: str, port: int, namespace: str = "") -> Instance:
        return Instance(app_id, namespace, "fd00::7", port)


def test_who_is_alive() -> None:
    """Number, start and place must agree; a number from elsewhere says nothing."""
    me = this_process()
    assert alive(me) is True
    assert alive(Process(me.pid, me.started + "1", me.place)) is False
    assert alive(Process(me.pid, me.started, "elsewhere")) is None
    assert alive(Process(2**22 + 1, me.started, me.place)) is False


def test_look_ups_are_shared_and_their_failures_not_kept() -> None:
    """Many callers at once ask the table once; an error is not remembered."""
    asked = 0

    async def look_up(app_id: str, namespace: str) -> list[str]:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return [] if asked == 1 else ["10.0.0.1:1"]

    async def run() -> None:
        clock = FakeClock()
        cache = NamesCache(look_up, keep_s=1.0, shun_s=5.0, clock=clock)
        with pytest.raises(ComponentError, match="couldn't find service: app"):
            await cache.get("app", "")
        answers = await asyncio.gather(*(cache.get("app", "") for _ in range(10)))
        assert answers == [["10.0.0.1:1"]] * 10
        assert asked == 2
        clock.advance(1.0)
        await cache.get("app", "")
        assert asked == 3
        await cache.close()

    asyncio.run(run())
