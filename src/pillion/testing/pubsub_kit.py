"""The contract of brokers as a test class. Subclass it, say how to make a broker, and let pytest collect it.

    class TestMyBroker(PubSubKit):
        redelivers = True

        @contextlib.asynccontextmanager
        async def broker(self, app_id):
            yield MyBroker(decode(MyBroker.Settings, {...}, where="kit"), Context("mine", app_id=app_id))   # not opened

Each test uses topics of its own, so that one server can serve them all. A declared feature is a tested feature; what a
broker cannot do it does not declare, and the test of it passes without looking. Give it a short redelivery interval.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, ClassVar

from pillion.errors import ComponentError
from pillion.kinds.pubsub import BulkEntry, BulkPubSub, Delivery, Feature, Publish, PubSub, Rejected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Collection
    from contextlib import AbstractAsyncContextManager

PATIENCE_S = 90.0
"""How long a test waits for what must come."""


class Inbox:
    """A handler that keeps what it gets, and can be told to refuse or to take its time."""

    def __init__(self, refuse: Callable[[Delivery], bool] | None = None, gate: asyncio.Event | None = None) -> None:
        self.seen: list[Delivery] = []
        self.distinct: set[bytes] = set()
        """The bodies of `seen`."""
        self.begun = 0
        self._refuse = refuse
        self._gate = gate
        self._changed = asyncio.Event()

    async def __call__(self, delivery: Delivery) -> None:
        self.begun += 1
        self._changed.set()
        if self._gate is not None:
            await self._gate.wait()
        self.seen.append(delivery)
        self.distinct.add(delivery.data)
        self._changed.set()
        if self._refuse is not None and self._refuse(delivery):
            raise Rejected("the test says so")

    @property
    def bodies(self) -> list[bytes]:
        return [delivery.data for delivery in self.seen]

    async def until(self, enough: Callable[[Inbox], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not enough(self):
                await self._changed.wait()
                self._changed.clear()

    async def all_of(self, wanted: Collection[bytes]) -> None:
        """Wait until each of these bodies was delivered."""
        for body in wanted:
            if body not in self.distinct:
                await self.until(lambda inbox, body=body: body in inbox.distinct)  # type: ignore[misc]

    async def count(self, wanted: int) -> list[bytes]:
        """Wait for so many deliveries and return their bodies."""
        await self.until(lambda inbox: len(inbox.seen) >= wanted)
        return self.bodies


class PubSubKit:
    """What every broker must do."""

    stores: ClassVar[bool] = True
    """A message without a running subscriber waits for one."""
    redelivers: ClassVar[bool] = True
    """A rejected message comes again by itself, soon."""
    hands_back_metadata: ClassVar[bool] = True
    """What the publisher said in metadata arrives with the message."""

    def broker(self, app_id: str) -> AbstractAsyncContextManager[PubSub]:
        """Return a context manager that gives a broker not yet opened; brokers of one test share their messages.
        `app_id` is the consumer group.
        """
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def _open(self, app_id: str = "kit") -> AsyncIterator[PubSub]:
        async with self.broker(app_id) as broker:
            await broker.open()
            try:
                yield broker
            finally:
                await broker.close()

    def test_bytes_arrive_as_they_were_sent(self) -> None:
        """Payloads are opaque: empty, binary, large; content of metadata included where the broker hands it back."""
        bodies = [b"{}", b"\x00\xff\xfe", b"", "ünï".encode(), bytes(range(256)) * 1024]

        async def run() -> None:
            async with self._open() as broker:
                topic, inbox = _topic(), Inbox()
                await broker.subscribe(topic, {}, inbox)
                for body in bodies:
                    await broker.publish(Publish(topic, body, "application/octet-stream", {"colour": "blue"}))
                assert sorted(await inbox.count(len(bodies))) == sorted(bodies)
                assert {delivery.topic for delivery in inbox.seen} == {topic}
                if self.hands_back_metadata:
                    assert [delivery.metadata.get("colour") for delivery in inbox.seen] == ["blue"] * len(bodies)

        asyncio.run(run())

    def test_every_message_arrives_once_when_all_goes_well(self) -> None:
        """A thousand messages published at the same time arrive, none twice, none on another topic."""

        async def run() -> None:
            async with self._open() as broker:
                topic, other, inbox, strange = _topic(), _topic(), Inbox(), Inbox()
                await broker.subscribe(topic, {}, inbox)
                await broker.subscribe(other, {}, strange)
                bodies = [str(number).encode() for number in range(1000)]
                await asyncio.gather(*(broker.publish(Publish(topic, body)) for body in bodies))
                assert sorted(await inbox.count(1000)) == sorted(bodies)
                await broker.publish(Publish(other, b"last"))
                await strange.count(1)
                assert len(inbox.seen) == 1000
                assert strange.bodies == [b"last"]

        asyncio.run(run())

    def test_a_later_subscriber_gets_what_was_published_before(self) -> None:
        async def run() -> None:
            async with self._open() as broker:
                topic, inbox = _topic(), Inbox()
                await broker.publish(Publish(topic, b"early"))
                await broker.subscribe(topic, {}, inbox)
                await broker.publish(Publish(topic, b"late"))
                expected = [b"early", b"late"] if self.stores else [b"late"]
                assert sorted(await inbox.count(len(expected))) == expected

        asyncio.run(run())

    def test_groups_share_and_copy(self) -> None:
        """Members of one group share the messages; another group gets all of them again."""

        async def run() -> None:
            if not self.stores:
                return
            async with self._open("one") as first, self._open("one") as second, self._open("two") as third:
                topic, shared, own = _topic(), Inbox(), Inbox()
                await first.subscribe(topic, {}, shared)
                await second.subscribe(topic, {}, shared)
                await third.subscribe(topic, {}, own)
                bodies = [str(number).encode() for number in range(200)]
                await asyncio.gather(*(first.publish(Publish(topic, body)) for body in bodies))
                assert sorted(await shared.count(200)) == sorted(bodies)
                assert sorted(await own.count(200)) == sorted(bodies)
                assert len(shared.seen) == 200

        asyncio.run(run())

    def test_a_rejected_message_comes_again(self) -> None:
        """Its neighbours do not wait for it."""

        async def run() -> None:
            if not self.redelivers:
                return
            async with self._open() as broker:
                topic, refused = _topic(), set[bytes]()

                def refuse(delivery: Delivery) -> bool:
                    first_time = delivery.data == b"bad" and b"bad" not in refused
                    refused.add(delivery.data)
                    return first_time

                inbox = Inbox(refuse)
                await broker.subscribe(topic, {}, inbox)
                await broker.publish(Publish(topic, b"bad"))
                await broker.publish(Publish(topic, b"good"))
                assert sorted(await inbox.count(3)) == [b"bad", b"bad", b"good"]

        asyncio.run(run())

    def test_close_waits_for_handlers_and_leaves_the_rest(self) -> None:
        """What was in a handler is acknowledged, what was not begun is the next subscriber's: nothing is lost and
        nothing handled twice.
        """

        async def run() -> None:
            topic, gate = _topic(), asyncio.Event()
            first, second = Inbox(gate=gate), Inbox()
            async with self._open() as broker:
                subscription = await broker.subscribe(topic, {}, first)
                for number in range(50):
                    await broker.publish(Publish(topic, str(number).encode()))
                await first.until(lambda inbox: inbox.begun > 0)
                closing = asyncio.ensure_future(subscription.close())
                await asyncio.sleep(0)
                assert not closing.done()
                gate.set()
                await closing
                handled = len(first.seen)
                assert handled == first.begun
                if self.stores:
                    await broker.subscribe(topic, {}, second)
                    await second.count(50 - handled)
                    numbers = sorted(int(body) for body in first.bodies + second.bodies)
                    assert numbers == list(range(50))
                assert len(first.seen) == handled
                await subscription.close()

        asyncio.run(run())

    def test_pause_stops_the_flow(self) -> None:
        """After `pause` nothing new begins; the subscription can still be closed."""

        async def run() -> None:
            async with self._open() as broker:
                topic, paused, inbox = _topic(), Inbox(), Inbox()
                subscription = await broker.subscribe(topic, {}, paused)
                await subscription.pause()
                await broker.subscribe(topic, {}, inbox)
                await broker.publish(Publish(topic, b"x"))
                assert await inbox.count(1) == [b"x"]
                await subscription.close()
                assert paused.begun == 0

        asyncio.run(run())

    def test_bulk_publish(self) -> None:
        async def run() -> None:
            async with self._open() as broker:
                if Feature.BULK_PUBLISH not in broker.features:
                    assert not isinstance(broker, BulkPubSub)
                    return
                assert isinstance(broker, BulkPubSub)
                topic, inbox = _topic(), Inbox()
                await broker.subscribe(topic, {}, inbox)
                bodies = [str(number).encode() for number in range(300)]
                entries = [BulkEntry(str(number), body) for number, body in enumerate(bodies)]
                assert await broker.bulk_publish(topic, entries, {}) == []
                assert sorted(await inbox.count(300)) == sorted(bodies)

        asyncio.run(run())

    def test_wildcards(self) -> None:
        """`a*` takes `ab`, not `a` and not `b`."""

        async def run() -> None:
            async with self._open() as broker:
                if Feature.SUBSCRIBE_WILDCARDS not in broker.features:
                    return
                topic, inbox = _topic(), Inbox()
                await broker.subscribe(topic + "*", {}, inbox)
                for name in (topic, topic + "1", "x" + topic, topic + "/2"):
                    await broker.publish(Publish(name, name.encode()))
                assert sorted(await inbox.count(2)) == sorted([f"{topic}1".encode(), f"{topic}/2".encode()])

        asyncio.run(run())

    def test_expired_messages_are_not_delivered(self) -> None:
        """A message whose life ended before a subscriber came is gone; a bad TTL is refused."""

        async def run() -> None:
            async with self._open() as broker:
                if Feature.MESSAGE_TTL not in broker.features:
                    return
                topic, inbox = _topic(), Inbox()
                await broker.publish(Publish(topic, b"dead", metadata={"TTL": "1ns"}))
                await broker.publish(Publish(topic, b"alive", metadata={"ttlInSeconds": "1000"}))
                try:
                    await broker.publish(Publish(topic, b"?", metadata={"ttlInSeconds": "soon"}))
                except ComponentError as error:
                    refusal = str(error)
                assert "ttlInSeconds" in refusal
                await broker.subscribe(topic, {}, inbox)
                assert await inbox.count(1) == [b"alive"]
                await broker.publish(Publish(topic, b"end"))
                assert await inbox.count(2) == [b"alive", b"end"]

        asyncio.run(run())

    def test_delayed_messages_come_later(self) -> None:
        """A message with `pillion.delay` comes after those published behind it."""

        async def run() -> None:
            async with self._open() as broker:
                if Feature.DELAY not in broker.features:
                    return
                topic, inbox = _topic(), Inbox()
                await broker.subscribe(topic, {}, inbox)
                loop = asyncio.get_running_loop()
                start = loop.time()
                await broker.publish(Publish(topic, b"later", metadata={"pillion.delay": "2s"}))
                await broker.publish(Publish(topic, b"now"))
                assert await inbox.count(2) == [b"now", b"later"]
                assert loop.time() - start >= 1.99, "not early"

        asyncio.run(run())

    def test_life(self) -> None:
        """`close` works without `open` and twice; after it a publish fails clearly."""

        async def run() -> None:
            async with self.broker("kit") as broker:
                await broker.close()
            async with self.broker("kit") as broker:
                await broker.open()
                await broker.ping()
                await broker.close()
                await broker.close()
                failed = False
                try:
                    await broker.publish(Publish(_topic(), b""))
                except ComponentError:
                    failed = True
                assert failed

        asyncio.run(run())


def _topic() -> str:
    return f"kit-{secrets.token_hex(4)}"
