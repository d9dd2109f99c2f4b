"""Many messages submitted in a row to a broker that takes them without waiting."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from pillion.blocks.broker import Broker
from pillion.blocks.bulk_publish import PARALLEL, publish_all
from pillion.errors import ComponentError
from pillion.kinds.pubsub import BulkEntry

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillion.kinds.pubsub import Publish


class Submitting:
    """A broker that answers when told to."""

    features: frozenset[Any] = frozenset()

    def __init__(self) -> None:
        self.topic = ""
        self.waiting: list[tuple[BulkEntry, asyncio.Future[None]]] = []

    def submit(self, topic: str, entries: Sequence[BulkEntry]) -> list[asyncio.Future[None]]:
        if entries[-1].data == b"refused":
            raise ComponentError("not even sent")
        new = asyncio.get_running_loop().create_future
        submitted: list[tuple[BulkEntry, asyncio.Future[None]]] = [(entry, new()) for entry in entries]
        self.topic = topic
        self.waiting += submitted
        return [future for _, future in submitted]

    async def publish(self, message: Publish) -> None:
        raise AssertionError("one by one")

    subscribe = open = close = ping = publish


def test_failures_are_told_in_the_order_of_the_entries() -> None:
    async def main() -> None:
        component = Submitting()
        broker = Broker("b", component, prefix="p-")  # type: ignore[arg-type]
        bodies = [b"fails", *([b"good"] * (2 * PARALLEL - 2)), b"refused"]
        entries = [BulkEntry(str(number), data) for number, data in enumerate(bodies)]
        publishing = asyncio.create_task(publish_all(broker, "t", entries, {}))
        await asyncio.sleep(0)
        assert len(component.waiting) == PARALLEL
        while not publishing.done():
            waiting, component.waiting = component.waiting, []
            for entry, future in waiting:
                if entry.data == b"fails":
                    future.set_exception(ComponentError("the broker said no"))
                else:
                    future.set_result(None)
            await asyncio.sleep(0)
        failed, partial = publishing.result()
        assert failed[0] == ("0", "the broker said no")
        assert failed[1:] == [(str(number), "not even sent") for number in range(PARALLEL, 2 * PARALLEL)]
        assert component.topic == "p-t"
        assert not partial

    asyncio.run(main())


def test_a_caller_that_leaves_takes_its_messages_back() -> None:
    async def main() -> None:
        component = Submitting()
        broker = Broker("b", component)  # type: ignore[arg-type]
        publishing = asyncio.create_task(publish_all(broker, "t", [BulkEntry("1", b""), BulkEntry("2", b"")], {}))
        await asyncio.sleep(0)
        publishing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await publishing
        assert all(future.cancelled() for _, future in component.waiting)

    asyncio.run(main())
