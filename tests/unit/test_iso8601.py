"""Durations and points in time of jobs, reminders and timers (spec `actors-workflows-jobs.md` 1.12)."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.wire.iso8601 import Period, parse_iso_period, parse_period, parse_point, parse_rfc3339


def seconds(*when: int) -> float:
    return datetime(*when, tzinfo=UTC).timestamp()  # type: ignore[arg-type, misc]


@pytest.mark.parametrize(
    ("text", "period"),
    [
        ("PT1S", Period(seconds=1)),
        ("P1Y2M3W4DT5H6M7S", Period(1, 2, 25, 5 * 3600 + 6 * 60 + 7)),
        ("R5/PT1S", Period(seconds=1, repeats=5)),
        ("R0/P1D", Period(days=1, repeats=0)),
        ("R-1/PT1M", Period(seconds=60, repeats=-1)),
        ("R3", Period(repeats=3)),
        ("PT1M30", Period(seconds=60)),
        ("P1D5", Period(days=1)),
        ("1h30m", Period(seconds=5400)),
        ("0", Period()),
    ],
)
def test_period(text: str, period: Period) -> None:
    """Both forms; digits without a unit at the end are ignored; `R3` alone repeats a period of nothing."""
    assert parse_period(text) == period


@pytest.mark.parametrize("text", ["", "P", "R", "R/PT1S", "PT1.5S", "P-1D", "P1S", "PT1D", "1D", "RP1D", "P1D " * 50])
def test_not_a_period(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_period(text)


@pytest.mark.parametrize(
    ("text", "point"),
    [
        ("2026-01-02T03:04:05Z", seconds(2026, 1, 2, 3, 4, 5)),
        ("2026-01-02T03:04:05.250+01:30", seconds(2026, 1, 2, 1, 34, 5) + 0.25),
        ("10s", seconds(2026, 1, 31) + 10),
        ("P1M", seconds(2026, 3, 3)),
        ("P1Y1M1DT1S", seconds(2027, 3, 4, 0, 0, 1)),
        ("R0/PT1S", seconds(2026, 1, 31, 0, 0, 1)),
    ],
)
def test_point(text: str, point: float) -> None:
    """Calendar parts are added as Go does: 31 January and a month are 3 March."""
    assert parse_point(text, seconds(2026, 1, 31)) == point


@pytest.mark.parametrize("text", ["R2/PT1S", "2026-13-01T00:00:00Z", "P9000Y", "2026-01-01T00:00:00+25:00", "soon"])
def test_not_a_point(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_point(text, seconds(2026, 1, 31))


def test_rfc3339_alone() -> None:
    assert parse_rfc3339("1970-01-01T00:00:01.5Z") == 1.5
    with pytest.raises(ValueError, match="RFC 3339"):
        parse_rfc3339("10s")


@given(st.text(alphabet="RPTYMWDHS0123456789/+-.:Zhms", max_size=12))
def test_any_text(text: str) -> None:
    """Whatever is written is read or refused by ValueError."""
    for read in (parse_iso_period, parse_period, parse_rfc3339, lambda one: parse_point(one, 0.0)):
        try:
            read(text)
        except ValueError:
            continue
