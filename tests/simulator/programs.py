"""Workflows that the simulated cluster runs, and what each must come to.

A program is the code of a workflow; `expected` says its result from its input, so that whatever happens to the cluster
there is one right answer. Activities count how often they ran.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from pillion.testing.workflow_worker import TIMED_OUT, ActivityFailed, Executor

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Generator

    from pillion.testing.workflow_worker import Context

    Code = Generator[Any, Any, Any]


def chain(ctx: Context, count: int) -> Code:
    """One activity after the other."""
    total = 0
    for number in range(count):
        total = yield ctx.call_activity("add", [ctx.instance_id, number, total, 1])
    return total


def fan(ctx: Context, count: int) -> Code:
    """Activities beside each other."""
    parts = yield ctx.all(ctx.call_activity("add", [ctx.instance_id, number, number, 1]) for number in range(count))
    return sum(parts)


def naps(ctx: Context, count: int) -> Code:
    """Timers, some of them far away for a host's memory."""
    for number in range(count):
        yield ctx.sleep((0.0, 0.7, 4.0, 70.0)[number % 4])
    return count


def collect(ctx: Context, _: Any) -> Code:
    """Take what comes, until the end comes."""
    found = []
    while (one := (yield ctx.wait_for_event("go"))) != "end":
        found.append(one)
    return found


def collect_anew(ctx: Context, found: list[int]) -> Code:
    """Take one event in each generation; what came meanwhile goes on with the next. Timers are left behind."""
    while (one := (yield ctx.wait_for_event("go", timeout_s=9.0))) is TIMED_OUT:
        pass
    if one == "end":
        return found
    ctx.continue_as_new([*found, one])
    return None


def count_down(ctx: Context, state: list[int]) -> Code:
    """An activity and a timer in each generation."""
    left, total = state
    if left == 0:
        return total
    total = yield ctx.call_activity("add", [ctx.instance_id, f"g{left}", total, left])
    yield ctx.sleep(0.2)
    ctx.continue_as_new([left - 1, total])
    return None


def parent(ctx: Context, count: int) -> Code:
    """Children, and what they say."""
    parts = yield ctx.all(ctx.call_child("chain", number + 1) for number in range(count))
    return sum(parts)


def stubborn(ctx: Context, failures: int) -> Code:
    """An activity that fails some times, tried again after a pause."""
    for attempt in range(failures + 1):
        try:
            return (yield ctx.call_activity("fail", [ctx.instance_id, attempt, failures]))
        except ActivityFailed:
            yield ctx.sleep(0.3)
    return None


def race(ctx: Context, _: Any) -> Code:
    """An event that never comes, against its time."""
    answer = yield ctx.wait_for_event("never", timeout_s=2.0)
    return "late" if answer is TIMED_OUT else answer


def forever(ctx: Context, depth: int) -> Code:
    """Never ends by itself, nor do its children."""
    if depth:
        yield ctx.call_child("forever", depth - 1, instance_id=f"{ctx.instance_id}-{depth}")
    yield ctx.wait_for_event("never")
    return "ended"


PROGRAMS: dict[str, Callable[[Context, Any], Any]] = {
    one.__name__: one
    for one in (chain, fan, naps, collect, collect_anew, count_down, parent, stubborn, race, forever)
}  # fmt: skip
INPUTS: dict[str, tuple[Any, ...]] = {
    "chain": (1, 3, 6),
    "fan": (2, 7),
    "naps": (1, 3, 4),
    "collect": (None,),
    "collect_anew": ([],),
    "count_down": ([3, 0], [5, 0]),
    "parent": (1, 3),
    "stubborn": (0, 2),
    "race": (None,),
    "forever": (0, 2),
}
"""The inputs of each, to choose from."""


def expected(name: str, given: Any) -> Any:
    """The result of a program that depends on its input alone."""
    match name:
        case "chain" | "naps":
            return given
        case "fan":
            return sum(number + 1 for number in range(given))
        case "count_down":
            return given[0] * (given[0] + 1) // 2
        case "parent":
            return given * (given + 1) // 2
        case "stubborn":
            return "done"
        case "race":
            return "late"
    raise LookupError(name)


def steps(name: str, given: Any) -> int:
    """How many different activities a run of it needs at least."""
    match name:
        case "chain" | "fan":
            return int(given)
        case "count_down":
            return int(given[0])
        case "stubborn":
            return int(given) + 1
    return 0


class Activities:
    """The activities of all workers, and how often each has run to its end, by instance and step."""

    def __init__(self) -> None:
        self.ran: dict[str, Counter[Any]] = {}

    def executor(self, random: random.Random, *, stateful: bool) -> Executor:
        """The code as one worker has it; its activities take a while of its own."""

        async def add(given: list[Any]) -> int:
            instance_id, step, one, other = given
            await asyncio.sleep(random.choice((0.0, 0.01, 0.4)))
            self.ran.setdefault(instance_id, Counter())[step] += 1
            return int(one + other)

        async def fail(given: list[Any]) -> str:
            instance_id, attempt, failures = given
            await asyncio.sleep(random.choice((0.0, 0.01)))
            self.ran.setdefault(instance_id, Counter())[attempt] += 1
            if attempt < failures:
                raise ValueError("not yet")
            return "done"

        return Executor(PROGRAMS, {"add": add, "fail": fail}, stateful=stateful)
