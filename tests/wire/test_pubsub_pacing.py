"""Concurrency and order of single subscriptions: what is written down, and its effect on every way to subscribe."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.blocks.pacing import Ordered, key_of
from pillion.kinds.pacing import Pacing
from pillion.kinds.pubsub import Delivery, Publish, Rejected
from pillion.kinds.resources import Route, SubscriptionResource
from pillion.wire.messages import runtime as m
from pubsub_rig import App, ParallelBroker, Seen, sidecar

TWO = {"pillion.concurrency": "2"}


@pytest.mark.parametrize(
    ("metadata", "pacing"),
    [
        ({}, Pacing()),
        ({"other": "1"}, Pacing()),
        ({"pillion.concurrency": ""}, Pacing()),
        ({"Pillion.Concurrency": " 5 "}, Pacing(5)),
        ({"pillion.orderedBy": "partitionKey"}, Pacing(0, "partitionKey")),
        ({"pillion.orderedBy": "event.subject", "pillion.concurrency": "10000"}, Pacing(10_000, "", "subject")),
    ],
)
def test_metadata(metadata: dict[str, str], pacing: Pacing) -> None:
    assert Pacing.of(metadata) == pacing


@pytest.mark.parametrize("text", ["0", "-1", "10001", "many", "1.5", "9" * 5000, "٣"])
def test_bad_concurrency(text: str) -> None:
    with pytest.raises(ValueError, match=r"pillion\.concurrency must be a number from 1 to 10000"):
        Pacing.of({"pillion.concurrency": text})


def test_bad_order() -> None:
    with pytest.raises(ValueError, match="names no attribute"):
        Pacing.of({"pillion.orderedBy": "event."})


def test_keys() -> None:
    by_key, by_event = Pacing(key="k"), Pacing(attribute="subject")
    assert key_of(by_key, Delivery("t", b"", {"k": "v"})) == "v"
    assert key_of(by_key, Delivery("t", b"", {"K": "v"})) is None
    assert key_of(by_event, Delivery("t", b'{"subject": "a/b"}', {})) == "a/b"
    assert key_of(by_event, Delivery("t", b'{"subject": 7}', {})) == "7"
    for data in (b"{}", b"no json", b"[]", b'{"subject": null}', b'{"subject": ""}'):
        assert key_of(by_event, Delivery("t", data, {})) is None


class Counted:
    """An application that holds every message until it is let go, and knows how many it had at a time."""

    def __init__(self) -> None:
        self.now = self.peak = 0
        self.gate = asyncio.Semaphore(0)
        self.came = asyncio.Event()

    async def __call__(self, seen: Seen) -> str:
        self.now += 1
        self.peak = max(self.peak, self.now)
        self.came.set()
        await self.gate.acquire()
        self.now -= 1
        return ""


@pytest.mark.parametrize("how", ["declarative", "programmatic"])
@pytest.mark.parametrize(("metadata", "peak"), [(TWO, 2), ({}, 6)])
def test_concurrency(how: str, metadata: dict[str, str], peak: int) -> None:
    """Six messages at once from the broker: so many are with the application as the subscription says."""

    async def main() -> None:
        counted, broker = Counted(), ParallelBroker()
        app = App(answers={"/h": counted})
        resource = SubscriptionResource(name="s", pubsub="ps", topic="t", rules=(Route("", "/h"),), metadata=metadata)
        if how == "programmatic":
            app.subscribe = [{"pubsubname": "ps", "topic": "t", "route": "/h", "metadata": metadata}]
        async with sidecar(app, broker=broker, resources=[resource] if how == "declarative" else []) as s:
            for number in range(6):
                await s.broker.publish(Publish("t", b"{}", metadata={"n": str(number)}))
            await s.broker.until(lambda: broker.begun == 6)
            await app.got(peak)
            for _ in range(6):
                counted.gate.release()
            assert await s.broker.ended(6) == [("{}", "ack")] * 6
        assert counted.peak == peak

    asyncio.run(main())


def test_concurrency_of_a_stream() -> None:
    async def main() -> None:
        broker = ParallelBroker()
        async with sidecar(broker=broker) as s:
            stream = s.stream()
            initial = m.SubscribeTopicEventsRequestInitialAlpha1(pubsub_name="ps", topic="t", metadata=TWO)
            await stream.write(m.SubscribeTopicEventsRequestAlpha1(initial_request=initial))
            assert (await stream.read()).HasField("initial_response")
            for number in range(3):
                await s.broker.publish(Publish("t", json.dumps({"id": str(number)}).encode()))
            assert [(await stream.read()).event_message.id for _ in range(2)] == ["0", "1"]
            third = asyncio.ensure_future(stream.read())
            await s.broker.until(lambda: broker.begun == 3)
            assert not third.done()
            processed = m.SubscribeTopicEventsRequestProcessedAlpha1(id="1", status=m.TopicEventResponse(status=0))
            await stream.write(m.SubscribeTopicEventsRequestAlpha1(event_processed=processed))
            assert (await asyncio.wait_for(third, 90)).event_message.id == "2"
            stream.cancel()

    asyncio.run(main())


def test_what_cannot_be_read_starts_nothing() -> None:
    """The other subscriptions run; a stream is told."""

    async def main() -> None:
        bad = {"pillion.concurrency": "none"}
        rows = [("bad", bad), ("raw", {"rawPayload": "true", "pillion.orderedBy": "event.x"}), ("good", {})]
        app = App([{"pubsubname": "ps", "topic": t, "route": "/h", "metadata": metadata} for t, metadata in rows])
        async with sidecar(app) as s:
            for topic, _ in rows:
                await s.broker.publish(Publish(topic, b"{}"))
            assert await s.broker.ended(1) == [("good", "ack")]
            stream = s.stream()
            initial = m.SubscribeTopicEventsRequestInitialAlpha1(pubsub_name="ps", topic="t", metadata=bad)
            await stream.write(m.SubscribeTopicEventsRequestAlpha1(initial_request=initial))
            with pytest.raises(grpc.aio.AioRpcError, match=r"pillion\.concurrency must be a number"):
                await stream.read()

    asyncio.run(main())


def test_bulks_are_counted_as_bulks() -> None:
    """With one at a time, the second bulk waits for the first; each is full nevertheless."""

    async def main() -> None:
        counted, broker = Counted(), ParallelBroker()
        bulk = {"enabled": True, "maxMessagesCount": 3, "maxAwaitDurationMs": 60_000}
        metadata = {"pillion.concurrency": "1"}
        wants = {"pubsubname": "ps", "topic": "t", "route": "/h", "bulkSubscribe": bulk, "metadata": metadata}

        async def answer(seen: Seen) -> str:
            await counted(seen)
            statuses = [{"entryId": entry["entryId"], "status": "SUCCESS"} for entry in seen.json["entries"]]
            return json.dumps({"statuses": statuses})

        app = App([wants], answers={"/h": answer})
        async with sidecar(app, broker=broker) as s:
            for _ in range(6):
                await s.broker.publish(Publish("t", b"{}"))
            await s.broker.until(lambda: broker.begun == 6)
            await app.got(1)
            counted.gate.release()
            counted.gate.release()
            assert await s.broker.ended(6) == [("{}", "ack")] * 6
        assert counted.peak == 1
        assert [len(seen.json["entries"]) for seen in app.seen] == [3, 3]

    asyncio.run(main())


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 2)), max_size=30), st.integers(1, 4), st.data())
def test_lanes(messages: list[tuple[str, int]], slots: int, data: st.DataObject) -> None:
    """Whatever fails how often, and whoever is cut short: per key one at a time and in order, and nothing is left."""
    cut = data.draw(st.sets(st.integers(0, max(len(messages) - 1, 0)), max_size=5))

    async def main() -> None:
        busy: set[str] = set()
        done: dict[str, list[int]] = {}
        left = {str(number): failures for number, (_, failures) in enumerate(messages)}

        async def handle(delivery: Delivery) -> None:
            key, number = delivery.metadata["k"], delivery.data.decode()
            assert key not in busy
            busy.add(key)
            assert len(busy) <= slots
            try:
                await asyncio.sleep(0)
                if left[number]:
                    left[number] -= 1
                    raise Rejected("not yet")
                done.setdefault(key, []).append(int(number))
            finally:
                busy.discard(key)

        lanes = Ordered(handle, Pacing(key="k"), slots=slots, patience_s=0)
        deliveries = [Delivery("t", str(number).encode(), {"k": key}) for number, (key, _) in enumerate(messages)]
        tasks = [asyncio.ensure_future(lanes.handle(delivery)) for delivery in deliveries]
        await asyncio.sleep(0)
        for number in cut & set(range(len(tasks))):
            tasks[number].cancel()
        ends = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(end is None or isinstance(end, asyncio.CancelledError) for end in ends)
        for key, numbers in done.items():
            assert numbers == sorted(numbers), key
        finished = {number for numbers in done.values() for number in numbers}
        assert finished >= set(range(len(messages))) - cut
        assert not lanes._lanes

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pillion.blocks.pacing.FIRST_PAUSE_S", 0.0)
        asyncio.run(main())


def test_the_end_waits_for_nobodys_next_attempt() -> None:
    """A message between two attempts is withheld at once when its subscription ends, and so are its successors."""

    async def main() -> None:
        failed = asyncio.Event()

        async def handle(delivery: Delivery) -> None:
            failed.set()
            raise Rejected("down")

        lanes = Ordered(handle, Pacing(key="k"), slots=1, patience_s=0)
        tasks = [asyncio.ensure_future(lanes.handle(Delivery("t", b"", {"k": "a"}))) for _ in range(3)]
        await failed.wait()
        lanes.begin_close()
        ends: list[Any] = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 90)
        assert [isinstance(end, asyncio.CancelledError) for end in ends] == [True] * 3

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pillion.blocks.pacing.FIRST_PAUSE_S", 3600.0)
        asyncio.run(main())


def test_an_attempt_that_takes_too_long_is_made_again() -> None:
    async def main() -> None:
        attempts: list[bytes] = []

        async def handle(delivery: Delivery) -> None:
            attempts.append(delivery.data)
            if len(attempts) == 1:
                await asyncio.Event().wait()

        lanes = Ordered(handle, Pacing(key="k"), slots=1, patience_s=0.05)
        await asyncio.gather(*(lanes.handle(Delivery("t", body, {"k": "a"})) for body in (b"1", b"2")))
        assert attempts == [b"1", b"1", b"2"]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pillion.blocks.pacing.FIRST_PAUSE_S", 0.0)
        asyncio.run(main())
