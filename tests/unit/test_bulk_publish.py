"""Many messages submitted in a row to a broker that takes them without waiting."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pillion.blocks.broker import Broker
from pillion.blocks.bulk_publish import PARALLEL, publish_all
from pillion.errors import ComponentError
from pillion.kinds.pubsub import BulkEntry, Publish


class Submitting:
    """A broker that answers when told to."""

    features: frozenset[Any] = frozenset()

    def __init__(self) -> None:
        self.waiting: list[tuple[Publish, asyncio.Future[None]]] = []

    def submit(self, message: Publish) -> asyncio.Future[None]:
        if message.data == b"refused":
            raise ComponentError("not even sent")
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((message, future))
        return future

    async def publish(self, message: Publish) -> None:
        raise AssertionError("one by one")

    subscribe = open = close = ping = publish


def test_failures_are_told_in_the_order_of_the_entries() -> None:
    async def main() -> None:
        component = Submitting()
        broker = Broker("b", component, prefix="p-")  # type: ignore[arg-type]
        datas = [b"fails", b"good", b"refused", *([b"good"] * PARALLEL)]
        entries = [BulkEntry(str(number), data) for number, data in enumerate(datas)]
        publishing = asyncio.create_task(publish_all(broker, "t", entries, {}))
        await asyncio.sleep(0)
        assert len(component.waiting) == PARALLEL - 1
        while not publishing.done():
            waiting, component.waiting = component.waiting, []
            for message, future in waiting:
                assert message.topic == "p-t"
                if message.data == b"fails":
                    future.set_exception(ComponentError("the broker said no"))
                else:
                    future.set_result(None)
            await asyncio.sleep(0)
        assert publishing.result() == ([("0", "the broker said no"), ("2", "not even sent")], False)

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
