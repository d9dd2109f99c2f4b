"""Tasks with an owner: every background task is started through a `TaskGroup`-like nursery that logs what it dies of.

Knows: asyncio. Never knows: what the tasks do.

`start_now(work, loop=loop)` makes a task for a driver that owns it and sees to its end. Where Python can (3.12), the
task runs up to its first wait before this returns: a request that waits for nothing costs no turn of the loop.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

log = logging.getLogger("pillion.tasks")

if sys.version_info >= (3, 12):
    start_now: Callable[..., asyncio.Task[None]] = partial(asyncio.Task, eager_start=True)
else:
    start_now = asyncio.Task


FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
"""Between the failure of a kept loop and its next beginning; as long as it fails at once, each pause doubles."""


class Tasks:
    """The background tasks of one owner. `close` cancels what is left and waits for its end.

    A task that ends with an exception is logged with its name: it was nobody's to await.
    """

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    def start(self, work: Coroutine[Any, Any, Any], name: str = "") -> asyncio.Task[Any]:
        """Start `work` at once. After `close` nothing starts any more: the coroutine is closed and an error raised."""
        if self._closed:
            work.close()
            raise RuntimeError(f"{self.owner} is closed")
        named = name or getattr(work, "__qualname__", "")
        task = asyncio.get_running_loop().create_task(work, name=f"{self.owner}: {named}")
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def keep(self, run: Callable[[], Coroutine[Any, Any, None]], name: str = "") -> asyncio.Task[None]:
        """Start a loop that its owner cannot do without: it has handled what it expects, and what it does not expect
        shall not silence it for ever. Such an error is logged, and after a pause `run` is called again.
        """
        return self.start(self._kept(run, f"{self.owner}: {name}"), name)

    async def _kept(self, run: Callable[[], Coroutine[Any, Any, None]], name: str) -> None:
        loop = asyncio.get_running_loop()
        pause_s = FIRST_PAUSE_S
        while True:
            began = loop.time()
            try:
                return await run()
            except Exception:
                if loop.time() - began > LONGEST_PAUSE_S:
                    pause_s = FIRST_PAUSE_S
                log.exception("background task failed: %s; it begins again in %g s", name, pause_s)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background task failed: %s", task.get_name(), exc_info=error)

    async def close(self) -> None:
        """Cancel every task and wait until all have ended."""
        self._closed = True
        mine = asyncio.current_task()
        left = [task for task in self._running if task is not mine]
        for task in left:
            task.cancel()
        if left:
            await asyncio.wait(left)

    async def drain(self, timeout_s: float | None) -> bool:
        """Wait until every task has ended by itself; return False when `timeout_s` seconds were not enough."""
        mine = asyncio.current_task()
        left = [task for task in self._running if task is not mine]
        if not left:
            return True
        _, pending = await asyncio.wait(left, timeout=timeout_s)
        return not pending

    def __len__(self) -> int:
        return len(self._running)

    def __repr__(self) -> str:
        return f"<Tasks of {self.owner}: {len(self._running)} running>"
