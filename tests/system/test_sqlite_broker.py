"""`pubsub.sqlite` between real processes, some of which are killed."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from pillion import tasks
from pillion.components import sqlite_member
from pillion.components import sqlite_queue as queue
from pillion.components.sqlite_broker import SqlitePubSub
from pillion.errors import ComponentError
from pillion.kinds.component import Context
from pillion.kinds.pubsub import Delivery, Publish, Rejected
from pillion.testing.pubsub_kit import Inbox

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import pytest

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
    async with asyncio.timeout(90):
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
            await inbox.all_of({number.encode() for number in promised})
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
            async with asyncio.timeout(90):
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
            async with asyncio.timeout(90):
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
            await inbox.all_of({number.encode() for number in promised - handled})

    asyncio.run(run())


def test_order_with_one_handler_at_a_time(tmp_path: Path) -> None:
    """Concurrency 1 keeps the order in which publishes returned."""

    async def run() -> None:
        async with broker(tmp_path / "m.db") as many:
            settings = SqlitePubSub.Settings(connection_string=str(tmp_path / "m.db"), concurrency=1)
            single = SqlitePubSub(settings, Context("single"))
            await single.open()
            inbox = Inbox()
            await single.subscribe("t", {}, inbox)
            for number in range(300):
                await many.publish(Publish("t", str(number).encode()))
            assert await inbox.count(300) == [str(number).encode() for number in range(300)]
            await single.close()

    asyncio.run(run())


def test_slow_and_poisonous_messages_end_in_the_dead_letters(tmp_path: Path) -> None:
    """One handler never ends, one always refuses: both messages go where `deadLetterTopic` says, their neighbours do
    not notice, and the file is empty afterwards but for the dead letters.
    """
    path = tmp_path / "m.db"
    settings = SqlitePubSub.Settings(
        connection_string=str(path),
        processing_timeout=2.0,
        redeliver_interval=0.02,
        max_deliveries=3,
        dead_letter_topic="dead",
    )
    attempts: dict[bytes, list[int]] = {}

    async def handler(delivery: Delivery) -> None:
        attempts.setdefault(delivery.data, []).append(delivery.attempt)
        if delivery.data == b"slow":
            await asyncio.Event().wait()
        if delivery.data == b"poison":
            raise Rejected

    async def run() -> None:
        one = SqlitePubSub(settings, Context("broker"))
        await one.open()
        dead = Inbox()
        await one.subscribe("t", {}, handler)
        await one.subscribe("dead", {}, dead)
        for body in (b"slow", b"poison", b"good"):
            await one.publish(Publish("t", body, metadata={"k": "v"}))
        assert sorted(await dead.count(2)) == [b"poison", b"slow"]
        assert dead.seen[0].metadata == {"k": "v"}
        await one.close()

    asyncio.run(run())
    assert attempts == {b"slow": [1, 2, 3], b"poison": [1, 2, 3], b"good": [1]}


def test_handled_messages_leave_the_file(tmp_path: Path) -> None:
    """A thousand acknowledgements delete at once; fewer do so with the housekeeping of the next start."""
    path = tmp_path / "m.db"

    async def run() -> None:
        async with broker(path) as one:
            inbox = Inbox()
            await one.subscribe("t", {}, inbox)
            await asyncio.gather(*(one.publish(Publish("t", b"x" * 100)) for _ in range(2500)))
            await inbox.count(2500)
        async with broker(path) as one:
            await one.subscribe("t", {}, inbox)
            await one.publish(Publish("t", b"last"))
            await inbox.count(2501)

    asyncio.run(run())
    with contextlib.closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM broker_messages").fetchone()[0] <= 1
        assert db.execute("SELECT count(*) FROM broker_leases").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM broker_owners").fetchone() == (0,)
    assert not Path(f"{path}.wake").exists()


def test_many_messages_with_slow_handlers_are_shared(tmp_path: Path) -> None:
    """A member whose handlers are slow leaves messages to the others of its group."""
    path = tmp_path / "m.db"

    async def run() -> None:
        gate = asyncio.Event()
        first, second = Inbox(gate=gate), Inbox()
        async with broker(path) as one, broker(path) as two:
            await asyncio.gather(*(one.publish(Publish("t", str(number).encode())) for number in range(60)))
            await one.subscribe("t", {}, first)
            await first.until(lambda inbox: inbox.begun >= 10)
            await two.subscribe("t", {}, second)
            await second.count(40)
            gate.set()
            await first.count(20)
            assert sorted(int(body) for body in first.bodies + second.bodies) == list(range(60))

    asyncio.run(run())


def test_a_turn_that_fails_in_an_unexpected_way_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it was to settle is settled by a later one: no message comes twice."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)
    exchange, turns = queue.exchange, 0

    def surprising(db: sqlite3.Connection, turn: queue.Turn) -> queue.Given:
        nonlocal turns
        if turn.done:
            turns += 1
            if turns in (1, 3):
                exchange(db, turn)
                raise RuntimeError("nobody expects this")
        return exchange(db, turn)

    monkeypatch.setattr(queue, "exchange", surprising)

    async def run() -> None:
        path = tmp_path / "m.db"
        async with broker(path) as one:
            inbox = Inbox()
            await one.subscribe("t", {}, inbox)
            for number in range(50):
                await one.publish(Publish("t", str(number).encode()))
            await inbox.count(50)
        async with broker(path) as one:
            await one.subscribe("t", {}, inbox)
            await one.publish(Publish("t", b"last"))
            await inbox.all_of({b"last"})
        assert len(inbox.bodies) == len(set(inbox.bodies)) == 51

    asyncio.run(run())
    assert turns > 2


def test_a_group_that_was_forgotten_is_made_anew_as_soon_as_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_member, "RETRY_S", 0.01)
    join, tries = queue.join, 0

    def failing(db: sqlite3.Connection, topic: str, name: str, now: float) -> int:
        nonlocal tries
        tries += 1
        if tries in (2, 3):
            raise ComponentError("the disk is full")
        return join(db, topic, name, now)

    monkeypatch.setattr(queue, "join", failing)

    async def run() -> None:
        path = tmp_path / "m.db"
        async with broker(path) as one:
            inbox = Inbox()
            await one.subscribe("t", {}, inbox)
            with contextlib.closing(sqlite3.connect(path, timeout=90)) as db, db:
                db.execute("DELETE FROM broker_groups")
            await one.publish(Publish("t", b"after"))
            await inbox.all_of({b"after"})

    asyncio.run(run())
    assert tries == 4


def test_odd_metadata_of_a_row_do_not_keep_the_others(tmp_path: Path) -> None:
    """Another hand has written them: the message comes without."""

    async def run() -> None:
        path = tmp_path / "m.db"
        async with broker(path) as one:
            await one.publish(Publish("t", b"a"))
            with contextlib.closing(sqlite3.connect(path, timeout=90)) as db, db:
                for text in ("{", "[1]", '{"a": 1}', '{"a": "b"}'):
                    db.execute(
                        "INSERT INTO broker_messages (topic, published, metadata, data) VALUES ('t', 0, ?, ?)",
                        (text, text.encode()),
                    )
            inbox = Inbox()
            await one.subscribe("t", {}, inbox)
            await inbox.count(5)
            found = {delivery.data: delivery.metadata for delivery in inbox.seen}
            assert found == {b"a": {}, b"{": {}, b"[1]": {}, b'{"a": 1}': {}, b'{"a": "b"}': {"a": "b"}}

    asyncio.run(run())
