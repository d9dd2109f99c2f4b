"""Workflows that have to be mended, or are run again: what the workers of the story `mending` do.

`Patients` makes workers that die of a poison, and counts how often. Knows: what must come of each program. Never knows:
hosts, faults.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from pillion.testing.workflow_worker import TIMED_OUT, Executor

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Generator

    from pillion.testing.workflow_worker import Context
    from pillion.wire.messages import taskhub as m

    Code = Generator[Any, Any, Any]

LEAP = 100
"""What an input is overwritten with adds so much to a sum."""


class Dies(BaseException):
    """The worker's process ends in the middle of its work."""


def sums(ctx: Context, count: int) -> Code:
    """One activity after the other, with pauses."""
    total = 0
    for number in range(count):
        total = yield ctx.call_activity("add", [ctx.instance_id, number, total])
        if number % 2:
            yield ctx.sleep(0.2)
    return total


def branches(ctx: Context, count: int) -> Code:
    """Activities, timers and children beside each other, and an event that never comes."""
    late = ctx.wait_for_event("never", timeout_s=0.5)
    parts = [ctx.call_activity("add", [ctx.instance_id, number, number]) for number in range(count)]
    parts += [ctx.call_child("sums", number + 1) for number in range(count)]
    found = yield ctx.all(parts)
    return sum(found) if (yield late) is TIMED_OUT else None


def hoards(ctx: Context, given: list[int]) -> Code:
    """Answers that fill its history, and an event meanwhile."""
    count, size = given
    told = ctx.wait_for_event("told")
    held = 0
    for number in range(count):
        held += len((yield ctx.call_activity("make", [ctx.instance_id, number, size])))
    return [held, (yield told)]


def swallows(ctx: Context, _: Any) -> Code:
    """An activity that takes its workers down, beside one that does not."""
    poison = ctx.call_activity("poison", [ctx.instance_id, "poison", 0])
    well = yield ctx.call_activity("add", [ctx.instance_id, "well", 1])
    return [well, (yield poison)]


def dooms(ctx: Context, _: Any) -> Code:
    """A turn that takes its workers down."""
    return (yield ctx.call_activity("add", [ctx.instance_id, 0, 0]))


PROGRAMS: dict[str, Callable[[Context, Any], Any]] = {
    one.__name__: one for one in (sums, branches, hoards, swallows, dooms)
}
INPUTS: dict[str, tuple[Any, ...]] = {
    "sums": (1, 4),
    "branches": (1, 2),
    "hoards": ([4, 300], [6, 1500], [3, 4000]),
    "swallows": (None,),
    "dooms": (None,),
}
"""The inputs of each, to choose from."""


def expected(name: str, given: Any) -> Any:
    match name:
        case "sums":
            return given
        case "branches":
            return given * (given + 1)
        case "hoards":
            return [given[0] * given[1], "yes"]
        case "dooms":
            return 1
    raise LookupError(name)


class Patients:
    """The code of all workers. What is poisonous kills until it is `cured`."""

    def __init__(self) -> None:
        self.deaths: Counter[str] = Counter()
        """How many workers died of an instance."""
        self.cured: set[str] = set()
        self.dying: Callable[[Executor], None] = lambda _: None
        """Called in a worker that dies of an activity."""

    def executor(self, random: random.Random, *, stateful: bool) -> Executor:
        return _Mortal(self, random, stateful=stateful)

    def kills(self, instance_id: str) -> bool:
        if instance_id in self.cured:
            return False
        self.deaths[instance_id] += 1
        return True


class _Mortal(Executor):
    """The code as one worker has it."""

    def __init__(self, patients: Patients, random: random.Random, *, stateful: bool) -> None:
        super().__init__(PROGRAMS, {"add": self._add, "make": self._make, "poison": self._poison}, stateful=stateful)
        self._patients, self._random = patients, random

    def turn(self, request: m.WorkflowRequest, token: str) -> m.WorkflowResponse:
        if request.instanceId.startswith("dooms") and self._patients.kills(request.instanceId):
            raise Dies
        return super().turn(request, token)

    async def _add(self, given: list[Any]) -> int:
        await asyncio.sleep(self._random.choice((0.0, 0.01, 0.4)))
        return int(given[2]) + 1

    async def _make(self, given: list[Any]) -> str:
        await asyncio.sleep(self._random.choice((0.0, 0.01, 0.2)))
        return "x" * int(given[2])

    async def _poison(self, given: list[Any]) -> str:
        await asyncio.sleep(self._random.choice((0.0, 0.05)))
        if self._patients.kills(given[0]):
            self._patients.dying(self)
            await asyncio.get_running_loop().create_future()
        return "well"
