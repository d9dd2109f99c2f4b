"""The driver of policies: what it awaits, cancels, counts and costs. The decisions are in the transcripts."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from pillion.clock import FakeClock
from pillion.errors import ComponentError, EtagMismatch, NotSupported
from pillion.kinds.invocation import Reply, Unsuccessful
from pillion.kinds.topics import Unprocessed, Verdict
from pillion.net.exchange import BodyTooLarge, RpcError
from pillion.resiliency.breaker import Breaker, BreakerRules, State
from pillion.resiliency.deadlines import Deadlines
from pillion.resiliency.failures import BreakerOpen, Failure, TimedOut, TooManyRequests, judge, judge_publish
from pillion.resiliency.faults import Faults, of_app, of_component, of_delivery
from pillion.resiliency.guarded import guarded
from pillion.resiliency.injections import Chances
from pillion.resiliency.machine import Retry
from pillion.resiliency.run import Policy
from pillion.resiliency.trip import compile_trip

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

QUICK = Retry("quick", limit=2, wait_s=0.0)


def fuse(timeout_s: float = 10.0, failures: int = 1) -> Breaker:
    return Breaker(BreakerRules("fuse", compile_trip(f"consecutiveFailures >= {failures}"), timeout_s=timeout_s))


def failing(times: int, error: Exception) -> Callable[[], Awaitable[str]]:
    """An operation that fails so often, then returns how often it was called."""
    calls = 0

    async def operation() -> str:
        nonlocal calls
        calls += 1
        if calls <= times:
            raise error
        return f"call {calls}"

    return operation


class CountingMeter:
    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []

    def used(self, policy: str, flow: str, target: str, state: State | None) -> None:
        self.seen.append(("used", policy, str(state)))

    def activated(self, policy: str, flow: str, target: str, state: State | None) -> None:
        self.seen.append(("activated", policy, str(state)))

    def changed(self, flow: str, target: str, state: State) -> None:
        self.seen.append(("changed", flow, str(state)))


def test_retries_and_what_must_not_be_repeated() -> None:
    """As many attempts as the policy says, the last error; with `replayable` False one."""

    async def main() -> None:
        policy = Policy("t", retry=QUICK)
        assert await policy(failing(2, ComponentError("no"))) == "call 3"
        with pytest.raises(ComponentError, match="no"):
            await policy(failing(3, ComponentError("no")))
        operation = failing(1, ComponentError("no"))
        with pytest.raises(ComponentError, match="no"):
            await policy(operation, replayable=False)
        assert await operation() == "call 2"

    asyncio.run(main())


def test_a_timeout_cancels_the_attempt_and_is_repeated() -> None:
    """The operation is cancelled, not left behind; each attempt has the whole time."""
    cancelled = 0

    async def main() -> None:
        nonlocal cancelled

        async def hang() -> None:
            nonlocal cancelled
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled += 1
                raise

        policy = Policy("t", deadlines=Deadlines(0.01), retry=QUICK)
        with pytest.raises(TimedOut, match="context deadline exceeded"):
            await policy(hang)
        assert cancelled == 3
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0

    asyncio.run(main())


def test_deadlines_of_many_share_one_timer() -> None:
    """Those that are over in time are left alone, whatever order they end in; a nested one is its own."""

    async def main() -> None:
        deadlines = Deadlines(1.0)
        policy, outer = Policy("t", deadlines=deadlines), Policy("o", deadlines=Deadlines(60.0))
        gate = asyncio.Event()

        async def waits() -> str:
            await gate.wait()
            return "through"

        async def at_once() -> str:
            return "at once"

        slow = [asyncio.create_task(outer(lambda: policy(waits))) for _ in range(3)]
        for _ in range(100):
            assert await outer(lambda: policy(at_once)) == "at once"
        done = await asyncio.gather(*slow, return_exceptions=True)
        assert [type(one) for one in done] == [TimedOut] * 3
        quick = asyncio.create_task(policy(waits))
        await asyncio.sleep(0)
        gate.set()
        assert await quick == "through"
        assert "0 running" in repr(deadlines)

    asyncio.run(main())


def test_a_caller_that_goes_away_is_no_failure() -> None:
    """Cancellation passes through, is not repeated, and gives a half-open breaker its place back."""

    async def main() -> None:
        clock, breaker = FakeClock(), fuse()
        policy = Policy("t", deadlines=Deadlines(60.0), retry=QUICK, breaker=breaker, clock=clock)
        with pytest.raises(BreakerOpen):
            await policy(failing(9, ComponentError("no")))
        clock.advance(10)
        started, calls = asyncio.Event(), 0

        async def hang() -> None:
            nonlocal calls
            calls += 1
            started.set()
            await asyncio.Event().wait()

        probe = asyncio.create_task(policy(hang))
        await started.wait()
        with pytest.raises(TooManyRequests) as refused:
            await policy(failing(0, ComponentError("")))
        assert not refused.value.attempted
        probe.cancel()
        with pytest.raises(asyncio.CancelledError):
            await probe
        assert calls == 1
        assert breaker.state is State.HALF_OPEN
        assert await policy(failing(0, ComponentError(""))) == "call 1"
        assert breaker.state is State.CLOSED  # type: ignore[comparison-overlap]

    asyncio.run(main())


def test_a_breaker_ends_retries() -> None:
    """It opens between two attempts: the refusal is what the caller gets, and that there was an attempt."""

    async def main() -> None:
        policy = Policy("t", retry=QUICK, breaker=fuse(failures=2))
        with pytest.raises(BreakerOpen) as refused:
            await policy(failing(9, ComponentError("no")))
        assert refused.value.attempted

    asyncio.run(main())


def test_what_is_counted() -> None:
    """Each policy of a call once; a timeout each time; the first retry of a call."""

    async def main() -> None:
        meter = CountingMeter()
        policy = Policy("t", deadlines=Deadlines(0.01), retry=QUICK, breaker=fuse(failures=9), meter=meter)
        with pytest.raises(TimedOut):
            await policy(asyncio.Event().wait)
        used = [("used", "timeout", "None"), ("used", "retry", "None"), ("used", "circuitbreaker", "closed")]
        cut, again = ("activated", "timeout", "None"), ("activated", "retry", "None")
        assert meter.seen == [*used, cut, again, cut, cut]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("error", "failure"),
    [
        (ComponentError("x"), Failure()),
        (TimedOut(), Failure()),
        (EtagMismatch(), Failure(final=True, blameless=True)),
        (BodyTooLarge(), Failure(final=True, blameless=True)),
        (Unsuccessful(Reply(503, [])), Failure(503)),
        (RpcError(14, "x"), Failure(14)),
        (Unprocessed("x", http_status=500), Failure(500)),
        (Unprocessed("x", grpc_code=2), Failure(2)),
        (Unprocessed("RETRY", http_status=200), Failure()),
        (Unprocessed("no connection"), Failure()),
        (Unprocessed("unwell", held=True), Failure(final=True, blameless=True)),
    ],
    ids=repr,
)
def test_what_a_failure_means(error: Exception, failure: Failure) -> None:
    """Only what carries a status is matched with lists; RETRY is always repeated (spec `runtime.md` 4.1)."""
    assert judge(error) == failure


def test_what_a_failed_publish_means() -> None:
    """A broker's failure is UNAVAILABLE, a request it can never take FAILED_PRECONDITION (spec `components.md` 1)."""
    assert judge_publish(ComponentError("x")) == Failure(14)
    assert judge_publish(NotSupported("x")) == Failure(9, final=True, blameless=True)
    assert judge_publish(TimedOut()) == Failure()


