"""`pubsub.sqlite` between real processes, some of which are killed."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pillion.components.sqlite_broker import SqlitePubSub
from pillion.kinds.component import Context
from pillion.kinds.pubsub import Publish
from pillion.testing.pubsub_kit import Inbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROGRAM = Path(__file__).with_name("broker_process.py")


@contextlib.asynccontextmanager
async def process(*arguments: object) -> AsyncIterator[asyncio.subprocess.Process]:
    child = await asyncio.create_subprocess_exec(
        sys.executable, str(PROGRAM), *map(str, arguments), stdout=asyncio.subprocess.PIPE
    )
    try:
        yield child
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


@contextlib.asynccontextmanager
async def broker(path: Path, group: str = "group") -> AsyncIterator[SqlitePubSub]:
    one = SqlitePubSub(SqlitePubSub.Settings(connection_string=str(path), consumer_id=group), Context("broker"))
    await one.open()
    try:
        yield one
    finally:
        await one.close()


async def line(child: asyncio.subprocess.Process) -> str:
    assert child.stdout is not None
    async with asyncio.timeout(20):
        return (await child.stdout.readline()).decode().strip()


def test_a_killed_publisher_loses_nothing_it_was_promised(tmp_path: Path) -> None:
    """Every publish that returned before `kill -9` is delivered afterwards."""

    async def run() -> None:
        path = tmp_path / "m.db"
        async with process("publish", path, "t") as child:
            promised = {await line(child) for _ in range(500)}
            child.kill()
            assert child.stdout is not None
            promised |= set((await child.stdout.read()).decode().split("\n")[:-1])
        async with broker(path) as alive:
            inbox = Inbox()
            await alive.subscribe("t", {}, inbox)
            await inbox.until(lambda inbox: promised <= {body.decode() for body in inbox.bodies})
            assert len(inbox.bodies) == len(set(inbox.bodies)), "and nothing twice"

    asyncio.run(run())


def test_what_a_killed_consumer_held_goes_to_another_at_once(tmp_path: Path) -> None:
    """Its leases would run for a minute; the bell that nobody answers ends them."""

    async def run() -> None:
        path = tmp_path / "m.db"
        async with broker(path) as alive, process("hold", path, "t", "group") as child:
            assert await line(child) == "ready"
            for number in range(30):
                await alive.publish(Publish("t", str(number).encode()))
            held = {await line(child) for _ in range(10)}
            assert len(held) == 10
            inbox = Inbox()
            await alive.subscribe("t", {}, inbox)
            child.kill()
            await child.wait()
            await alive.publish(Publish("t", b"30"))
            await inbox.count(31)
            assert sorted(int(body) for body in inbox.bodies) == list(range(31))

    asyncio.run(run())


def test_a_publish_wakes_the_subscriber_in_another_process(tmp_path: Path) -> None:
    """A hundred messages, each published after the one before was seen there: by event, for 5 seconds each would be
    far too long.
    """

    async def run() -> None:
        path = tmp_path / "m.db"
        async with broker(path) as here, process("consume", path, "t", "group") as child:
            assert await line(child) == "ready"
            async with asyncio.timeout(20):
                for number in range(100):
                    await here.publish(Publish("t", str(number).encode()))
                    assert await line(child) == str(number)

    asyncio.run(run())


def test_killing_consumers_under_load_loses_nothing(tmp_path: Path) -> None:
    """Publisher and consumers in processes of their own, consumers killed one after the other: all that was promised
    is handled by somebody.
    """

    async def run() -> None:
        path = tmp_path / "m.db"
        handled: set[str] = set()
        promised: set[str] = set()

        async def collect(child: asyncio.subprocess.Process, into: set[str], at_most: int = 10**9) -> None:
            assert child.stdout is not None
            limit = len(into) + at_most
            async with asyncio.timeout(20):
                async for text in child.stdout:
                    if text.endswith(b"\n"):
                        into.add(text.decode().strip())
                    if len(into) >= limit:
                        return

        async with process("publish", path, "t") as publisher:
            publishing = asyncio.ensure_future(collect(publisher, promised))
            for _ in range(3):
                async with process("consume", path, "t", "group") as consumer:
                    await collect(consumer, handled, at_most=200)
                    consumer.kill()
                    await collect(consumer, handled)
            publisher.kill()
            await publishing
        async with broker(path) as last:
            inbox = Inbox()
            await last.subscribe("t", {}, inbox)
            await inbox.until(lambda inbox: promised <= handled | {body.decode() for body in inbox.bodies})

    asyncio.run(run())
