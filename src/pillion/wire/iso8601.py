"""Durations as ISO 8601 writes them, `R5/P1DT2H`, and points in time as jobs, reminders and timers give them.

The grammar is that of spec `actors-workflows-jobs.md` 1.12: `[R<n>/]P[nY][nM][nW][nD][T[nH][nM][nS]]` with whole
numbers, and `R<n>` alone. Calendar parts are added in UTC, as Go's `time.AddDate` adds them: what is beyond the end of
a month runs over into the next (31 January + P1M = 3 March).

Knows: text and calendar. Never knows: the time, what the period is for.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime

from pillion.wire.durations import go_duration

LONGEST = 128
"""Characters of a duration or a point in time."""
FARTHEST = 253_402_300_799.0
"""The last second of the year 9999, in seconds since 1970: later, no calendar and no RFC 3339 text goes."""
DAY_S = 86_400
_EPOCH = date(1970, 1, 1).toordinal()
_FORM = re.compile(
    r"(?:R([+-]?\d{1,18})/)?P(?=[\dT])(?:(\d{1,9})Y)?(?:(\d{1,9})M)?(?:(\d{1,9})W)?(?:(\d{1,9})D)?\d*"
    r"(?:T(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,9})S)?\d*)?",
    re.ASCII,
)
_ALONE = re.compile(r"R([+-]?\d{1,18})", re.ASCII)
_RFC3339 = re.compile(r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(\.\d{1,30})?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


@dataclass(frozen=True, slots=True)
class Period:
    """A length of time. `seconds` may be negative only when it was written as a Go duration.

    `repeats` is the number after `R`; None when there was none. What 0 and less mean is the reader's affair.
    """

    years: int = 0
    months: int = 0
    days: int = 0
    seconds: float = 0.0
    repeats: int | None = None

    @property
    def calendar(self) -> bool:
        """Whether its length depends on the day it begins; such a period is no number of seconds."""
        return bool(self.years or self.months or self.days)

    def after(self, start: float) -> float:
        """Return the end of a period that begins at `start`, in seconds since 1970.

        Raises ValueError when that is beyond the calendar.
        """
        if not self.calendar:
            return _bounded(start + self.seconds)
        days, second = divmod(start, DAY_S)
        day = date.fromordinal(int(days) + _EPOCH)
        month = day.month - 1 + self.months
        year = day.year + self.years + month // 12
        if not 1 <= year <= 9999:
            raise ValueError("beyond the year 9999")
        first = date(year, month % 12 + 1, 1).toordinal() - _EPOCH
        return _bounded((first + day.day - 1 + self.days) * DAY_S + second + self.seconds)


def parse_iso_period(text: str) -> Period:
    """Read the ISO form alone. Raises ValueError."""
    alone = _ALONE.fullmatch(text) if len(text) <= LONGEST else None
    if alone is not None:
        return Period(repeats=int(alone[1]))
    match = _FORM.fullmatch(text) if len(text) <= LONGEST else None
    if match is None:
        raise ValueError(f"not an ISO 8601 duration: {text[:LONGEST]!r} (write it like PT10S, P1DT2H or R5/PT1M)")
    repeats, *numbers = match.groups()
    years, months, weeks, days, hours, minutes, seconds = (int(number or 0) for number in numbers)
    return Period(
        years,
        months,
        weeks * 7 + days,
        float(hours * 3600 + minutes * 60 + seconds),
        None if repeats is None else int(repeats),
    )


def parse_period(text: str) -> Period:
    """Read a period in either form, ISO 8601 or a Go duration; the latter has no repeats. Raises ValueError."""
    if text[:1] in ("P", "R"):
        return parse_iso_period(text)
    return Period(seconds=_go(text))


def parse_point(text: str, now: float) -> float:
    """Read a point in time: RFC 3339, or a duration (Go, ISO 8601) from `now`; in seconds since 1970.

    Raises ValueError, also for a period that repeats.
    """
    if (match := _RFC3339.fullmatch(text)) is not None:
        return _rfc3339(match)
    period = parse_period(text)
    if period.repeats is not None and period.repeats > 0:
        raise ValueError(f"{text!r} repeats: a point in time does not")
    return period.after(now)


def parse_rfc3339(text: str) -> float:
    """Return seconds since 1970; a fraction may have any number of digits. Raises ValueError."""
    match = _RFC3339.fullmatch(text)
    if match is None:
        raise ValueError(f"not a time of RFC 3339: {text[:LONGEST]!r} (write it like 2026-01-02T03:04:05Z)")
    return _rfc3339(match)


def _rfc3339(match: re.Match[str]) -> float:
    *numbers, fraction, zone = match.groups()
    try:
        whole = datetime(*(int(number) for number in numbers), tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]
    except ValueError as error:
        raise ValueError(f"{match[0]!r}: {error}") from None
    offset = 0
    if zone not in "Zz":
        hours, minutes = int(zone[1:3]), int(zone[4:6])
        if hours > 23 or minutes > 59:
            raise ValueError(f"{match[0]!r}: no such zone")
        offset = (hours * 3600 + minutes * 60) * (-1 if zone[0] == "-" else 1)
    return whole - offset + (float(fraction) if fraction else 0.0)


def _go(text: str) -> float:
    if len(text) > LONGEST:
        raise ValueError("not a duration: too long")
    return go_duration(text)


def _bounded(point: float) -> float:
    if not -62_135_596_800.0 <= point <= FARTHEST:
        raise ValueError("outside of the years 1 to 9999")
    return point
