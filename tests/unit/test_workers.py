"""Handlers at work: order, bounds, deadlines and what is told of each message."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pillion.components.workers import Outcome, Workers
from pillion.kinds.pubsub import Delivery, Rejected
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest


class Bench:
    """Workers with a list of outcomes."""

    def __init__(
        self, handle: Callable[[Delivery], Awaitable[None]], *, concurrency: int = 1, timeout_s: float = 0.0
    ) -> None:
        self.told: list[tuple[bytes, Outcome]] = []
        self.tasks = Tasks("bench")
        self._changed = asyncio.Event()
        self.workers: Workers[Delivery] = Workers(
            self.tasks, handle, self._settled, concurrency=concurrency, timeout_s=timeout_s
        )

    def _settled(self, delivery: Delivery, outcome: Outcome) -> None:
        self.told.append((delivery.data, outcome))
        self._changed.set()

    async def until_told(self, count: int) -> None:
        async with asyncio.timeout(90):
            while len(self.told) < count:
                await self._changed.wait()
                self._changed.clear()

    def put(self, *bodies: bytes) -> None:
        self.workers.put([Delivery("t", body, {}) for body in bodies])


def test_outcomes(caplog: pytest.LogCaptureFixture) -> None:
    """Return, rejection, any exception, too slow; and the worker goes on after each."""

    async def handle(delivery: Delivery) -> None:
        if delivery.data == b"rejected":
            raise Rejected
        if delivery.data == b"broken":
            raise ZeroDivisionError
        if delivery.data == b"slow":
            await asyncio.Event().wait()

    async def run() -> None:
        bench = Bench(handle, timeout_s=0.05)
        bench.put(b"slow", b"rejected", b"broken", b"good", b"slow", b"good")
        await bench.until_told(6)
        assert bench.told == [
            (b"slow", Outcome.OVERDUE),
            (b"rejected", Outcome.REJECTED),
            (b"broken", Outcome.REJECTED),
            (b"good", Outcome.DONE),
            (b"slow", Outcome.OVERDUE),
            (b"good", Outcome.DONE),
        ]
        await bench.tasks.close()

    asyncio.run(run())
    assert "ZeroDivisionError" in caplog.text


def test_no_more_at_a_time_than_allowed() -> None:
    now = most = 0

    async def handle(delivery: Delivery) -> None:
        nonlocal now, most
        now += 1
        most = max(most, now)
        for _ in range(3):
            await asyncio.sleep(0)
        now -= 1

    async def run() -> None:
        bench = Bench(handle, concurrency=4)
        for start in range(0, 40, 8):
            bench.put(*(str(number).encode() for number in range(start, start + 8)))
            await asyncio.sleep(0)
        await bench.until_told(40)
        assert most == 4
        assert len(bench.told) == 40
        await bench.tasks.close()

    asyncio.run(run())


def test_withdraw_and_finish() -> None:
    """What no handler has seen comes back and nothing is told of it; `finish` waits for the others."""
    gate = asyncio.Event()

    async def handle(delivery: Delivery) -> None:
        await gate.wait()

    async def run() -> None:
        bench = Bench(handle)
        bench.put(b"1", b"2", b"3")
        await asyncio.sleep(0)
        assert [one.data for one in bench.workers.withdraw()] == [b"2", b"3"]
        finishing = asyncio.ensure_future(bench.workers.finish())
        await asyncio.sleep(0)
        assert not finishing.done()
        gate.set()
        await finishing
        assert bench.told == [(b"1", Outcome.DONE)]
        await bench.tasks.close()

    asyncio.run(run())


def test_the_end_in_the_middle() -> None:
    """A handler that is cut off by the end of the sidecar is told as such."""

    async def handle(delivery: Delivery) -> None:
        await asyncio.Event().wait()

    async def run() -> None:
        bench = Bench(handle, concurrency=2)
        bench.put(b"1", b"2", b"3")
        await asyncio.sleep(0)
        bench.workers.stop()
        await bench.tasks.close()
        assert sorted(bench.told) == [(b"1", Outcome.CUT_SHORT), (b"2", Outcome.CUT_SHORT)]

    asyncio.run(run())


def test_a_handler_that_survives_its_deadline_is_done() -> None:
    """It swallowed the cancellation and returned: what it says counts, and the worker is not cancelled any more."""

    async def handle(delivery: Delivery) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return

    async def run() -> None:
        bench = Bench(handle, timeout_s=0.01)
        bench.put(b"1", b"2")
        await bench.until_told(2)
        assert bench.told == [(b"1", Outcome.DONE), (b"2", Outcome.DONE)]
        await bench.tasks.close()

    asyncio.run(run())
