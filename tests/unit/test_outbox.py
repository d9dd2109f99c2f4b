"""The receiving side of the outbox: what it does with an event whose transaction it knows nothing about."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from pillion import tasks
from pillion.blocks.broker import Broker
from pillion.blocks.outbox import Outbox, Settings
from pillion.components.memory import MemoryState
from pillion.components.memory_broker import MemoryPubSub
from pillion.kinds.component import Context
from pillion.kinds.state import Get, Set
from pillion.kinds.topics import Event, Unprocessed, Verdict

if TYPE_CHECKING:
    from pillion.kinds.pubsub import Delivery

TOPIC = "nsshopordersoutbox"


def event(body: bytes) -> Event:
    return Event(body, None, {})


def play(
    *bodies: bytes, late: float | None = None, **metadata: str
) -> tuple[list[Any], list[float], list[bytes], bool]:
    """Release events against a store that has the marker `outbox-1`, or gets it after `late` seconds.

    Returns what became of each, the pauses, the public events, and whether the marker is still there.
    """

    async def run() -> tuple[list[Any], list[float], list[bytes], bool]:
        state = MemoryState(MemoryState.Settings(), Context("store"))
        broker = MemoryPubSub(MemoryPubSub.Settings(), Context("ps"))
        pauses: list[float] = []
        public: list[bytes] = []
        arrived = asyncio.Event()

        async def pause(seconds: float) -> None:
            pauses.append(seconds)
            if late is not None and sum(pauses) >= late:
                await state.set(Set("outbox-1", b"0"))

        async def keep(delivery: Delivery) -> None:
            public.append(delivery.data)
            arrived.set()

        await broker.open()
        await broker.subscribe("orders", {}, keep)
        if late is None:
            await state.set(Set("outbox-1", b"0"))
        given = {"outboxPublishPubsub": "ps", "outboxPublishTopic": "orders", **metadata}
        store: Any = SimpleNamespace(component=state, metadata=given)
        outbox = Outbox("shop", "ns", {"store": store}, {"ps": Broker("ps", broker)}, pause=pause)
        ends: list[Any] = []
        for body in bodies:
            try:
                ends.append(await outbox.release(event(body), TOPIC))
            except Unprocessed as error:
                ends.append(str(error))
        if Verdict.DONE in ends and "outboxDiscardWhenMissingState" not in metadata:
            async with asyncio.timeout(90):
                await arrived.wait()
        left = (await state.get(Get("outbox-1"))).value is not None
        await broker.close()
        return ends, pauses, public, left

    return asyncio.run(run())


EVENT = b'{"data":1.50,"id":"outbox-1","topic":"","cloudevent.type":"t","pubsubname":"x"}'


def test_a_marker_makes_an_event_public_once() -> None:
    """Topic and broker are the public ones; numbers keep their spelling; `cloudevent.` attributes take effect."""
    ends, pauses, public, left = play(EVENT)
    assert (ends, pauses, left) == ([Verdict.DONE], [], False)
    assert public == [b'{"data":1.50,"id":"outbox-1","pubsubname":"ps","topic":"orders","type":"t"}']


def test_a_late_marker_is_waited_for() -> None:
    assert play(EVENT, late=3.0)[:2] == ([Verdict.DONE], [1.0, 0.5, 1.5])


def test_without_a_marker_an_event_comes_again_or_is_discarded() -> None:
    """After looking for ten seconds."""
    ends, pauses, public, _ = play(EVENT.replace(b"outbox-1", b"outbox-2"))
    assert (ends, sum(pauses), public) == (["outbox event outbox-2: no store has its marker"], 10.0, [])
    ends, _, public, _ = play(EVENT.replace(b"outbox-1", b"outbox-2"), outboxDiscardWhenMissingState="true")
    assert (ends, public) == ([Verdict.DONE], [])


def test_foreign_messages_are_dropped() -> None:
    """What somebody else published to the internal topic cannot name a key of the store."""
    assert play(b'{"id":"secret"}', b'{"id":7}', b"{}")[0] == [Verdict.DROP] * 3


@pytest.mark.parametrize(
    ("metadata", "wanted"),
    [
        ({}, None),
        ({"outboxPublishPubsub": "a"}, None),
        ({"outboxPublishTopic": "t"}, None),
        ({"outboxPublishPubsub": "a", "OUTBOXPUBLISHTOPIC": "t"}, Settings("s", "a", "t", "a", False)),
        (
            {
                "outboxPublishPubsub": "a", "outboxPublishTopic": "t", "outboxPubsub": "b",
                "outboxDiscardWhenMissingState": "Y",
            },
            Settings("s", "a", "t", "b", True),
        ),
    ],
)  # fmt: skip
def test_settings(metadata: dict[str, str], wanted: Settings | None) -> None:
    assert Settings.of("s", metadata) == wanted


def test_a_subscription_that_fails_in_an_unexpected_way_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else would ever open it."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)

    class Surprising(MemoryPubSub):
        tries = 0

        async def subscribe(self, *arguments: Any) -> Any:
            self.tries += 1
            if self.tries < 3:
                raise RuntimeError("nobody expects this")
            return await super().subscribe(*arguments)

    async def run() -> None:
        state, broker = (
            MemoryState(MemoryState.Settings(), Context("store")),
            Surprising(Surprising.Settings(), Context("ps")),
        )
        store: Any = SimpleNamespace(
            component=state, metadata={"outboxPublishPubsub": "ps", "outboxPublishTopic": "orders"}
        )
        outbox = Outbox("shop", "ns", {"store": store}, {"ps": Broker("ps", broker)})
        await outbox.reconcile()
        await outbox._inner.started()
        assert broker.tries == 3
        await outbox.close(0)
        await broker.close()

    asyncio.run(run())
