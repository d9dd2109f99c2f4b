"""Handlers at work: a bounded number of messages of one subscription in their handlers at the same time.

Knows: who waits, who is being handled, for how long, and what became of it. Never knows: brokers. A broker puts
messages in (no more than it is willing to hold) and is told the outcome of each exactly once.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING, Generic, TypeVar

from pillion.kinds.pubsub import Delivery, Rejected
from pillion.repeats import Repeats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from pillion.tasks import Tasks

log = logging.getLogger("pillion.components.workers")

D = TypeVar("D", bound=Delivery)


class Outcome(Enum):
    DONE = auto()
    """The handler returned: acknowledge."""
    REJECTED = auto()
    """The handler raised: deliver again later."""
    OVERDUE = auto()
    """The handler took longer than it may and was cancelled: deliver again later."""
    CUT_SHORT = auto()
    """The sidecar ended in the middle of it: deliver again."""


class Workers(Generic[D]):
    """Up to `concurrency` tasks, started when there is something to do, that call `handle` in the order of arrival."""

    def __init__(
        self,
        tasks: Tasks,
        handle: Callable[[Delivery], Awaitable[None]],
        settled: Callable[[D, Outcome], None],
        *,
        concurrency: int,
        timeout_s: float,
    ) -> None:
        """`settled` is called on the loop, must not block nor raise. `timeout_s` 0 means that a handler may take for
        ever.
        """
        self._tasks = tasks
        self._handle = handle
        self._settled = settled
        self._concurrency = max(1, concurrency)
        self._timeout_s = timeout_s
        self._waiting: deque[D] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._slots: list[_Slot] = []
        self._running = 0
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._watch: asyncio.TimerHandle | None = None
        self._repeats = Repeats(log)

    @property
    def held(self) -> int:
        """Messages taken and not settled."""
        return len(self._waiting) + self._running

    @property
    def oldest(self) -> D | None:
        """The message that has waited longest for a handler."""
        return self._waiting[0] if self._waiting else None

    def put(self, deliveries: Iterable[D]) -> None:
        """Queue messages and wake as many workers as there is work for."""
        self._waiting.extend(deliveries)
        wanted = len(self._waiting)
        while wanted > 0 and self._idle:
            idle = self._idle.pop()
            if not idle.done():
                idle.set_result(None)
            wanted -= 1
        while wanted > 0 and len(self._slots) < self._concurrency:
            slot = _Slot()
            self._slots.append(slot)
            slot.task = self._tasks.start(self._work(slot), "handler")
            wanted -= 1

    def withdraw(self) -> list[D]:
        """Take back what no handler has seen yet; nothing will be said about these."""
        untouched = list(self._waiting)
        self._waiting.clear()
        return untouched

    async def finish(self) -> None:
        """Wait until no handler is running. Call `withdraw` first, or what waits is handled too."""
        if asyncio.current_task() not in [slot.task for slot in self._slots]:
            await self._quiet.wait()

    def stop(self) -> None:
        """End the workers; what is still in a handler is cut short."""
        self._repeats.flush()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        mine = asyncio.current_task()
        for slot in self._slots:
            if slot.task is not None and slot.task is not mine:
                slot.task.cancel()

    async def _work(self, slot: _Slot) -> None:
        waiting = self._waiting
        loop = asyncio.get_running_loop()
        try:
            while True:
                while not waiting:
                    idle: asyncio.Future[None] = loop.create_future()
                    self._idle.append(idle)
                    await idle
                self._running += 1
                self._quiet.clear()
                try:
                    while waiting:
                        await self._one(waiting.popleft(), slot, loop)
                finally:
                    self._running -= 1
                    if not self._running:
                        self._quiet.set()
        finally:
            self._slots.remove(slot)

    async def _one(self, delivery: D, slot: _Slot, loop: asyncio.AbstractEventLoop) -> None:
        if self._timeout_s:
            slot.deadline = loop.time() + self._timeout_s
            if self._watch is None:
                self._watch = loop.call_at(slot.deadline, self._look)
        outcome = Outcome.CUT_SHORT
        try:
            await self._handle(delivery)
            outcome = Outcome.DONE
        except Rejected:
            outcome = Outcome.REJECTED
        except asyncio.CancelledError:
            if not slot.overdue:
                raise
            outcome = Outcome.OVERDUE
            self._repeats.warning("the handler of topic %s took longer than %g s", delivery.topic, self._timeout_s)
        except Exception:
            outcome = Outcome.REJECTED
            log.exception("the handler of topic %s failed", delivery.topic)
        finally:
            slot.deadline = None
            if slot.overdue:
                slot.overdue = False
                if slot.task is not None:
                    slot.task.uncancel()
            self._settled(delivery, outcome)

    def _look(self) -> None:
        """Cancel the handlers that are overdue; come back at the next deadline."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        next_look: float | None = None
        for slot in self._slots:
            if slot.deadline is None or slot.task is None:
                continue
            if slot.deadline <= now:
                slot.overdue = True
                slot.deadline = None
                slot.task.cancel()
            elif next_look is None or slot.deadline < next_look:
                next_look = slot.deadline
        self._watch = None if next_look is None else loop.call_at(next_look, self._look)

    def __repr__(self) -> str:
        return f"<Workers: {self._running} handling, {len(self._waiting)} waiting>"


class _Slot:
    """One worker: its task and when what it handles is overdue (loop time)."""

    __slots__ = ("deadline", "overdue", "task")

    def __init__(self) -> None:
        self.task: asyncio.Task[None] | None = None
        self.deadline: float | None = None
        self.overdue = False
