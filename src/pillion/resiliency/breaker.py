"""A circuit breaker as a pure machine (spec `runtime.md` 4.1): facts and the time in, a ticket or a refusal out.

    closed --trip--> open --timeout--> half-open --maxRequests successes in a row--> closed
                      ^-----------------any failure---'

Knows: counts and states. Never knows: clocks, what is called. Whoever is admitted holds a ticket and gives it back
once, with how it went; a ticket of an earlier state changes nothing. A half-open breaker whose probes never come back
admits others after another `timeout_s`: nothing stays shut for ever because one call hangs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import TYPE_CHECKING

from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Callable

    Trip = Callable[["Counts"], bool]
    Changed = Callable[["State", "State"], None]


class State(StrEnum):
    """The text is the one metrics and logs use."""

    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


class Refusal(Enum):
    """Why a call is not admitted."""

    OPEN = "circuit breaker is open"
    BUSY = "too many requests"


@dataclass(slots=True)
class Counts:
    """What happened since the breaker last changed its state, or since `interval` began."""

    requests: int = 0
    successes: int = 0
    failures: int = 0
    successes_in_a_row: int = 0
    failures_in_a_row: int = 0


@record
class BreakerRules:
    """A policy of `spec.policies.circuitBreakers`. `interval_s` 0: the counts of a closed breaker are never cleared."""

    name: str
    trip: Trip
    max_requests: int = 1
    interval_s: float = 0.0
    timeout_s: float = 60.0


class Breaker:
    """One breaker. `changed` is told of every change of state."""

    __slots__ = ("_changed", "_counts", "_period", "_until", "rules", "state")

    def __init__(self, rules: BreakerRules, changed: Changed | None = None) -> None:
        self.rules = rules
        self.state = State.CLOSED
        self._counts = Counts()
        self._period = 0
        self._until = (
            0.0  # when the period ends by itself; 0: never. A closed breaker's first begins with its first call
        )
        self._changed = changed

    @property
    def counts(self) -> Counts:
        return self._counts

    def admit(self, now: float) -> int | Refusal:
        """Return a ticket for one call, or why there is none."""
        if self._until and now >= self._until:
            self._elapsed(now)
        counts = self._counts
        if self.state is not State.CLOSED:
            if self.state is State.OPEN:
                return Refusal.OPEN
            if counts.requests >= self.rules.max_requests:
                return Refusal.BUSY
        elif not self._until and self.rules.interval_s:
            self._until = now + self.rules.interval_s
        counts.requests += 1
        return self._period

    def succeeded(self, ticket: int, now: float) -> None:
        """The call went well, or its failure was not the target's."""
        if self._until and now >= self._until:
            self._elapsed(now)
        if ticket != self._period:
            return
        counts = self._counts
        counts.successes += 1
        counts.successes_in_a_row += 1
        counts.failures_in_a_row = 0
        if self.state is State.HALF_OPEN and counts.successes_in_a_row >= self.rules.max_requests:
            self._enter(State.CLOSED, now)

    def failed(self, ticket: int, now: float) -> None:
        """The target failed."""
        if self._until and now >= self._until:
            self._elapsed(now)
        if ticket != self._period:
            return
        counts = self._counts
        counts.failures += 1
        counts.failures_in_a_row += 1
        counts.successes_in_a_row = 0
        if self.state is State.HALF_OPEN or self.rules.trip(counts):
            self._enter(State.OPEN, now)

    def abandoned(self, ticket: int) -> None:
        """The caller went away before the call was over: it is as if it had not been made."""
        if ticket == self._period:
            self._counts.requests -= 1

    def _elapsed(self, now: float) -> None:
        match self.state:
            case State.CLOSED:
                self._renew(now + self.rules.interval_s)
            case State.OPEN:
                self._enter(State.HALF_OPEN, now)
            case State.HALF_OPEN:
                self._renew(now + self.rules.timeout_s)

    def _enter(self, state: State, now: float) -> None:
        before, self.state = self.state, state
        wait_s = self.rules.interval_s if state is State.CLOSED else self.rules.timeout_s
        self._renew(now + wait_s if wait_s else 0.0)
        if self._changed is not None:
            self._changed(before, state)

    def _renew(self, until: float) -> None:
        self._period += 1
        self._counts = Counts()
        self._until = until

    def __repr__(self) -> str:
        return f"<Breaker {self.rules.name} {self.state}, {self._counts}>"
