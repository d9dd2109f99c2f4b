"""The life of one job: facts in, the next row out (spec `actors-workflows-jobs.md` 2.4 and invariants 11-15).

    stored = register(key, job, revision, now)       # None: it will never be due
    firing = fire(stored, now)                       # when `stored.next` has come; None: it has ended
    stored = settle(firing.stored, outcome, fired)   # None: that was the last tick

Every row that follows from another has the revision after it, so that whoever writes from an outdated row is refused.
Knows: rows, the time it is told. Never knows: storage, consumers, other jobs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING

from pillion.jobs.schedule import Plan, microseconds, plan_again, plan_of
from pillion.jobs.validate import check_job, check_key
from pillion.kinds.jobs import CatchUp, Constant, Drop, JobInvalid, Outcome, Stored

if TYPE_CHECKING:
    from pillion.kinds.jobs import Job, JobKey

GRACE_S = 1.0
"""A tick that is later than this was missed. So long after the end of its ttl a job's last tick is still fired: no
timer is exact."""
MOST_STEPS = 10_000
"""Ticks that one step passes over where each must be counted, and the most that one call skips or fires again."""
_DEFAULT = Constant()


@dataclass(frozen=True, slots=True)
class Firing:
    """What is to be done with a job that is due. `deliver`: fire its tick; else `stored` is only to be written down."""

    stored: Stored
    deliver: bool


def register(key: JobKey, job: Job, revision: int, now: float) -> Stored | None:
    """Return the first row of a job, or None when no tick will ever be due. Raises `JobInvalid`."""
    check_key(key)
    check_job(job)
    plan = plan_of(job, now)
    first = plan.after(None)
    if first is None:
        return None
    return Stored(key, job, revision, plan.anchor, plan.expires, first, first)


def fire(stored: Stored, now: float) -> Firing | None:
    """Decide about a job whose `next` has come."""
    job, tick = stored.job, _tick(stored)
    if stored.expires is not None and now > stored.expires + GRACE_S:
        return None
    if stored.attempts or job.catch_up is CatchUp.ALL or tick >= now:
        return Firing(stored, True)
    plan = plan_again(stored)
    if job.catch_up is CatchUp.NONE:
        return _without_missed(stored, plan, tick, now)
    last, steps = plan.passed(tick, now, _most(stored))
    if not steps:
        return Firing(stored, True)
    passed = replace(stored, revision=stored.revision + 1, tick=last, count=stored.count + steps)
    if steps == MOST_STEPS and job.repeats is not None:
        return Firing(passed, False)  # there may be more to pass over
    return Firing(replace(passed, revision=stored.revision), True)


def _without_missed(stored: Stored, plan: Plan, tick: float, now: float) -> Firing | None:
    if tick >= now - GRACE_S:
        return Firing(stored, True)
    last, steps = plan.passed(tick, now - GRACE_S, _most(stored))
    count = stored.count + steps + 1
    following = plan.after(last, count)
    if following is None:
        return None
    row = replace(stored, revision=stored.revision + 1, tick=following, next=following, count=count, last=last)
    return Firing(row, False)


def _most(stored: Stored) -> int | None:
    repeats = stored.job.repeats
    return None if repeats is None else min(MOST_STEPS, repeats - stored.count - 1)


def settle(stored: Stored, outcome: Outcome, fired: float) -> Stored | None:
    """Return the row after a try that was begun at `fired`; None: the job has ended and is to be deleted.

    An undeliverable tick leaves everything as it was.
    """
    if outcome is Outcome.UNDELIVERABLE:
        return stored
    job, tick = stored.job, _tick(stored)
    if outcome is Outcome.FAILED:
        again = retry(stored, fired)
        if again is not None:
            return again
    count = stored.count + 1
    if job.schedule == "" or count == job.repeats:
        return None
    following = plan_again(stored).after(tick, count)
    if following is None:
        return None
    at = following
    if job.catch_up_per_second and following <= fired:
        at = microseconds(fired + 1 / job.catch_up_per_second)
    return Stored(
        stored.key,
        job,
        stored.revision + 1,
        stored.anchor,
        stored.expires,
        at,
        following,
        count,
        tick,
        0,
        stored.paused,
    )


def retry(stored: Stored, fired: float) -> Stored | None:
    """Return the row of a tick that is tried again after a try, begun at `fired`, that failed; None: no more."""
    policy = stored.job.failure_policy or _DEFAULT
    if isinstance(policy, Drop):
        return None
    attempts = stored.attempts + 1
    if policy.max_retries is not None and attempts > policy.max_retries:
        return None
    again = microseconds(fired + policy.interval_s)
    if stored.expires is not None and again > stored.expires:
        return None
    return replace(stored, revision=stored.revision + 1, next=again, attempts=attempts)


def pause(stored: Stored) -> Stored:
    """Return the row of a job that fires no more until it is resumed."""
    return replace(stored, revision=stored.revision + 1, paused=True)


def resume(stored: Stored) -> Stored:
    """Return the row of a job that goes on; what was due meanwhile is late, and follows `catch_up`."""
    return replace(stored, revision=stored.revision + 1, paused=False)


def carried(under_way: Stored, row: Stored) -> Stored | None:
    """Return the row of a tick that is under way, when `row` has become its job's row by nothing but pauses and
    resumptions since; None: by something else. `fire` may have passed over ticks, which is not in `row` yet.
    """
    held = replace(under_way, revision=row.revision, paused=row.paused)
    return held if held == replace(row, tick=held.tick, count=held.count) else None


def skip(stored: Stored, ticks: int) -> Stored | None:
    """Pass over the next ticks as if they were done; None: there are no more. Raises `JobInvalid`."""
    if not 1 <= ticks <= MOST_STEPS:
        raise JobInvalid(f"between 1 and {MOST_STEPS} ticks can be skipped at once")
    plan, tick, count, last = plan_again(stored), _tick(stored), stored.count, stored.last
    for _ in range(ticks):
        count, last = count + 1, tick
        following = plan.after(tick, count)
        if following is None:
            return None
        tick = following
    return replace(stored, revision=stored.revision + 1, tick=tick, next=tick, count=count, last=last, attempts=0)


def ticks_between(stored: Stored, since: float, until: float) -> list[float]:
    """Return all ticks of the schedule in [`since`, `until`]. Raises `JobInvalid` when they are too many."""
    found = list(islice(plan_again(stored).between(since, until), MOST_STEPS + 1))
    if len(found) > MOST_STEPS:
        raise JobInvalid(f"there are more than {MOST_STEPS} ticks in that time: ask for less at once")
    return found


def _tick(stored: Stored) -> float:
    if stored.tick is None:
        raise JobInvalid(f"the row of {stored.key.text!r} has no tick: storage is damaged")
    return stored.tick
