"""One call under a policy as a pure machine: what happened and the time in, the next step out.

    start   -> ATTEMPT | a refusal of the breaker
    failed  -> Wait(seconds) | GIVE_UP
    waited  -> ATTEMPT | a refusal of the breaker
    succeeded, abandoned: the end

Spec `runtime.md` 4.1 and 4.2.
A breaker surrounds each attempt, retries surround the breaker; the timeout of an attempt is the driver's (`run.py`).
Knows: how often and when. Never knows: clocks, randomness (`random` is handed in), what is attempted.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from pillion.records import record
from pillion.resiliency.breaker import Refusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.resiliency.breaker import Breaker
    from pillion.resiliency.failures import Failure

    Random = Callable[[], float]
    """A number from 0 up to, not including, 1."""

INITIAL_S, GROWTH, SPREAD, TOTAL_S = 0.5, 1.5, 0.5, 900.0
"""Exponential retries: first wait, factor, part of a wait that is random either way, and when to give up."""
UNLIMITED = -1


@record
class Retry:
    """A policy of `spec.policies.retries`.

    The wait starts at `wait_s`, grows by `growth` up to `cap_s`, and is moved by a random part of at most `spread`.
    `limit` is the number of retries, `total_s` the seconds after which there is none any more (0: no such end).
    `http` and `grpc` are the codes that are retried; None: all.
    """

    name: str
    limit: int = UNLIMITED
    wait_s: float = 5.0
    growth: float = 1.0
    spread: float = 0.0
    cap_s: float = 0.0
    total_s: float = 0.0
    http: frozenset[int] | None = None
    grpc: frozenset[int] | None = None

    def repeats(self, failure: Failure) -> bool:
        """Whether such a failure is retried at all."""
        if failure.final:
            return False
        code = failure.code
        if code is None:
            return True
        listed = self.grpc if code <= 16 else self.http
        return listed is None or code in listed

    def wait(self, retries: int, elapsed_s: float, random: Random) -> float | None:
        """Return the seconds before the next attempt when `retries` were made, None when there shall be none."""
        if 0 <= self.limit <= retries:
            return None
        wait_s = self.wait_s
        if self.growth != 1.0:
            # The exponent is bounded: 1.5 ** 2000 is no float, and the cap is reached long before.
            wait_s = min(wait_s * self.growth ** min(retries, 200), self.cap_s or wait_s)
        if self.spread:
            wait_s *= 1 + self.spread * (2 * random() - 1)
        if self.total_s and elapsed_s + wait_s > self.total_s:
            return None
        return wait_s


@record
class Wait:
    """Call `waited` after so many seconds."""

    seconds: float


class Step(Enum):
    """The other steps."""

    ATTEMPT = "attempt"
    GIVE_UP = "give up"
    """The last failure is the call's."""


Next = Step | Wait | Refusal


class Attempts:
    """One call. `retries` counts the attempts after the first."""

    __slots__ = ("_breaker", "_random", "_retry", "_started", "_ticket", "retries")

    def __init__(self, retry: Retry | None, breaker: Breaker | None, random: Random) -> None:
        self._retry = retry
        self._breaker = breaker
        self._random = random
        self._ticket = 0
        self._started = 0.0
        self.retries = 0

    def start(self, now: float) -> Next:
        """Begin: ATTEMPT or a refusal."""
        self._started = now
        breaker = self._breaker
        if breaker is None:
            return Step.ATTEMPT
        ticket = breaker.admit(now)
        if isinstance(ticket, Refusal):
            return ticket
        self._ticket = ticket
        return Step.ATTEMPT

    def succeeded(self, now: float) -> None:
        """The attempt went well; the call is over."""
        if self._breaker is not None:
            self._breaker.succeeded(self._ticket, now)

    def failed(self, failure: Failure, now: float) -> Next:
        """The attempt failed: a wait, or GIVE_UP."""
        breaker = self._breaker
        if breaker is not None:
            if failure.blameless:
                breaker.succeeded(self._ticket, now)
            else:
                breaker.failed(self._ticket, now)
        retry = self._retry
        if retry is None or not retry.repeats(failure):
            return Step.GIVE_UP
        wait_s = retry.wait(self.retries, now - self._started, self._random)
        return Step.GIVE_UP if wait_s is None else Wait(wait_s)

    def waited(self, now: float) -> Next:
        """The wait is over: ATTEMPT or a refusal."""
        self.retries += 1
        if self._breaker is None:
            return Step.ATTEMPT
        ticket = self._breaker.admit(now)
        if isinstance(ticket, Refusal):
            return ticket
        self._ticket = ticket
        return Step.ATTEMPT

    def abandoned(self) -> None:
        """The caller went away during an attempt."""
        if self._breaker is not None:
            self._breaker.abandoned(self._ticket)

    def __repr__(self) -> str:
        return f"<Attempts: {self.retries} retries, {self._retry}, {self._breaker}>"
