"""Cron schedules: when next? (spec `components.md` 4, row cron; the syntax is that of crontab(5) with seconds.)

    schedule = parse("0 30 8 * * mon-fri")
    schedule.next(after, offset)          # seconds since 1970; `offset(t)` is local time minus UTC at t, in seconds

Daylight saving, in one sentence: a schedule is a set of readings of the wall clock, and it is due at every instant at
which the wall clock shows one of them. So what falls into a skipped hour is skipped, and what falls into a repeated
hour is due twice; `@every` knows no wall clock and is not concerned. The reference behaves the same.

Knows: syntax, calendar. Never knows: the time, the machine's zone, tasks.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from dataclasses import dataclass
from datetime import date
from typing import TYPE_CHECKING

from pillion.wire.durations import go_duration, render_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    Offset = Callable[[int], int]

LONGEST = 512
"""Characters of a schedule."""
DAY_S = 86_400
WINDOW_S = 36 * 3600
"""More than two readings of wall clocks at one instant can be apart (UTC-12 to UTC+14)."""
YEARS = 12
"""29 February is at most eight years away; what is not due within this time never is."""
_EPOCH = date(1970, 1, 1).toordinal()
_MONTHS = {
    "jan": 1, "feb": 2, "mar": 3, "apr": 4, "may": 5, "jun": 6,
    "jul": 7, "aug": 8, "sep": 9, "oct": 10, "nov": 11, "dec": 12,
}  # fmt: skip
_DAYS = {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6}
_DESCRIPTORS = {
    "@yearly": "0 0 0 1 1 *",
    "@annually": "0 0 0 1 1 *",
    "@monthly": "0 0 0 1 * *",
    "@weekly": "0 0 0 * * 0",
    "@daily": "0 0 0 * * *",
    "@midnight": "0 0 0 * * *",
    "@hourly": "0 0 * * * *",
}
_PART = re.compile(r"(\*|\?|[0-9a-z]+)(?:-([0-9a-z]+))?(?:/([0-9]{1,9}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Every:
    """`@every`: due again `seconds` after it was, on whole seconds."""

    seconds: int

    def next(self, after: float, offset: Offset) -> int:
        return int(after // 1) + self.seconds

    def __str__(self) -> str:
        return f"@every {render_duration(self.seconds)}"


@dataclass(frozen=True, slots=True)
class Cron:
    """Six fields, each the values it allows. `any_day` and `any_weekday` tell that the field was `*` or `?`: where both
    days are restricted, one of them suffices (crontab(5)).
    """

    seconds: tuple[int, ...]
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    any_day: bool = True
    any_weekday: bool = True

    def next(self, after: float, offset: Offset) -> int | None:
        """Return the first instant later than `after` that is due, None when there will be none.

        The zone is taken in stretches in which its offset does not change.
        """
        at = int(after // 1) + 1
        while True:
            now_offset = offset(at)
            wall = self._wall(at + now_offset)
            if wall is None:
                return None
            due = wall - now_offset
            if due == at:
                return at
            horizon = min(due, at + WINDOW_S)
            change = _change(at, horizon, now_offset, offset)
            if change is not None:
                at = change
            elif due == horizon:
                return due
            else:  # beyond the window no wall clock shows what it showed before, nor `wall` yet
                at = max(horizon, due - WINDOW_S)

    def matches_day(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        in_month, in_week = day.day in self.days, day.isoweekday() % 7 in self.weekdays
        if self.any_day or self.any_weekday:
            return in_month and in_week
        return in_month or in_week

    def _wall(self, wall: int) -> int | None:
        """Return the first reading of a wall clock from `wall` on that the fields allow."""
        days, second = divmod(wall, DAY_S)
        ordinal = days + _EPOCH
        last = min(ordinal + YEARS * 366, date.max.toordinal())
        while ordinal <= last:
            day = date.fromordinal(ordinal)
            if day.month not in self.months:
                ordinal = _next_month(day)
                second = 0
                continue
            if self.matches_day(day):
                found = self._time_of_day(second)
                if found is not None:
                    return (ordinal - _EPOCH) * DAY_S + found
            ordinal += 1
            second = 0
        return None

    def _time_of_day(self, second: int) -> int | None:
        hour, rest = divmod(second, 3600)
        minute, second = divmod(rest, 60)
        hour_at = bisect_left(self.hours, hour)
        if hour_at < len(self.hours) and self.hours[hour_at] == hour:
            minute_at = bisect_left(self.minutes, minute)
            if minute_at < len(self.minutes) and self.minutes[minute_at] == minute:
                second_at = bisect_left(self.seconds, second)
                if second_at < len(self.seconds):
                    return hour * 3600 + minute * 60 + self.seconds[second_at]
                minute_at += 1
            if minute_at < len(self.minutes):
                return hour * 3600 + self.minutes[minute_at] * 60 + self.seconds[0]
            hour_at += 1
        if hour_at < len(self.hours):
            return self.hours[hour_at] * 3600 + self.minutes[0] * 60 + self.seconds[0]
        return None


Schedule = Cron | Every


def _next_month(day: date) -> int:
    year, month = (day.year + 1, 1) if day.month == 12 else (day.year, day.month + 1)
    return date(year, month, 1).toordinal() if year <= date.max.year else date.max.toordinal() + 1


def _change(start: int, end: int, was: int, offset: Offset) -> int | None:
    """Return the first instant in (start, end] whose offset is not `was`; no zone changes twice within an hour."""
    low = start
    while low < end:
        high = min(low + 3600, end)
        if offset(high) != was:
            while high - low > 1:
                middle = (low + high) // 2
                if offset(middle) == was:
                    low = middle
                else:
                    high = middle
            return high
        low = high
    return None


# -- syntax


def split_zone(text: str) -> tuple[str, str]:
    """Return the zone that a prefix `TZ=` or `CRON_TZ=` names ("" for none), and the schedule without it."""
    text = text.strip()
    match = re.fullmatch(r"(?:CRON_)?TZ=(\S*)\s+(.*)", text, re.DOTALL)
    return (match[1], match[2]) if match else ("", text)


def parse(text: str) -> Schedule:
    """Read a schedule without its zone prefix: five fields (minute first), six (second first), or a descriptor.

    Raises ValueError saying what is wrong where.
    """
    if len(text) > LONGEST:
        raise ValueError(f"longer than {LONGEST} characters")
    text = text.strip()
    low = text.lower()
    if low.startswith("@every"):
        return _every(text[6:].strip())
    if low.startswith("@"):
        if low not in _DESCRIPTORS:
            raise ValueError(f"unknown descriptor {text!r} (known: {', '.join(_DESCRIPTORS)}, @every 5m)")
        low = _DESCRIPTORS[low]
    fields = low.split()
    if len(fields) == 5:
        fields.insert(0, "0")
    if len(fields) != 6:
        raise ValueError(f"{len(fields)} fields in {text!r}, not 5, or 6 with seconds")
    second, minute, hour, day, month, weekday = fields
    weekdays = _values(weekday, "day of week", 0, 7, _DAYS)
    return Cron(
        tuple(sorted(_values(second, "second", 0, 59))),
        tuple(sorted(_values(minute, "minute", 0, 59))),
        tuple(sorted(_values(hour, "hour", 0, 23))),
        _values(day, "day of month", 1, 31),
        _values(month, "month", 1, 12, _MONTHS),
        frozenset(value % 7 for value in weekdays),
        any_day=_unrestricted(day),
        any_weekday=_unrestricted(weekday),
    )


def _every(text: str) -> Every:
    seconds = go_duration(text)
    if seconds < 0:
        raise ValueError(f"@every {text}: the interval is negative")
    return Every(max(int(seconds), 1))


def _unrestricted(field: str) -> bool:
    return any(part in ("*", "?", "*/1", "?/1") for part in field.split(","))


def _values(field: str, what: str, least: int, most: int, names: dict[str, int] | None = None) -> frozenset[int]:
    """Return the values of one field: a comma list of `*`, `?`, `a`, `a-b`, each with an optional `/step`."""
    found: set[int] = set()
    top = 6 if most == 7 else most  # Sunday is 0, and 7 only for who writes it
    for part in field.split(","):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"{what}: {part!r} is not *, a, a-b or one of them with /step")
        first, last, step_text = match.groups()
        step = int(step_text) if step_text else 1
        if step == 0:
            raise ValueError(f"{what}: the step of {part!r} is 0")
        if first in ("*", "?"):
            if last is not None:
                raise ValueError(f"{what}: {part!r} is no range")
            low, high = least, top
        else:
            low = _value(first, what, least, most, names)
            high = top if step_text else low
            if last is not None:
                high = _value(last, what, least, most, names)
        if low > high:
            raise ValueError(f"{what}: {part!r} ends before it begins")
        found.update(range(low, high + 1, step))
    return frozenset(found)


def _value(text: str, what: str, least: int, most: int, names: dict[str, int] | None) -> int:
    if names is not None and text in names:
        return names[text]
    if not text.isdigit() or len(text) > 9:
        raise ValueError(f"{what}: {text!r} is not a number")
    value = int(text)
    if not least <= value <= most:
        raise ValueError(f"{what}: {value} is not between {least} and {most}")
    return value
