"""`bindings.cron`: an empty event whenever a schedule is due (spec `components.md` 4).

Knows: the clock, the zones of the machine, tasks. Never knows: the syntax of schedules (`wire/cron.py`).
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pillion.clock import SystemClock
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.bindings import Event
from pillion.kinds.component import setting
from pillion.tasks import Tasks
from pillion.wire.cron import parse, split_zone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.clock import Clock
    from pillion.kinds.bindings import Handler
    from pillion.kinds.component import Context
    from pillion.wire.cron import Schedule

log = logging.getLogger("pillion.components.cron")
LOOK_AGAIN_S = 60.0
"""A wall clock that somebody sets, and a machine that slept, are noticed after this time at the latest."""
MOST_TICKS = 100
"""Ticks that may overlap because the application is slower than the schedule; further ones are left out."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A schedule with the zone whose wall clock it means."""

    schedule: Schedule
    zone: ZoneInfo | None = None

    def next(self, after: float) -> int | None:
        return self.schedule.next(after, self._offset)

    @property
    def zone_name(self) -> str:
        return "Local" if self.zone is None else self.zone.key

    def _offset(self, at: int) -> int:
        if self.zone is None:
            return time.localtime(at).tm_gmtoff
        offset = datetime.fromtimestamp(at, self.zone).utcoffset()
        assert offset is not None
        return offset.days * 86_400 + offset.seconds


def plan(text: str) -> Plan:
    """Read `[TZ=zone ]schedule`; raises ValueError."""
    zone, text = split_zone(text)
    schedule = parse(text)
    if zone in ("", "Local"):
        return Plan(schedule)
    try:
        return Plan(schedule, ZoneInfo(zone))
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"unknown time zone {zone!r}") from error


class CronBinding:
    """The cron input binding. `clock` and `pause` (seconds) are the machine's unless a test says otherwise."""

    @dataclass(frozen=True)
    class Settings:
        schedule: str = setting(help="5 fields, 6 with seconds, or @every 5m; possibly TZ=zone in front")

    def __init__(
        self,
        settings: Settings,
        context: Context,
        *,
        clock: Clock | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._name = context.name
        try:
            self._plan = plan(settings.schedule)
        except ValueError as error:
            raise ConfigError(f"schedule: {error}", where=f"component {context.name}") from error
        self._clock = clock or SystemClock()
        self._pause = pause
        self._readings: list[Ticking] = []

    async def open(self) -> None:
        """A schedule that will never be due is refused: nobody means that."""
        if self._plan.next(self._clock.now()) is None:
            raise ComponentError(f"cron: the schedule of {self._name} is never due")

    async def ping(self) -> None:
        """The clock always answers."""

    async def close(self) -> None:
        readings, self._readings = self._readings, []
        for reading in readings:
            await reading.close(0.0)

    async def read(self, handler: Handler) -> Ticking:
        reading = Ticking(self._name, self._plan, handler, self._clock, self._pause)
        self._readings = [known for known in self._readings if not known.closed]
        self._readings.append(reading)
        return reading

    def __repr__(self) -> str:
        return f"<CronBinding {self._name}>"


class Ticking:
    """One reading: a task that waits for the next time, and one for each tick on its way to the application."""

    def __init__(
        self, name: str, plan: Plan, handler: Handler, clock: Clock, pause: Callable[[float], Awaitable[None]]
    ) -> None:
        self.closed = False
        self._name, self._plan, self._handler = name, plan, handler
        self._clock, self._pause = clock, pause
        self._ticks = Tasks(f"cron {name}")
        self._watch = Tasks(f"cron {name}")
        self._watch.keep(self._run, "waiting")

    async def _run(self) -> None:
        after = self._clock.now()
        while (due := self._plan.next(after)) is not None:
            while (left_s := due - self._clock.now()) > 0:
                await self._pause(min(left_s, LOOK_AGAIN_S))
            after = max(self._clock.now(), due)  # ticks that a sleeping machine missed are not made up for
            if len(self._ticks) < MOST_TICKS:
                self._ticks.start(self._tick(), "tick")
            else:
                log.warning("cron %s: %d ticks are on their way; this one is left out", self._name, MOST_TICKS)

    async def _tick(self) -> None:
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        fraction = f".{now.microsecond:06d}".rstrip("0") if now.microsecond else ""
        metadata = {
            "timeZone": self._plan.zone_name,
            "readTimeUTC": f"{now:%Y-%m-%d %H:%M:%S}{fraction} +0000 UTC",
        }
        try:
            await self._handler(Event(metadata=metadata))
        except Exception as error:  # a tick is not repeated: the next one comes anyway
            log.warning("cron %s: the application did not process a tick: %s", self._name, error)

    async def close(self, grace_s: float) -> None:
        self.closed = True
        await self._watch.close()
        if grace_s > 0:
            await self._ticks.drain(grace_s)
        await self._ticks.close()