def test_a_guarded_component_is_still_itself() -> None:
    """Its methods run under the policy; everything else, and what `runtime_checkable` looks for, is the component's."""

    class Store:
        features = frozenset({"ETAG"})
        label = "mine"

        def __init__(self) -> None:
            self.calls = 0

        async def get(self, key: str, *, strong: bool = False) -> str:
            self.calls += 1
            if self.calls == 1:
                raise ComponentError("not yet")
            return f"{key} {strong}"

    async def main() -> None:
        store = Store()
        behind = guarded(store, Policy("t", retry=QUICK), ("get", "query"))
        assert await behind.get("k", strong=True) == "k True"
        assert (behind.features, behind.label, store.calls) == (store.features, "mine", 2)
        assert not hasattr(behind, "query")

    asyncio.run(main())


def test_a_seed_repeats_the_same_faults() -> None:
    """Chances are drawn for each target by itself."""

    async def main() -> None:
        def run(seed: int, label: str) -> Awaitable[list[bool]]:
            faults = Faults(label, Chances(error=30), seed, of_component)

            async def outcomes() -> list[bool]:
                found = []
                for _ in range(50):
                    try:
                        await faults(failing(0, ComponentError("")))
                    except ComponentError:
                        found.append(True)
                    else:
                        found.append(False)
                return found

            return outcomes()

        first = await run(1, "a")
        assert first == await run(1, "a")
        assert first != await run(2, "a")
        assert first != await run(1, "b")
        assert 3 < sum(first) < 30

    asyncio.run(main())


def test_faults_of_messages() -> None:
    """A drop is silent, a duplicate performs twice, latency is before all else."""

    async def main() -> None:
        calls: list[int] = []

        async def publish() -> Verdict:
            calls.append(1)
            return Verdict.DROP

        dropped: Any = Faults("d", Chances(drop=100), 1, of_delivery, messages=True, dropped=Verdict.DONE)
        assert await dropped(publish) is Verdict.DONE
        assert calls == []
        twice: Any = Faults("d", Chances(duplicate=100, latency=100, latency_s=0.001), 1, of_delivery, messages=True)
        assert await twice(publish) is Verdict.DROP
        assert len(calls) == 2

    asyncio.run(main())


def test_errors_that_are_made_up() -> None:
    """An invocation gets an answer where there is a status; a delivery what an application would have said."""
    answered = of_app(Chances(error=1, code=503, message="gone"))
    assert isinstance(answered, Unsuccessful)
    assert (answered.reply.code, answered.reply.body) == (503, b"gone")
    status = of_app(Chances(error=1, code=14, message="gone"))
    assert isinstance(status, Unsuccessful)
    assert (status.reply.code, status.reply.message) == (14, "gone")
    assert judge(of_app(Chances(error=1))) == Failure()
    assert judge(of_component(Chances(error=1, code=8))) == Failure(8)
    assert judge(of_delivery(Chances(error=1, code=500))) == Failure(500)
    assert judge(of_delivery(Chances(error=1, code=13))) == Failure(13)
    assert judge(of_delivery(Chances(error=1))) == Failure()
