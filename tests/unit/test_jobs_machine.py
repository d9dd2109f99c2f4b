"""The life of a job as rows: schedules, ticks, attempts, what is missed (spec `actors-workflows-jobs.md` 2 and 5)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillion.jobs import machine
from pillion.jobs.partition import partition_of
from pillion.jobs.schedule import plan_of
from pillion.kinds.jobs import (
    PARTITIONS,
    CatchUp,
    Constant,
    Drop,
    FailurePolicy,
    Job,
    JobInvalid,
    JobKey,
    Outcome,
    Stored,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
KEY = JobKey("ns", "j", app_id="a")


def stored(job: Job, now: float = NOW) -> Stored:
    row = machine.register(KEY, job, 7, now)
    assert row is not None
    return row


def ticks(job: Job, number: int = 3) -> list[float]:
    """Return the first ticks of a job, in seconds since its registration."""
    plan = plan_of(job, NOW)
    found: list[float] = []
    tick = plan.after(None)
    while tick is not None and len(found) < number:
        found.append(round(tick - NOW, 6))
        tick = plan.after(tick, len(found))
    return found


@dataclass
class Life:
    """A job fired by a clock that jumps, with answers as they come; keeps all that happened."""

    row: Stored | None
    now: float = NOW
    fired: list[tuple[float, float, Outcome]] = field(default_factory=list)

    def step(self, late: float, outcome: Outcome) -> None:
        assert self.row is not None
        assert self.row.next is not None
        self.now = max(self.now, self.row.next) + late
        firing = machine.fire(self.row, self.now)
        if firing is None or not firing.deliver:
            self.row = None if firing is None else firing.stored
            return
        assert firing.stored.tick is not None
        self.fired.append((firing.stored.tick, self.now, outcome))
        after = machine.settle(firing.stored, outcome, self.now)
        assert after is None or outcome is Outcome.UNDELIVERABLE or after.revision == self.row.revision + 1
        self.row = after


schedules = st.sampled_from(["@every 1s", "@every 100ms", "@every 1m30s", "*/7 * * * * *", "0 0 * * * *", "@hourly"])
outcomes = st.sampled_from([Outcome.SUCCESS, Outcome.SUCCESS, Outcome.FAILED, Outcome.UNDELIVERABLE])
lateness = st.sampled_from([0.0, 0.0, 0.0005, 0.2, 3.0, 100.0, 86_400.0])
policies: st.SearchStrategy[FailurePolicy | None] = st.one_of(
    st.none(),
    st.just(Drop()),
    st.builds(Constant, st.sampled_from([0.0, 0.5, 10.0]), st.sampled_from([0, 1, 3])),
)
steps = st.lists(st.tuples(lateness, outcomes), min_size=1, max_size=60)


@settings(max_examples=200)
@given(schedules, st.integers(1, 6), policies, steps)
def test_exactly_so_many_ticks(
    schedule: str, repeats: int, policy: FailurePolicy | None, story: list[tuple[float, Outcome]]
) -> None:
    """With `repeats` n there are exactly n ticks, each when the schedule says, none early; a tick is tried at most
    `max_retries` + 1 times, spaced by the interval (invariants 11, 13, 15)."""
    life = Life(stored(Job(schedule, repeats=repeats, failure_policy=policy)))
    expected = ticks(Job(schedule, repeats=repeats), 100)
    assert len(expected) == repeats
    rounds = iter(story)
    while life.row is not None:
        late, outcome = next(rounds, (0.0, Outcome.SUCCESS))
        life.step(late, outcome)
    seen = list(dict.fromkeys(tick for tick, _, _ in life.fired))
    assert [round(tick - NOW, 6) for tick in seen] == expected
    given_policy = policy or Constant()
    most = 1 if isinstance(given_policy, Drop) else (given_policy.max_retries or 0) + 1
    for tick in seen:
        tries = [(at, outcome) for which, at, outcome in life.fired if which == tick]
        assert all(at >= tick for at, _ in tries)
        counted = [at for at, outcome in tries if outcome is not Outcome.UNDELIVERABLE]
        assert 1 <= len(counted) <= most
        if isinstance(given_policy, Constant):
            failures = [at for at, outcome in tries if outcome is Outcome.FAILED]
            assert all(b - a >= given_policy.interval_s - 1e-6 for a, b in pairwise(failures))


@settings(max_examples=200)
@given(schedules, st.sampled_from(CatchUp), st.sampled_from(["5s", "1h", "P1D"]), policies, steps)
def test_none_after_the_end(
    schedule: str, catch_up: CatchUp, ttl: str, policy: FailurePolicy | None, story: list[tuple[float, Outcome]]
) -> None:
    """No tick is fired after the end of the ttl, tries again included, whatever was missed (invariant 14)."""
    row = machine.register(KEY, Job(schedule, ttl=ttl, failure_policy=policy, catch_up=catch_up), 1, NOW)
    expires = plan_of(Job(schedule, ttl=ttl), NOW).expires
    assert expires is not None
    life = Life(row)
    for late, outcome in story:
        if life.row is None:
            break
        life.step(late, outcome)
    assert all(at <= expires + machine.GRACE_S and tick <= expires for tick, at, _ in life.fired)


@given(st.sampled_from([0.1, 0.3, 1 / 3, 0.007, 1.1]), st.integers(1, 10_000_000))
def test_no_drift(interval: float, number: int) -> None:
    """The n-th tick is where n intervals after the anchor are, however many ticks there were before."""
    plan = plan_of(Job(f"@every {interval:.9f}s"), NOW)
    interval = float(f"{interval:.9f}")
    tick, passed = plan.passed(NOW + 0.0, NOW + number * interval + interval / 2, None)
    assert passed == number
    assert tick == pytest.approx(NOW + number * interval, abs=2e-6)
    following = plan.after(tick, number)
    assert following == pytest.approx(NOW + (number + 1) * interval, abs=2e-6)


def test_late_answers_do_not_move_the_schedule() -> None:
    life = Life(stored(Job("@every 1s", repeats=4)))
    for late in (0.9, 5.0, 0.0, 0.3):
        life.step(late, Outcome.SUCCESS)
    assert [tick - NOW for tick, _, _ in life.fired] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (Job(due_time="10s"), [10]),
        (Job(due_time="2026-01-01T00:00:10.5Z"), [10.5]),
        (Job("@every 1.5s"), [1.5, 3, 4.5]),
        (Job("@every 2s", due_time="PT5S"), [5, 7, 9]),
        (Job("@every 2s", due_time="5s", ttl="3s"), [5, 7]),
        (Job("@every 0s", repeats=3), [0, 0, 0]),
        (Job("30 * * * * *"), [30, 90, 150]),
        (Job("*/20 * * * * *", due_time="5s"), [5, 20, 40]),
        (Job("@hourly"), [3600, 7200, 10800]),
        (Job("CRON_TZ=Europe/Madrid 0 0 2 * * *"), [3600, 90000, 176400]),
        (Job("0 0 0 30 2 ?"), []),
        (Job("0 0 0 29 2 *"), [(datetime(2028, 2, 29, tzinfo=UTC).timestamp() - NOW)]),
    ],
)
def test_ticks(job: Job, expected: list[float]) -> None:
    assert ticks(job, max(1, len(expected))) == expected


@pytest.mark.parametrize(
    "job",
    [
        Job(),
        Job(repeats=1),
        Job("@every -1s"),
        Job("@every 1µs"),
        Job("@never"),
        Job("* * * * *"),
        Job("TZ=Nowhere/At_All * * * * * *"),
        Job("TZ=Local * * * * * *"),
        Job("60 * * * * *"),
        Job(due_time="1s", repeats=2),
        Job(due_time="1s", ttl="1m"),
        Job("@daily", repeats=0),
        Job("@daily", ttl="-1s"),
        Job("@daily", due_time="2026-01-03T00:00:00Z", ttl="2026-01-02T00:00:00Z"),
        Job("@daily", due_time="R3/PT1S"),
        Job("@daily", failure_policy=Constant(-1.0)),
        Job("@daily", failure_policy=Constant(float("nan"))),
        Job("@daily", catch_up_per_second=-1.0),
        Job("x" * 5000),
    ],
)
def test_refused(job: Job) -> None:
    with pytest.raises(JobInvalid):
        machine.register(KEY, job, 1, NOW)


@pytest.mark.parametrize("name", ["", ".", "..", "a#b", "a?b", "a/b", "a\\b", "a\x00b", "a\x85", "a\ud800", "x" * 500])
def test_refused_names(name: str) -> None:
    with pytest.raises(JobInvalid):
        machine.register(JobKey("ns", name, app_id="app"), Job("@daily"), 1, NOW)


def test_names_in_any_script() -> None:
    assert machine.register(JobKey("ns", "émü — 任务", app_id="app"), Job("@daily"), 1, NOW) is not None


def test_catch_up_last() -> None:
    """Of the missed ticks only the last is fired; those before it count as done."""
    life = Life(stored(Job("@every 1s", catch_up=CatchUp.LAST, repeats=10)))
    life.step(5.5, Outcome.SUCCESS)
    life.step(0.0, Outcome.SUCCESS)
    assert [tick - NOW for tick, _, _ in life.fired] == [6, 7]
    assert life.row is not None
    assert life.row.count == 7


def test_catch_up_last_of_a_calendar() -> None:
    """After a year of absence the last tick is found without walking through all of them."""
    life = Life(stored(Job("* * 0-11 * * *", catch_up=CatchUp.LAST)))
    life.step(366 * 86_400 + 18 * 3600 + 0.5, Outcome.SUCCESS)
    assert datetime.fromtimestamp(life.fired[0][0], UTC) == datetime(2027, 1, 2, 11, 59, 59, tzinfo=UTC)


def test_catch_up_none() -> None:
    """Missed ticks are not fired; the next one is, in its time; a job without one has ended."""
    life = Life(stored(Job("@every 10s", catch_up=CatchUp.NONE)))
    life.step(25.0, Outcome.SUCCESS)
    assert not life.fired
    life.step(0.0, Outcome.SUCCESS)
    assert [(tick - NOW, at - NOW) for tick, at, _ in life.fired] == [(40, 40)]
    once = Life(stored(Job(due_time="1s", catch_up=CatchUp.NONE)))
    once.step(2.0, Outcome.SUCCESS)
    assert once.row is None
    assert not once.fired


def test_late_ticks_are_paced() -> None:
    """No more late ticks a second than the job allows; on time again, they keep the schedule."""
    life = Life(stored(Job("@every 1s", catch_up_per_second=4)))
    life.step(3.0, Outcome.SUCCESS)
    for _ in range(5):
        life.step(0.0, Outcome.SUCCESS)
    assert [round(at - NOW, 6) for _, at, _ in life.fired] == [4, 4.25, 4.5, 4.75, 5, 6]


def test_hold_and_pass_over() -> None:
    row = stored(Job("@every 1s", repeats=4))
    held = machine.pause(row)
    assert held.paused
    assert machine.resume(held) == replace(row, revision=row.revision + 2)
    skipped = machine.skip(row, 2)
    assert skipped is not None
    assert (skipped.tick, skipped.next, skipped.count) == (NOW + 3, NOW + 3, 2)
    assert machine.skip(row, 4) is None
    with pytest.raises(JobInvalid):
        machine.skip(row, 0)


def test_ticks_of_another_time() -> None:
    """A time before the job was made has ticks too; too many at once are refused."""
    row = stored(Job("0 0 * * * *"))
    assert [tick - NOW for tick in machine.ticks_between(row, NOW - 7200, NOW)] == [-7200, -3600, 0]
    every = stored(Job("@every 2s"))
    assert [tick - NOW for tick in machine.ticks_between(every, NOW - 3, NOW + 2)] == [-2, 0, 2]
    assert machine.ticks_between(stored(Job(due_time="5s")), NOW, NOW + 5) == [NOW + 5]
    with pytest.raises(JobInvalid):
        machine.ticks_between(every, NOW - 86_400, NOW)


def test_partitions() -> None:
    """Every partition gets its part, and a key its partition for ever."""
    found = [partition_of(JobKey("ns", f"job{number}", app_id="a").text) for number in range(6400)]
    assert min(found.count(part) for part in range(PARTITIONS)) > 50
    assert partition_of("app||ns||a||j") == 44
