"""The driver of policies: performs attempts, waits between them, cuts them short (spec `runtime.md` 4.2).

One `Policy` surrounds all calls of one target; it is composed when the target is first known. Decisions are the
machine's (`machine.py`), time and sleep are here. A policy whose call succeeds at once costs about 2 us.
"""

from __future__ import annotations

import asyncio
import logging
import random as system_random
from typing import TYPE_CHECKING, Protocol, TypeVar

from pillion.clock import SystemClock
from pillion.resiliency.breaker import Refusal
from pillion.resiliency.failures import BreakerOpen, TimedOut, TooManyRequests, judge
from pillion.resiliency.machine import Attempts, Step, Wait

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.clock import Clock
    from pillion.resiliency.breaker import Breaker, State
    from pillion.resiliency.deadlines import Deadlines
    from pillion.resiliency.failures import Judge
    from pillion.resiliency.faults import Faults
    from pillion.resiliency.machine import Random, Retry

T = TypeVar("T")
log = logging.getLogger("pillion.resiliency")


class Meter(Protocol):
    """What is counted of policies (spec `runtime.md` 6.1: `resiliency_count`, `…_activations_total`, `…_cb_state`).

    `policy` is "timeout", "retry" or "circuitbreaker"; `flow` is "inbound" or "outbound"; `target` is the metric's
    label: `app_<id>`, `actor_<type>`, `<Type>_<name>`. `state` is None for timeouts and retries. `used` is told of
    every call, `activated` of a timeout, of the first retry of a call, and of a breaker's change; `changed` of the
    latter too.
    """

    def used(self, policy: str, flow: str, target: str, state: State | None) -> None: ...

    def activated(self, policy: str, flow: str, target: str, state: State | None) -> None: ...

    def changed(self, flow: str, target: str, state: State) -> None: ...


class Policy:
    """Runs operations: `await policy(operation)`. Raises what the last attempt raised, `TimedOut` or `Refused`.

    `target` and `flow` are the labels of the meter, and name the target in the log. `faults` stands for fault
    injection, inside of everything else, so that retries, timeouts and breakers see what it makes up.
    """

    __slots__ = ("_faults", "_judge", "_meter", "_now", "_random", "breaker", "deadlines", "flow", "retry", "target")

    def __init__(
        self,
        target: str,
        flow: str = "outbound",
        *,
        deadlines: Deadlines | None = None,
        retry: Retry | None = None,
        breaker: Breaker | None = None,
        faults: Faults | None = None,
        judge: Judge = judge,
        random: Random = system_random.random,
        clock: Clock | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.target, self.flow = target, flow
        self.deadlines, self.retry, self.breaker = deadlines, retry, breaker
        self._faults = faults
        self._judge = judge
        self._random = random
        self._now = (clock or SystemClock()).monotonic
        self._meter = meter

    async def __call__(self, operation: Callable[[], Awaitable[T]], *, replayable: bool = True) -> T:
        """Run `operation`, again and again if need be; with `replayable` False once at most."""
        if self._meter is not None:
            self._count(self._meter)
        now, deadlines, faults = self._now, self.deadlines, self._faults
        attempts = Attempts(self.retry if replayable else None, self.breaker, self._random)
        step = attempts.start(now())
        error: Exception
        while step is Step.ATTEMPT:
            mark = None if deadlines is None else deadlines.begin()
            try:
                result = await (operation() if faults is None else faults(operation))
            except Exception as failed:
                if mark is not None:
                    mark.end()
                error = failed
            except BaseException as ended:
                if mark is None or not mark.end() or not isinstance(ended, asyncio.CancelledError):
                    attempts.abandoned()
                    raise
                error = self._timed_out(ended)
            else:
                if mark is not None:
                    mark.end()
                attempts.succeeded(now())
                return result
            step = attempts.failed(self._judge(error), now())
            if step is Step.GIVE_UP:
                raise error
            if isinstance(step, Wait):
                if not attempts.retries:
                    self._first_retry(error)
                await asyncio.sleep(step.seconds)
                step = attempts.waited(now())
        refused = BreakerOpen if step is Refusal.OPEN else TooManyRequests
        raise refused(attempted=attempts.retries > 0)

    def _count(self, meter: Meter) -> None:
        if self.deadlines is not None:
            meter.used("timeout", self.flow, self.target, None)
        if self.retry is not None:
            meter.used("retry", self.flow, self.target, None)
        if self.breaker is not None:
            meter.used("circuitbreaker", self.flow, self.target, self.breaker.state)

    def _timed_out(self, cancelled: BaseException) -> TimedOut:
        log.debug("%s: an attempt was cut short: %r", self.target, self.deadlines)
        if self._meter is not None:
            self._meter.activated("timeout", self.flow, self.target, None)
        error = TimedOut()
        error.__cause__ = cancelled
        return error

    def _first_retry(self, error: Exception) -> None:
        log.info("%s: trying again: %s", self.target, str(error) or type(error).__name__)
        if self._meter is not None:
            self._meter.activated("retry", self.flow, self.target, None)

    def __repr__(self) -> str:
        return f"<Policy of {self.target} {self.flow}: {self.deadlines}, {self.retry}, {self.breaker}, {self._faults}>"
