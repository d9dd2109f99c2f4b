"""`pubsub.redis` against a real server: the wire, outages, and what is left pending."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import time
from typing import TYPE_CHECKING, Any, cast

import pytest
import redis

from pillion import tasks
from pillion.components import redis_reading
from pillion.components.redis_streams import RedisPubSub
from pillion.errors import ComponentError
from pillion.kinds.component import Context, decode
from pillion.kinds.pacing import Pacing
from pillion.kinds.pubsub import Delivery, Publish
from pillion.testing.pubsub_kit import Inbox
from steady import steadily

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from servers import RedisCluster, RedisServer

pytestmark = pytest.mark.redis


@contextlib.asynccontextmanager
async def broker(address: str, **metadata: str) -> AsyncIterator[RedisPubSub]:
    given = {"redisHost": address, "consumerID": "group", **metadata}
    one = RedisPubSub(decode(RedisPubSub.Settings, given, where="test"), Context("redis"))
    await one.open()
    try:
        yield one
    finally:
        await one.close()


@contextlib.contextmanager
def client(server: RedisServer) -> Iterator[Any]:
    """The official client, as another application would use it."""
    with redis.Redis(host=server.host, port=server.port) as one:
        yield one


async def eventually(holds: Callable[[], bool]) -> None:
    """The server has no event for this."""
    async with asyncio.timeout(90):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def test_the_stream_is_as_the_reference_writes_it(redis_server: RedisServer) -> None:
    """Field `data`; field `metadata`, a JSON object, when there is metadata."""

    async def run() -> None:
        topic = f"wire-{secrets.token_hex(4)}"
        async with broker(redis_server.address) as one:
            await one.publish(Publish(topic, b"\x00body", "text/plain"))
            await one.publish(Publish(topic, b"{}", metadata={"b": "2", "a": "<1>"}))
            with client(redis_server) as other:
                entries = [fields for _, fields in other.xrange(topic)]
                assert entries[0] == {b"data": b"\x00body"}
                assert entries[1][b"data"] == b"{}"
                assert json.loads(entries[1][b"metadata"]) == {"a": "<1>", "b": "2"}
                await one.subscribe(topic, {}, Inbox())
                [group] = other.xinfo_groups(topic)
                assert group["name"] == b"group"
                await eventually(lambda: [c["name"] for c in other.xinfo_consumers(topic, "group")] == [b"group"])

    asyncio.run(run())


def test_entries_of_others(redis_server: RedisServer) -> None:
    """What another writer put into the stream is delivered, whatever is missing or broken in it."""

    async def run() -> None:
        topic = f"others-{secrets.token_hex(4)}"
        with client(redis_server) as other:
            other.xadd(topic, {"data": "1", "metadata": '{"k":"v","n":1}'})
            other.xadd(topic, {"metadata": "not json"})
            other.xadd(topic, {"data": "3", "more": "x"})
        async with broker(redis_server.address, concurrency="1") as one:
            inbox = Inbox()
            await one.subscribe(topic, {}, inbox)
            assert await inbox.count(3) == [b"1", b"", b"3"]
            assert [delivery.metadata for delivery in inbox.seen] == [{"k": "v", "n": "1"}, {}, {}]

    asyncio.run(run())


def test_trimming(redis_server: RedisServer) -> None:
    """`maxLenApprox` and `streamTTL` keep the stream short, about."""

    async def run() -> None:
        topic = f"trim-{secrets.token_hex(4)}"
        async with broker(redis_server.address, maxLenApprox="100") as one:
            await asyncio.gather(*(one.publish(Publish(topic, b"x")) for _ in range(1000)))
        with client(redis_server) as other:
            assert 100 <= other.xlen(topic) <= 250
            old = f"old-{secrets.token_hex(4)}"
            for number in range(1, 301):
                other.xadd(old, {"data": "x"}, id=f"{number}-1")
            async with broker(redis_server.address, streamTTL="1h") as one:
                await one.publish(Publish(old, b"x"))
            assert other.xlen(old) <= 150

    asyncio.run(run())


def test_success_is_acknowledged_failure_stays_pending(redis_server: RedisServer) -> None:
    """We differ from the reference: it acknowledges what its handler refused."""

    async def run() -> None:
        topic = f"ack-{secrets.token_hex(4)}"
        async with broker(redis_server.address) as one:
            inbox = Inbox(lambda delivery: delivery.data == b"bad")
            await one.subscribe(topic, {}, inbox)
            for body in (b"good", b"bad", b"fine"):
                await one.publish(Publish(topic, body))
            await inbox.count(3)
        with client(redis_server) as other:
            [left] = other.xpending_range(topic, "group", "-", "+", 10)
            assert other.xrange(topic, left["message_id"])[0][1] == {b"data": b"bad"}

    asyncio.run(run())


def test_attempts_are_counted_and_a_slow_handler_is_cancelled(redis_server: RedisServer) -> None:
    """`processingTimeout` ends the handler; the message comes again with its number of deliveries."""

    async def run() -> None:
        topic = f"slow-{secrets.token_hex(4)}"
        attempts: asyncio.Queue[int] = asyncio.Queue()

        async def handler(delivery: Delivery) -> None:
            attempts.put_nowait(delivery.attempt)
            if delivery.attempt < 3:
                await asyncio.Event().wait()

        async with broker(redis_server.address, processingTimeout="100ms", redeliverInterval="30ms") as one:
            await one.subscribe(topic, {}, handler)
            await one.publish(Publish(topic, b"x"))
            async with asyncio.timeout(90):
                assert [await attempts.get() for _ in range(3)] == [1, 2, 3]
            with client(redis_server) as other:
                await eventually(lambda: other.xpending(topic, "group")["pending"] == 0)

    asyncio.run(run())


def test_waiting_messages_are_not_claimed_again(redis_server: RedisServer) -> None:
    """Messages that wait for a handler longer than `processingTimeout` stay ours: each is handled once."""

    async def trial() -> None:
        topic = f"wait-{secrets.token_hex(4)}"
        limits = {"processingTimeout": "1s", "redeliverInterval": "50ms", "concurrency": "1"}
        inbox, start = Inbox(), time.monotonic()

        async def handler(delivery: Delivery) -> None:
            await asyncio.sleep(0.25)
            await inbox(delivery)

        async with broker(redis_server.address, **limits) as one, broker(redis_server.address, **limits) as two:
            for number in range(12):
                await one.publish(Publish(topic, str(number).encode()))
            await one.subscribe(topic, {}, handler)
            await two.subscribe(topic, {}, handler)
            await inbox.count(12)
            assert time.monotonic() - start > 1, "long enough to tell"
        assert sorted(int(body) for body in inbox.bodies) == list(range(12))

    asyncio.run(steadily(trial, 0.3))


def test_a_lost_group_is_made_again(redis_server: RedisServer) -> None:
    """Deleting the stream under a running subscription does not end it."""

    async def run() -> None:
        topic, inbox = f"gone-{secrets.token_hex(4)}", Inbox()
        async with broker(redis_server.address) as one:
            await one.subscribe(topic, {}, inbox)
            with client(redis_server) as other:
                for body in (b"1", b"2"):
                    other.delete(topic)
                    await one.publish(Publish(topic, body))
                    await inbox.all_of([body])

    asyncio.run(run())


def test_nothing_acknowledged_is_lost_when_the_server_is_killed(private_redis: RedisServer) -> None:
    """Publishes go on through `kill -9` and start of the server; those that returned are all delivered, by the same
    subscription.
    """

    async def run() -> None:
        promised: set[bytes] = set()
        inbox, over = Inbox(), asyncio.Event()
        times = {"processingTimeout": "500ms", "redeliverInterval": "100ms", "dialTimeout": "10s"}
        async with broker(private_redis.address, **times) as one:
            await one.subscribe("t", {}, inbox)

            async def publish(lane: int) -> None:
                number = 0
                while not over.is_set():
                    number += 1
                    body = b"%d-%d" % (lane, number)
                    with contextlib.suppress(ComponentError):
                        await one.publish(Publish("t", body))
                        promised.add(body)

            lanes = [asyncio.ensure_future(publish(lane)) for lane in range(8)]
            for _ in range(2):
                before = len(inbox.seen)
                await inbox.until(lambda inbox, before=before: len(inbox.seen) >= before + 300)  # type: ignore[misc]
                await asyncio.to_thread(private_redis.kill)
                await asyncio.to_thread(private_redis.start)
            over.set()
            await asyncio.gather(*lanes)
            assert len(promised) > 500
            await inbox.all_of(promised)

    asyncio.run(run())


def test_a_publish_during_an_outage_fails_clearly(private_redis: RedisServer) -> None:
    async def run() -> None:
        async with broker(private_redis.address, dialTimeout="2s") as one:
            await asyncio.to_thread(private_redis.kill)
            with pytest.raises(ComponentError, match="redis: "):
                await one.publish(Publish("t", b"x"))

    asyncio.run(run())


def test_in_a_cluster(redis_cluster: RedisCluster) -> None:
    """Each stream lives on the node of its slot."""

    async def run() -> None:
        async with broker(redis_cluster.addresses, redisType="cluster") as one:
            inbox = Inbox()
            for topic in ("a", "b", "c", "d", "e"):
                await one.subscribe(topic, {}, inbox)
                await one.publish(Publish(topic, topic.encode()))
            assert sorted(await inbox.count(5)) == [b"a", b"b", b"c", b"d", b"e"]

    asyncio.run(run())


class Odd:
    """A client whose server answers in shapes that no manual has, and fails as nobody expects, before it is well."""

    def __init__(self) -> None:
        self.reads = self.looks = 0
        self.acknowledged: list[object] = []
        self.all_done = asyncio.Event()

    async def own_link(self, *_: object, **__: object) -> Odd:
        return self

    def call(self, *parts: object, **_: object) -> asyncio.Future[Any]:
        return asyncio.ensure_future(self._answer([part for part in parts if isinstance(part, str)], parts))

    async def _answer(self, words: list[str], parts: tuple[object, ...]) -> Any:
        if "XREADGROUP" in words:
            self.reads += 1
            if self.reads == 3:
                raise RuntimeError("nobody expects this")
            odd: list[Any] = [[7], [[b"t"]], None, [[b"t", [[b"1-0", [b"data", b"read"]]]]]]
            if self.reads <= len(odd):
                return odd[self.reads - 1]
            await asyncio.Event().wait()
        elif "XPENDING" in words:
            self.looks += 1
            if self.looks == 2:
                raise RuntimeError("nor this")
            return [[7], [], [[b"2-0", b"c", 10**6, 1]]][self.looks - 1] if self.looks <= 3 else []
        elif "XCLAIM" in words:
            return [[b"2-0", [b"data", b"claimed"]]]
        elif "XACK" in words:
            self.acknowledged += parts[4:]
            if len(self.acknowledged) == 2:
                self.all_done.set()
        return 1

    async def close(self) -> None:
        pass


def test_a_subscription_outlives_a_server_that_talks_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(redis_reading, "FIRST_PAUSE_S", 0.001)

    async def run() -> None:
        given = {"redisHost": "h:1", "processingTimeout": "1s", "redeliverInterval": "1ms"}
        settings = decode(RedisPubSub.Settings, given, where="test")
        inbox, odd = Inbox(), Odd()
        subscription = redis_reading.Subscription(
            cast("Any", odd), settings, "t", "g", inbox, lambda _: None, pacing=Pacing()
        )
        await subscription.start()
        await inbox.all_of({b"read", b"claimed"})
        async with asyncio.timeout(90):
            await odd.all_done.wait()
        assert sorted(odd.acknowledged, key=str) == [b"1-0", b"2-0"]
        await subscription.close()

    asyncio.run(run())
