"""Doorbells ring between processes, know the dead, and work with and without Unix sockets."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import pytest

from pillion.components.doorbell import Doorbell

if TYPE_CHECKING:
    from pathlib import Path

EVERY_KIND = pytest.mark.parametrize("unix", [True, False], ids=["unix", "udp"])


class Heard:
    def __init__(self) -> None:
        self.queue: asyncio.Queue[bytes] = asyncio.Queue()

    def __call__(self, data: bytes) -> None:
        self.queue.put_nowait(data)

    async def next(self) -> bytes:
        async with asyncio.timeout(90):
            return await self.queue.get()


@EVERY_KIND
def test_a_ring_reaches_all_others(tmp_path: Path, unix: bool) -> None:
    """Also those who came after the directory was last listed, and not oneself."""

    async def run() -> None:
        heard = [Heard() for _ in range(3)]
        bells = [Doorbell(str(tmp_path / "f"), f"b{i}", heard[i], unix=unix) for i in range(3)]
        await bells[0].open()
        await bells[1].open()
        bells[0].ring(b"one")
        assert await heard[1].next() == b"one"
        await bells[2].open()
        bells[0].ring(b"two")
        assert [await heard[1].next(), await heard[2].next()] == [b"two", b"two"]
        assert heard[0].queue.empty()
        for bell in bells:
            bell.close()
        directories.append(bells[0].directory)

    directories: list[str] = []
    asyncio.run(run())
    assert not os.path.exists(directories[0]), "the last one removes the directory"


@EVERY_KIND
def test_who_lives(tmp_path: Path, unix: bool) -> None:
    """Oneself and a neighbour live; of a bell that is not there nothing is known, nor of a neighbour over UDP."""

    async def run() -> None:
        one = Doorbell(str(tmp_path / "f"), "one", Heard(), unix=unix)
        two = Doorbell(str(tmp_path / "f"), "two", Heard(), unix=unix)
        await one.open()
        await two.open()
        assert [one.alive("one"), one.alive("two"), one.alive("three")] == [True, True if unix else None, None]
        two.close()
        two.close()
        assert one.alive("two") is None
        one.close()

    asyncio.run(run())


def test_a_dead_process_is_known_and_its_bell_taken_down(tmp_path: Path) -> None:
    """The kernel refuses a datagram for a socket whose process ended without a word."""
    program = (
        "import asyncio, os, sys\nfrom pillion.components.doorbell import Doorbell\n"
        "async def main():\n    await Doorbell(sys.argv[1], sys.argv[2], print).open()\n    os._exit(0)\n"
        "asyncio.run(main())"
    )

    async def run() -> None:
        path = str(tmp_path / "f")
        for name in ("dead1", "dead2"):
            child = await asyncio.create_subprocess_exec(sys.executable, "-c", program, path, name)
            assert await child.wait() == 0
        one = Doorbell(path, "one", Heard())
        await one.open()
        assert one.alive("dead1") is False
        assert one.ring(b"x") == ["dead2"]
        assert os.listdir(one.directory) == ["one.sock"]
        assert one.ring(b"x") == []
        one.close()

    asyncio.run(run())


def test_a_long_path_has_its_bells_elsewhere(tmp_path: Path) -> None:
    """Socket paths are limited to about a hundred bytes; both sides agree on the other place."""

    async def run() -> None:
        deep = tmp_path / ("d" * 120)
        deep.mkdir()
        heard = Heard()
        one, two = Doorbell(str(deep / "f"), "one", Heard()), Doorbell(str(deep / "f"), "two", heard)
        await one.open()
        await two.open()
        assert not one.directory.startswith(str(deep))
        one.ring(b"x")
        assert await heard.next() == b"x"
        one.close()
        two.close()

    asyncio.run(run())


def test_a_full_bell_counts_as_rung(tmp_path: Path) -> None:
    """Nobody waits for a neighbour that does not listen just now."""

    async def run() -> None:
        one, two = Doorbell(str(tmp_path / "f"), "one", Heard()), Doorbell(str(tmp_path / "f"), "two", Heard())
        await one.open()
        await two.open()
        for _ in range(2000):
            assert one.ring(b"x" * 64) == []
        assert one.alive("two") is True
        one.close()
        two.close()

    asyncio.run(run())
