"""Timers of actors: kept in memory by the sidecar that was asked for them (spec `actors-workflows-jobs.md` 1.10).

A timer never overlaps itself: its next tick is looked at when the callback of the last one has returned, and is counted
from when that should have been, so that nothing drifts and late ticks follow each other at once. A timer outlives the
instance it was set for; it ends with this sidecar.

Knows: due times, counts, who was replaced. Never knows: where the actor lives by now (the host does), HTTP.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pillion.errors import ComponentError
from pillion.kinds.actors import NotHosted, RuntimeClosed, Tick
from pillion.tasks import Tasks
from pillion.wire.iso8601 import Period, parse_period, parse_point

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.actors.meter import Meter
    from pillion.clock import Clock

log = logging.getLogger("pillion.actors")

Key = tuple[str, str, str]
LONGEST_S = 3600.0
"""The clock is looked at that often at least: it may be set while nothing is due."""


class Ticking(Protocol):
    """What timers need of the host of actors."""

    def hosts(self, actor_type: str) -> bool: ...

    async def tick(self, tick: Tick, *, still: Callable[[], bool] | None = None) -> bool: ...


class TimerInvalid(ComponentError):
    """The timer cannot be set as it was written."""


@dataclass(slots=True, eq=False)
class Timer:
    """One timer. `due` is the time of the next tick and `expires` the end, seconds since 1970; `left` the ticks still
    to come, None: any number.
    """

    tick: Tick
    due: float
    period: Period | None
    left: int | None
    expires: float | None

    def advance(self) -> bool:
        """A tick is over: go on to the next one. False: there is none."""
        if self.left is not None:
            self.left -= 1
        if self.period is None or self.left == 0:
            return False
        try:
            self.due = self.period.after(self.due)
        except ValueError:  # beyond the calendar
            return False
        return self.expires is None or self.due < self.expires


def read(tick: Tick, ttl: str, now: float) -> Timer:
    """Return the timer of a request: `dueTime` empty is now, `period` empty is once, `ttl` counts from the first tick.
    Raises `TimerInvalid`.
    """
    name = f"timer {tick.actor_type}||{tick.actor_id}||{tick.name}"
    try:
        due = parse_point(tick.due_time, now) if tick.due_time else now
        period = parse_period(tick.period) if tick.period else None
        expires = parse_point(ttl, due) if ttl else None
    except ValueError as error:
        raise TimerInvalid(f"{name}: {error}") from error
    left = None if period is None else period.repeats
    if left == 0:
        raise TimerInvalid(f"{name} has zero repetitions")
    if left is not None and left < 0:
        left = None
    if period is not None and period.seconds < 0:
        raise TimerInvalid(f"{name}: the period is negative")
    if period is not None and left is None and not period.calendar and period.seconds == 0:
        period = None  # No time between ticks and no end of them: that is one tick.
    due = max(due, now)
    if expires is not None and expires <= due:
        raise TimerInvalid(f"{name} has already expired: dueTime: {tick.due_time} TTL: {ttl}")
    return Timer(tick, due, period, left, expires)


class Timers:
    """All timers of one sidecar, one alarm for them together."""

    def __init__(self, host: Ticking, clock: Clock, meter: Meter) -> None:
        self._host = host
        self._clock = clock
        self._meter = meter
        self._timers: dict[Key, Timer] = {}
        self._queue: list[tuple[float, int, Timer]] = []
        self._order = 0
        self._alarm: asyncio.TimerHandle | None = None
        self._closed = False
        self._tasks = Tasks("timers of actors")

    async def create(
        self, actor_type: str, actor_id: str, name: str, *, due_time: str = "", period: str = "", ttl: str = "",
        callback: str = "", data: bytes | None = None,
    ) -> None:  # fmt: skip
        """Set a timer; one of the same name is replaced, what it has not begun never begins. Raises `NotHosted`,
        `TimerInvalid`.
        """
        if self._closed:
            raise RuntimeClosed("the actor runtime is closed")
        if not self._host.hosts(actor_type):
            raise NotHosted(f"actor type {actor_type} is not hosted by this sidecar")
        tick = Tick(actor_type, actor_id, name, data, due_time, period, callback, is_timer=True)
        timer = read(tick, ttl, self._clock.now())
        await self.delete(actor_type, actor_id, name)
        self._timers[actor_type, actor_id, name] = timer
        self._meter.timers(actor_type, 1)
        self._push(timer)

    async def delete(self, actor_type: str, actor_id: str, name: str) -> None:
        """Forget a timer; one that is not there is no error."""
        timer = self._timers.pop((actor_type, actor_id, name), None)
        if timer is not None:
            self._meter.timers(actor_type, -1)

    def _push(self, timer: Timer) -> None:
        self._order += 1
        heapq.heappush(self._queue, (timer.due, self._order, timer))
        if len(self._queue) > 64 and len(self._queue) > 2 * len(self._timers):
            self._queue = [entry for entry in self._queue if self._is_set(entry[2])]
            heapq.heapify(self._queue)
        self._arm()

    def _arm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if self._queue and not self._closed:
            wait_s = min(max(self._queue[0][0] - self._clock.now(), 0.0), LONGEST_S)
            self._alarm = asyncio.get_running_loop().call_later(wait_s, self._ring)

    def _ring(self) -> None:
        self._alarm = None
        now = self._clock.now()
        while self._queue and self._queue[0][0] <= now:
            timer = heapq.heappop(self._queue)[2]
            if self._is_set(timer):
                self._tasks.start(self._fire(timer), timer.tick.name)
        self._arm()

    def _is_set(self, timer: Timer) -> bool:
        tick = timer.tick
        return self._timers.get((tick.actor_type, tick.actor_id, tick.name)) is timer

    async def _fire(self, timer: Timer) -> None:
        """Run one tick, then look for the next. A failure counts as a tick."""
        tick = timer.tick
        again = Tick(
            tick.actor_type, tick.actor_id, tick.name, tick.data, tick.due_time, tick.period, tick.callback,
            is_timer=True,
        )  # fmt: skip
        success = cancel = False
        try:
            cancel = await self._host.tick(again, still=lambda: self._is_set(timer))
            success = True
        except ComponentError as error:
            log.warning("timer %s of actor %s||%s failed: %s", tick.name, tick.actor_type, tick.actor_id, error)
        except Exception:
            log.exception("timer %s of actor %s||%s failed", tick.name, tick.actor_type, tick.actor_id)
        self._meter.timer_fired(tick.actor_type, success=success)
        if not self._is_set(timer):
            return
        if cancel or not timer.advance():
            await self.delete(tick.actor_type, tick.actor_id, tick.name)
        else:
            self._push(timer)

    async def close(self) -> None:
        """Forget all timers; ticks that run are cancelled."""
        self._closed = True
        if self._alarm is not None:
            self._alarm.cancel()
        self._timers.clear()
        self._queue.clear()
        await self._tasks.close()

    def __len__(self) -> int:
        return len(self._timers)

    def __repr__(self) -> str:
        return f"<Timers: {len(self._timers)} set>"
