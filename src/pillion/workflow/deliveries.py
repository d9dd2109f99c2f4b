"""Messages from one instance to another: tried until they arrive, each with its reason for not having arrived yet.

What has to be delivered follows from committed state (open children, the end of a child, the outbox), so a crash loses
none of it. Knows: attempts and pauses. Never knows: what a message means; the engine makes it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.workflow.snapshot import Wait

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.clock import Clock
    from pillion.tasks import Tasks

log = logging.getLogger("pillion.workflow")

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 30.0


class Delivery:
    """One message under way. `name` says what and to whom, for people."""

    __slots__ = ("attempts", "error", "kind", "name", "since", "task")

    def __init__(self, kind: str, name: str, since: float) -> None:
        self.kind = kind
        self.name = name
        self.since = since
        self.attempts = 0
        self.error = ""
        self.task: asyncio.Task[None] | None = None

    def wait(self) -> Wait:
        return Wait(self.kind, self.name, attempts=self.attempts, error=self.error, since=self.since)

    def cancel(self) -> None:
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()

    def __repr__(self) -> str:
        return f"<Delivery {self.kind} {self.name!r}, {self.attempts} attempts>"


class Deliveries:
    """Runs deliveries, at most `at_once` calls at a time."""

    def __init__(self, tasks: Tasks, clock: Clock, at_once: int) -> None:
        self._tasks = tasks
        self._clock = clock
        self._places = asyncio.Semaphore(at_once)

    def start(self, kind: str, name: str, attempt: Callable[[], Awaitable[None]], done: Callable[[], None]) -> Delivery:
        """Call `attempt` until it returns; it raises `ComponentError` when it should be tried again. `done` is called
        once afterwards, also when the delivery was cancelled.
        """
        delivery = Delivery(kind, name, self._clock.now())
        delivery.task = self._tasks.start(self._run(delivery, attempt), f"{kind} {name}")
        delivery.task.add_done_callback(lambda _: done())
        return delivery

    async def _run(self, delivery: Delivery, attempt: Callable[[], Awaitable[None]]) -> None:
        pause_s = FIRST_PAUSE_S
        while True:
            async with self._places:
                try:
                    await attempt()
                except ComponentError as error:
                    delivery.attempts += 1
                    delivery.error = str(error)
                except Exception as error:
                    log.exception("workflow: %s %s failed and is tried again", delivery.kind, delivery.name)
                    delivery.attempts += 1
                    delivery.error = repr(error)
                else:
                    return
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
