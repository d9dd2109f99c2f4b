"""Schedules against the definition: due at every instant whose wall clock reading the fields allow, never else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from pillion.wire.cron import Cron, Every, parse, split_zone

if TYPE_CHECKING:
    from collections.abc import Callable

ZONES = ["UTC", "America/New_York", "Europe/Berlin", "Australia/Lord_Howe", "Asia/Kathmandu", "Pacific/Apia"]
CHANGES = [  # around changes of offset: an hour, half an hour, a whole day
    datetime(2026, 3, 8, 6, tzinfo=UTC), datetime(2026, 11, 1, 5, tzinfo=UTC), datetime(2026, 3, 29, 1, tzinfo=UTC),
    datetime(2026, 10, 25, 1, tzinfo=UTC), datetime(2026, 4, 4, 15, tzinfo=UTC), datetime(2026, 10, 3, 15, tzinfo=UTC),
    datetime(2011, 12, 30, 10, tzinfo=UTC),
]  # fmt: skip


def offset_in(name: str) -> Callable[[int], int]:
    zone = ZoneInfo(name)

    def offset(at: int) -> int:
        found = datetime.fromtimestamp(at, zone).utcoffset()
        assert found is not None
        return int(found.total_seconds())

    return offset


def allows(schedule: Cron, at: int, offset: Callable[[int], int]) -> bool:
    wall = datetime.fromtimestamp(at + offset(at), UTC)
    time_fits = wall.second in schedule.seconds and wall.minute in schedule.minutes and wall.hour in schedule.hours
    return time_fits and schedule.matches_day(wall.date())


def next_text(text: str, after: str, zone: str = "UTC") -> str:
    moment = datetime.fromisoformat(after)
    found = parse(text).next(moment.timestamp(), offset_in(zone))
    return "never" if found is None else datetime.fromtimestamp(found, ZoneInfo(zone)).isoformat()


def field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    pair = st.tuples(number, number).map(sorted)
    step = st.integers(1, high)
    part = st.one_of(
        st.just("*"),
        number.map(str),
        pair.map(lambda ends: f"{ends[0]}-{ends[1]}"),
        step.map(lambda size: f"*/{size}"),
        st.tuples(pair, step).map(lambda given: f"{given[0][0]}-{given[0][1]}/{given[1]}"),
    )
    return st.lists(part, min_size=1, max_size=3).map(",".join)


SCHEDULES = st.tuples(field(0, 59), field(0, 23), field(1, 31), field(1, 12), field(0, 6)).map(
    lambda parts: " ".join(("0", *parts))
)


@settings(max_examples=150, deadline=None)
@given(SCHEDULES, st.sampled_from(CHANGES), st.integers(-30 * 3600, 30 * 3600), st.sampled_from(ZONES))
@example("0 30 1 * * *", CHANGES[1], 0, "America/New_York")
@example("0 0 0 * * *", CHANGES[6], -3600, "Pacific/Apia")
def test_next_is_the_first_instant_that_fits(text: str, around: datetime, shift: int, zone: str) -> None:
    """Minute by minute over two days, nothing in between fits, and what is returned does."""
    schedule, offset = parse(text), offset_in(zone)
    assert isinstance(schedule, Cron)
    after = int(around.timestamp()) + shift
    found = schedule.next(after, offset)
    end = after + 2 * 86_400 if found is None else min(found, after + 2 * 86_400)
    first = after - after % 60 + 60
    assert not any(allows(schedule, at, offset) for at in range(first, end, 60))
    if found is not None:
        assert found > after
        assert allows(schedule, found, offset)


@settings(max_examples=60, deadline=None)
@given(field(0, 59), st.integers(0, 2**31), st.floats(0, 0.999))
def test_seconds(text: str, after: int, fraction: float) -> None:
    """Every second that fits, and no other, within two minutes."""
    schedule, offset = parse(f"{text} * * * * *"), offset_in("UTC")
    assert isinstance(schedule, Cron)
    found, at = [], after + fraction
    while (due := schedule.next(at, offset)) is not None and due <= after + 120:
        found.append(due)
        at = due
    assert found == [at for at in range(after + 1, after + 121) if allows(schedule, at, offset)]


@given(st.text(max_size=30))
def test_any_text_is_a_schedule_or_a_value_error(text: str) -> None:
    """Nothing else comes out of the parser, and what is a schedule can be asked."""
    try:
        schedule = parse(text)
    except ValueError:
        return
    assume(isinstance(schedule, Cron | Every))
    schedule.next(0, lambda at: 0)


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        ("0 30 8 * * mon-fri", "2026-01-02T08:30:00Z", "2026-01-05T08:30:00+00:00"),
        ("30 8 * * 1-5", "2026-01-02T08:29:59.5Z", "2026-01-02T08:30:00+00:00"),
        ("*/15 * * * *", "2026-01-02T08:01:00Z", "2026-01-02T08:15:00+00:00"),
        ("5/20 * * * *", "2026-01-02T08:26:00Z", "2026-01-02T08:45:00+00:00"),
        ("0 0 13 * fri", "2026-01-03T00:00:00Z", "2026-01-09T00:00:00+00:00"),
        ("0 0 13 * ?", "2026-01-03T00:00:00Z", "2026-01-13T00:00:00+00:00"),
        ("0 0 * * 7", "2026-01-03T00:00:00Z", "2026-01-04T00:00:00+00:00"),
        ("0 0 29 2 *", "2096-03-01T00:00:00Z", "2104-02-29T00:00:00+00:00"),
        ("0 0 31 JAN,mar *", "2026-02-01T00:00:00Z", "2026-03-31T00:00:00+00:00"),
        ("0 0 30 2 *", "2026-01-01T00:00:00Z", "never"),
        ("@yearly", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00+00:00"),
        ("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00+00:00"),
        ("@hourly", "2026-01-01T00:00:00Z", "2026-01-01T01:00:00+00:00"),
        ("@every 90s", "2026-01-01T00:00:00.7Z", "2026-01-01T00:01:30+00:00"),
        ("@every 10ms", "2026-01-01T00:00:00Z", "2026-01-01T00:00:01+00:00"),
    ],
)
def test_syntax(text: str, after: str, expected: str) -> None:
    """crontab(5), with seconds, names, descriptors, and intervals of whole seconds."""
    assert next_text(text, after) == expected


@pytest.mark.parametrize(
    ("text", "after", "expected"),
    [
        # 2 March 8 2026, New York: 01:59:59 is followed by 03:00:00.
        ("0 30 2 * * *", "2026-03-08T00:00:00-05:00", "2026-03-09T02:30:00-04:00"),
        ("0 0 * * * *", "2026-03-08T01:00:00-05:00", "2026-03-08T03:00:00-04:00"),
        # 1 November 2026: 01:59:59 is followed by 01:00:00.
        ("0 30 1 * * *", "2026-11-01T00:00:00-04:00", "2026-11-01T01:30:00-04:00"),
        ("0 30 1 * * *", "2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00"),
        ("0 30 1 * * *", "2026-11-01T01:30:00-05:00", "2026-11-02T01:30:00-05:00"),
        ("@every 1h", "2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00"),
    ],
)
def test_daylight_saving(text: str, after: str, expected: str) -> None:
    """What a skipped hour holds is skipped; what a repeated hour holds comes twice; intervals do not care."""
    assert next_text(text, after, "America/New_York") == expected


@pytest.mark.parametrize(
    "text",
    ["", "* * * *", "* * * * * * *", "60 * * * *", "* 24 * * *", "* * 0 * *", "* * * 13 *", "* * * * 8", "*/0 * * * *",
     "5-1 * * * *", "*-3 * * * *", "a * * * *", "@daly", "@every", "@every -1s", "@every 1", "1,,2 * * * *",
     "٣ * * * *", "* " * 300],
)  # fmt: skip
def test_errors(text: str) -> None:
    """What cannot be meant is refused."""
    with pytest.raises(ValueError, match=r"."):
        parse(text)


def test_zone_prefixes() -> None:
    """`TZ=` and `CRON_TZ=` name a zone."""
    assert split_zone("TZ=Asia/Tokyo 0 5 * * *") == ("Asia/Tokyo", "0 5 * * *")
    assert split_zone(" CRON_TZ=UTC  @daily") == ("UTC", "@daily")
    assert split_zone("@every 1s") == ("", "@every 1s")


def test_next_never_goes_back() -> None:
    """A year of a schedule in a zone with daylight saving is strictly increasing."""
    schedule, offset = parse("0 */30 0-3 * * *"), offset_in("Europe/Berlin")
    at: float = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
    end = at + timedelta(days=365).total_seconds()
    count = 0
    while at < end:
        due = schedule.next(at, offset)
        assert due is not None
        assert due > at
        at = due
        count += 1
    assert count == 365 * 8, "two are skipped in March and two come twice in October"
