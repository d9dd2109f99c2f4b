"""When is a job due? Its texts read into a plan, and the plan's ticks (spec `actors-workflows-jobs.md` 2.2, 2.4).

    plan = plan_of(job, now)
    first = plan.after(None)            # seconds since 1970; None: never
    second = plan.after(first)

A tick follows from the one before and from the anchor, never from the time at which it was fired, so nothing drifts.
All ticks are whole microseconds. Knows: the grammar. Never knows: the time, attempts, storage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pillion.kinds.jobs import Job, JobInvalid, Stored
from pillion.wire import cron
from pillion.wire.durations import go_duration
from pillion.wire.iso8601 import FARTHEST, parse_point

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST = 1024
"""Characters of a schedule, its zone included."""
SHORTEST_S = 0.001
"""The shortest interval of `@every` without `repeats`: what has neither a pause nor an end would never rest."""
HORIZON_YEARS = 5
"""A schedule of the calendar that has nothing within so many years has ended (2.2)."""


@dataclass(frozen=True, slots=True)
class Every:
    """`@every`: due `seconds` after it was."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Calendar:
    """Six cron fields, and the zone whose wall clocks they speak of."""

    fields: cron.Cron
    zone: tzinfo

    def after(self, instant: float) -> float | None:
        """Return the first tick later than `instant`."""
        try:
            due = self.fields.next(instant, self._offset)
            if due is None:
                return None
            years = datetime.fromtimestamp(due, self.zone).year - datetime.fromtimestamp(instant, self.zone).year
        except (ValueError, OverflowError):  # beyond the year 9999
            return None
        return float(due) if years <= HORIZON_YEARS else None

    def _offset(self, at: int) -> int:
        offset = datetime.fromtimestamp(at, self.zone).utcoffset()
        assert offset is not None
        return offset.days * 86_400 + offset.seconds


Schedule = Every | Calendar


@dataclass(frozen=True, slots=True)
class Plan:
    """All ticks of a job. `schedule` None: one tick, at `anchor`. `at_anchor`: the anchor itself is the first tick."""

    schedule: Schedule | None
    anchor: float
    at_anchor: bool
    expires: float | None
    repeats: int | None

    def after(self, tick: float | None, count: int = 0) -> float | None:
        """Return the tick that follows `tick` (None: the first one) when `count` ticks are done; None: the end."""
        if count >= self.limit:
            return None
        found = self._first() if tick is None else self._following(tick)
        if found is None or found > FARTHEST or (self.expires is not None and found > self.expires):
            return None
        return found

    @property
    def limit(self) -> float:
        """How many ticks there are at most."""
        if self.repeats is not None:
            return self.repeats
        return 1 if self.schedule is None else math.inf

    def passed(self, tick: float, until: float, most: int | None) -> tuple[float, int]:
        """Return the last tick from `tick` on that is not later than `until`, and how many were passed to get there.

        At most `most` are passed. None: no bound, and what cron has passed counts as one, whose number need not be
        known: there may be too many to walk through.
        """
        schedule = self.schedule
        end = until if self.expires is None else min(until, self.expires)
        if schedule is None or tick >= end:
            return tick, 0
        if isinstance(schedule, Calendar) and most is None:
            last = _latest(schedule, tick, end)
            return last, int(last > tick)
        if isinstance(schedule, Every) and schedule.seconds > 0:
            steps = math.floor((end - tick) / schedule.seconds)
            steps = steps if most is None else min(steps, most)
            while steps > 0 and self._step(tick, steps) > end:
                steps -= 1  # by a rounding
            return (self._step(tick, steps), steps) if steps > 0 else (tick, 0)
        steps = 0
        while most is None or steps < most:
            following = self._following(tick)
            if following is None or not tick < following <= end:
                break
            tick, steps = following, steps + 1
        return tick, steps

    def between(self, since: float, until: float) -> Iterator[float]:
        """Yield all ticks in [`since`, `until`], also those before the anchor and beyond the end."""
        if self.schedule is None:
            if since <= self.anchor <= until:
                yield self.anchor
            return
        if isinstance(self.schedule, Every):
            if self.schedule.seconds == 0:
                return
            number = math.ceil((since - self.anchor) / self.schedule.seconds)
            while (tick := microseconds(self.anchor + number * self.schedule.seconds)) <= until:
                if tick >= since:
                    yield tick
                number += 1
            return
        following = self.schedule.after(since - 1)
        while following is not None and following <= until:
            if following >= since:
                yield following
            following = self.schedule.after(following)

    def _first(self) -> float | None:
        return self.anchor if self.at_anchor else self._following(self.anchor)

    def _following(self, tick: float) -> float | None:
        if self.schedule is None:
            return None
        return self._step(tick, 1) if isinstance(self.schedule, Every) else self.schedule.after(tick)

    def _step(self, tick: float, steps: int) -> float:
        """Count from the anchor: adding intervals to each other would add up the roundings of floating point."""
        assert isinstance(self.schedule, Every)
        interval = self.schedule.seconds
        if interval < SHORTEST_S:
            return microseconds(tick + steps * interval)
        return microseconds(self.anchor + (round((tick - self.anchor) / interval) + steps) * interval)


