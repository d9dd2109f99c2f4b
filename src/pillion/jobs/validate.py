"""What a job may look like, before it is taken (spec `actors-workflows-jobs.md` 2.2).

Knows: the rules of names, bounds of numbers. Never knows: schedules' grammar (`jobs/schedule.py`), who asks.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pillion.kinds.jobs import Constant, JobInvalid

if TYPE_CHECKING:
    from pillion.kinds.jobs import Job, JobKey

LONGEST_KEY = 512
"""Bytes of a composed key in UTF-8."""
MOST_REPEATS = 2**32 - 1
"""`repeats` and `max_retries` are uint32 on the wire."""
_FORBIDDEN = frozenset("#?/\\")


def check_key(key: JobKey) -> None:
    """Raise `JobInvalid` unless the composed key can name a job."""
    text = key.text
    if not key.name:
        raise JobInvalid("the name of the job is empty")
    if len(text.encode("utf-8", "surrogatepass")) > LONGEST_KEY:
        raise JobInvalid(f"the job's key is longer than {LONGEST_KEY} bytes: {text[:80]!r}...")
    if not _FORBIDDEN.isdisjoint(text):
        raise JobInvalid(f"the job's key {text!r} must not hold any of # ? / \\")
    if not text.isprintable() and any(_control(letter) for letter in text):
        raise JobInvalid(f"the job's key {text!r} must not hold control characters")
    if key.name in (".", ".."):
        raise JobInvalid(f"a job must not be named {key.name!r}")


def _control(letter: str) -> bool:
    """Control characters, and halves of characters that no UTF-8 text has."""
    return letter < " " or "\x7f" <= letter < "\xa0" or "\ud800" <= letter < "\ue000"


def check_job(job: Job) -> None:
    """Raise `JobInvalid` unless the numbers of the job can be kept; `plan_of` reads its texts."""
    if job.repeats is not None and not 1 <= job.repeats <= MOST_REPEATS:
        raise JobInvalid(f"repeats must be between 1 and {MOST_REPEATS}")
    policy = job.failure_policy
    if isinstance(policy, Constant):
        if not (math.isfinite(policy.interval_s) and 0 <= policy.interval_s < 1e10):
            raise JobInvalid("the interval of the failure policy must not be negative, nor beyond all calendars")
        if policy.max_retries is not None and not 0 <= policy.max_retries <= MOST_REPEATS:
            raise JobInvalid(f"max_retries must be between 0 and {MOST_REPEATS}")
    if not (math.isfinite(job.catch_up_per_second) and job.catch_up_per_second >= 0):
        raise JobInvalid("catch_up_per_second must be 0 or more")
