"""What this sidecar takes from the scheduler, and who carries it out.

Jobs while the application is healthy, reminders of the actor types that are hosted here. When that changes a new watch
is opened before the old one is closed, and the old one first ends what it began: nothing is lost, little comes twice.
Knows: interests and their change. Never knows: schedulers' protocols, the application, actors.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.kinds.jobs import Interest, Outcome
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from pillion.kinds.jobs import Limit, Scheduler, Trigger, Watch

    Deliver = Callable[[Trigger], Awaitable[Outcome]]

log = logging.getLogger("pillion.sidecar")
DRAIN_S = 5.0
"""How long a watch that was replaced may go on with what it began."""


class Scheduling:
    """The consumer of one application's triggers. Several sidecars of an application share them.

    `jobs` carries out jobs of the application, None when there is none; `reminders` those of actors and may be set
    later, before the first type is hosted.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        app_id: str,
        namespace: str,
        *,
        jobs: Deliver | None = None,
        reminders: Deliver | None = None,
    ) -> None:
        self.reminders = reminders
        self._jobs = jobs
        self._scheduler = scheduler
        self._app_id = app_id
        self._namespace = namespace
        self._healthy = False
        self._types: frozenset[str] = frozenset()
        self._limits: tuple[Limit, ...] = ()
        self._current: _Registration | None = None
        self._tasks = Tasks("triggers")
        self._due = False
        self._closed = False

    def app_healthy(self, healthy: bool) -> None:
        """Take jobs while the application is well."""
        self._healthy = healthy
        self._change()

    def types(self, types: Iterable[str]) -> None:
        """Take reminders of exactly these actor types."""
        self._types = frozenset(types)
        self._change()

    def limits(self, limits: Iterable[Limit]) -> None:
        """Tell the concurrency limits of this application, for all of its sidecars."""
        self._limits = tuple(limits)
        self._change()

    def _change(self) -> None:
        """Several changes of one turn of the loop are one."""
        if not self._due and not self._closed:
            self._due = True
            asyncio.get_running_loop().call_soon(self._apply)

    def _wanted(self) -> Interest | None:
        jobs = self._healthy and self._jobs is not None
        types = self._types if self.reminders is not None else frozenset()
        if self._closed or not (jobs or types):
            return None
        return Interest(self._app_id, self._namespace, jobs, types, self._limits)

    def _apply(self) -> None:
        self._due = False
        wanted, old = self._wanted(), self._current
        if wanted == (old.interest if old is not None else None):
            return
        self._current = None
        if wanted is not None:
            log.debug("taking jobs: %s, reminders of: %s", wanted.jobs, ", ".join(sorted(wanted.actor_types)) or "none")
            self._current = _Registration(wanted, self._carry_out)
            self._current.watch = self._scheduler.watch(wanted, self._current.deliver)
        if old is not None and not self._closed:
            self._tasks.start(old.end(DRAIN_S), "ending a watch")

    async def _carry_out(self, trigger: Trigger) -> Outcome:
        """What came over a watch that is older than the last change may not be wanted any more."""
        wanted = self._wanted()
        if wanted is None:
            return Outcome.UNDELIVERABLE
        if trigger.key.actor_type:
            if trigger.key.actor_type not in wanted.actor_types or self.reminders is None:
                return Outcome.UNDELIVERABLE
            handler = self.reminders
        elif wanted.jobs and self._jobs is not None:
            handler = self._jobs
        else:
            return Outcome.UNDELIVERABLE
        try:
            return await handler(trigger)
        except Exception:
            log.exception("carrying out %s failed", trigger.key.text)
            return Outcome.FAILED

    async def close(self, grace_s: float) -> None:
        """Take nothing more; what was begun has `grace_s` seconds. May be called again."""
        self._closed = True
        current, self._current = self._current, None
        if current is not None:
            await current.end(grace_s)
        await self._tasks.drain(grace_s)
        await self._tasks.close()

    def __repr__(self) -> str:
        return f"<Scheduling of {self._app_id}: {self._current}>"


@dataclass(slots=True, eq=False)
class _Registration:
    """One watch, and how much of what came over it is under way."""

    interest: Interest
    carry_out: Deliver
    watch: Watch | None = None
    open: int = 0
    idle: asyncio.Future[None] | None = None

    async def deliver(self, trigger: Trigger) -> Outcome:
        self.open += 1
        try:
            return await self.carry_out(trigger)
        finally:
            self.open -= 1
            if not self.open and self.idle is not None and not self.idle.done():
                self.idle.set_result(None)

    async def end(self, grace_s: float) -> None:
        """Close the watch when nothing is under way, or after the grace."""
        assert self.watch is not None
        try:
            async with asyncio.timeout(grace_s):
                while self.open:
                    self.idle = asyncio.get_running_loop().create_future()
                    await self.idle
        except TimeoutError:
            log.info("%d triggers that are still under way are given back to the scheduler", self.open)
        finally:
            self.watch.close()