def _latest(schedule: Calendar, tick: float, until: float) -> float:
    """Return the last tick in [`tick`, `until`], looked for by halving: there may be millions between them."""
    low, high = int(tick), int(until)  # `low`: a tick in time follows; `high`: none does
    following = schedule.after(low)
    if following is None or following > until:
        return tick
    while high - low > 1:
        middle = (low + high) // 2
        following = schedule.after(middle)
        if following is None or following > until:
            high = middle
        else:
            low = int(following) - 1
    return schedule.after(low) or tick


def microseconds(instant: float) -> float:
    """Round to what storage keeps exactly."""
    return round(instant * 1e6) / 1e6


@lru_cache(maxsize=4096)
def parse_schedule(text: str) -> Schedule:
    """Read `@every 1.5s`, a descriptor, or six fields, second first; `TZ=` before them names a zone, UTC by default.

    Raises ValueError.
    """
    if len(text) > LONGEST:
        raise ValueError(f"longer than {LONGEST} characters")
    zone, bare = cron.split_zone(text)
    if bare.startswith("@every "):
        seconds = go_duration(bare[7:].strip())
        if not 0 <= seconds <= FARTHEST:
            raise ValueError(f"{bare!r}: the interval is negative or beyond all calendars")
        return Every(seconds)
    if not bare.startswith("@") and len(bare.split()) != 6:
        raise ValueError(f"{len(bare.split())} fields in {bare!r}, not 6 (second minute hour day month weekday)")
    parsed = cron.parse(bare)
    if not isinstance(parsed, cron.Cron):
        raise ValueError(f"{bare!r} is not understood (write @every 10s)")
    return Calendar(parsed, _zone(zone))


def _zone(name: str) -> tzinfo:
    if name in ("", "UTC"):
        return UTC
    if name == "Local":
        raise ValueError("the zone Local is each scheduler's own: name the zone that is meant")
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ValueError(f"unknown zone {name!r}") from error


def plan_of(job: Job, now: float) -> Plan:
    """Read a job that was registered at `now`. Raises `JobInvalid` (the texts of the rules are those of 2.2)."""
    now = microseconds(now)
    try:
        schedule = parse_schedule(job.schedule) if job.schedule else None
    except ValueError as error:
        raise JobInvalid(f"invalid schedule: {error}") from error
    if schedule is None and not job.due_time:
        raise JobInvalid("neither a schedule nor a due time is given")
    anchor = _point("due time", job.due_time, now) if job.due_time else now
    repeats = job.repeats
    if repeats is not None and repeats < 1:
        raise JobInvalid("repeats must be 1 or more")
    if schedule is None and repeats is not None and repeats > 1:
        raise JobInvalid("repeats of more than 1 needs a schedule")
    if isinstance(schedule, Every) and schedule.seconds < SHORTEST_S and repeats is None:
        raise JobInvalid(f"{job.schedule!r} without repeats would never rest: the shortest interval is 1ms")
    expires = None
    if job.ttl:
        if schedule is None:
            raise JobInvalid("a ttl needs a schedule")
        expires = _point("ttl", job.ttl, anchor)
        if expires < anchor:
            raise JobInvalid("the ttl is over before the job is due" if job.due_time else "the ttl is over already")
    return Plan(schedule, anchor, bool(job.due_time), expires, repeats)


def plan_again(stored: Stored) -> Plan:
    """Return the plan of a stored job, of which the points in time are known. Raises `JobInvalid`: storage is damaged,
    or holds what a later version wrote."""
    job = stored.job
    try:
        schedule = parse_schedule(job.schedule) if job.schedule else None
    except ValueError as error:
        raise JobInvalid(f"invalid schedule: {error}") from error
    return Plan(schedule, stored.anchor, bool(job.due_time), stored.expires, job.repeats)


def _point(what: str, text: str, start: float) -> float:
    try:
        return microseconds(parse_point(text, start))
    except ValueError as error:
        raise JobInvalid(f"invalid {what}: {error}") from error
