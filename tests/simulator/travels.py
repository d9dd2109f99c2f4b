"""Workflows that span applications: what the simulated applications `app` and `shop` do for each other.

A program is the code of a workflow, the same in both; `expected` says its result from its input. Knows: what must come
of each. Never knows: hosts, faults.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any

from pillion.testing.workflow_worker import ActivityFailed, Executor
from pillion.wire.messages import taskhub as m

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Generator

    from pillion.testing.workflow_worker import Context

    Code = Generator[Any, Any, Any]

APPS = ("app", "shop")
KEEPER = "keeper"
"""An instance in each application that lives from the beginning to the end."""
LINEAGE, OWN = m.HISTORY_PROPAGATION_SCOPE_LINEAGE, m.HISTORY_PROPAGATION_SCOPE_OWN_HISTORY


def other(app: str) -> str:
    return APPS[1 - APPS.index(app)]


def errand(ctx: Context, given: list[Any]) -> Code:
    """Activities here and there by turns, the last ones beside each other."""
    app, count = given
    total = 0
    for number in range(count):
        there = app if number % 2 else other(app)
        total = yield ctx.call_activity("add", [ctx.instance_id, number, there, total], app_id=there)
    parts = yield ctx.all(
        ctx.call_activity("add", [ctx.instance_id, f"last {one}", one, 0], app_id=one) for one in APPS
    )
    return total + sum(parts)


def family(ctx: Context, given: list[Any]) -> Code:
    """Children in the other application, and theirs in ours again."""
    app, depth, width = given
    there = other(app)
    parts = [
        ctx.call_child("family", [there, depth - 1, width], app_id=there) for _ in range(width if depth else 0)
    ]  # fmt: skip
    one = yield ctx.call_activity("add", [ctx.instance_id, 0, there, 0], app_id=there)
    return one + sum((yield ctx.all(parts)))


def heirs(ctx: Context, given: list[Any]) -> Code:
    """Histories handed down to children and activities, also by one that began anew in between."""
    app, depth, scope, anew = given
    there = other(app)
    if anew:
        yield ctx.sleep(0.1)
        ctx.continue_as_new([app, depth, scope, False])
        return None
    yield ctx.call_activity("read", [ctx.instance_id, depth, there, 0], app_id=there, scope=scope)
    if depth:
        yield ctx.call_child(
            "heirs", [there, depth - 1, scope, depth % 2 == 0], instance_id=f"{ctx.instance_id}.{depth}",
            app_id=there, scope=scope,
        )  # fmt: skip
    return depth


def renew(ctx: Context, given: list[Any]) -> Code:
    """A child in each generation, which may be left behind; what it says is for its own generation alone."""
    app, left, got, named = given
    there = other(app)
    child = ctx.call_child(
        "late", [app, left], app_id=there, instance_id=f"{ctx.instance_id}.{left}" if named else ""
    )  # fmt: skip
    timer = ctx.sleep(1.0)
    if (yield ctx.first([child, timer])) is child and child.error is None:
        got = [*got, [left, child.result]]  # it fails where the child of a former generation still has the name
    if left:
        ctx.continue_as_new([app, left - 1, got, named])
        return None
    return got


def late(ctx: Context, given: list[Any]) -> Code:
    """Says its number after a while."""
    app, number = given
    yield ctx.call_activity("dawdle", [ctx.instance_id, number, other(app), number])
    return number


def legacy(ctx: Context, given: list[Any]) -> Code:
    """Ends while what it started goes on. An id of the kind may be used again when that has ended, too."""
    app, number, named, depth = given
    there = other(app)
    ctx.call_child(
        "legacy" if depth else "late", [there, number, named, depth - 1] if depth else [app, number], app_id=there,
        instance_id=f"{ctx.instance_id}.{number}" if named else "",
    )  # fmt: skip
    if number % 2:
        yield ctx.call_activity("add", [ctx.instance_id, f"n{number}", there, 0], app_id=there)
    return number


def squat(ctx: Context, given: list[Any]) -> Code:
    """A child by a name that somebody has."""
    app = other(given[0])
    try:
        yield ctx.call_child("late", [given[0], 0], app_id=app, instance_id=f"{KEEPER}-{app}")
    except ActivityFailed as error:
        if error.details.errorType == "WorkflowInstanceAlreadyExists":
            return "taken"
        raise
    return "was free"


def forever(ctx: Context, given: list[Any]) -> Code:
    """Never ends by itself, nor do its children."""
    app, depth = given
    there = other(app)
    parts = [
        ctx.call_child("forever", [there, depth - 1], app_id=there, instance_id=f"{ctx.instance_id}.{number}")
        for number in range(2 if depth else 0)
    ]
    yield ctx.all([*parts, ctx.wait_for_event("never")])
    return "ended"


def keep(ctx: Context, _: Any) -> Code:
    return (yield ctx.wait_for_event("end"))


PROGRAMS: dict[str, Callable[[Context, Any], Any]] = {
    one.__name__: one for one in (errand, family, heirs, renew, late, legacy, squat, forever, keep)
}


def inputs(name: str, app: str, random: random.Random) -> list[Any]:
    """An input of a program that begins in `app`."""
    match name:
        case "errand":
            return [app, random.choice((1, 4))]
        case "family":
            return [app, random.choice((1, 2)), 2]
        case "heirs":
            return [app, random.choice((1, 3)), random.choice((LINEAGE, OWN)), random.random() < 0.5]
        case "renew":
            return [app, random.choice((2, 4)), [], random.random() < 0.5]
        case "legacy":
            return [app, 1, random.random() < 0.5, random.choice((0, 1))]
        case "forever":
            return [app, random.choice((1, 2))]
    return [app]


def expected(name: str, given: list[Any]) -> Any:
    """The result of a program that depends on its input alone."""
    match name:
        case "errand":
            return given[1] + len(APPS)
        case "family":
            return sum(given[2] ** level for level in range(given[1] + 1))
        case "heirs":
            return given[1]
        case "squat":
            return "taken"
        case "keep":
            return "kept"
    raise LookupError(name)


class Travels:
    """The activities of all workers of both applications. `wrong` hears of what must not be."""

    def __init__(self, wrong: Callable[[str], None]) -> None:
        self.wrong = wrong
        self.ran: dict[str, Counter[Any]] = {}
        self.carried: Callable[[str, bool, m.PropagatedHistory | None], None] = lambda *_: None
        """Told of the histories that came with a turn of an heir, or with one of its activities: whose, which, what."""

    def executor(self, random: random.Random, app: str, *, stateful: bool) -> Executor:
        """The code as one worker of `app` has it."""

        async def run(given: list[Any], pauses: tuple[float, ...]) -> None:
            instance_id, step, there, _ = given
            await asyncio.sleep(random.choice(pauses))
            if there != app:
                self.wrong(f"{instance_id}: {step} was to run in {there}, and ran in {app}")
            self.ran.setdefault(instance_id, Counter())[step] += 1

        async def add(given: list[Any]) -> int:
            await run(given, (0.0, 0.01, 0.4))
            return int(given[3]) + 1

        async def dawdle(given: list[Any]) -> int:
            await run(given, (0.1, 1.0, 2.5))
            return int(given[3])

        return _Reader(self, PROGRAMS, {"add": add, "read": add, "dawdle": dawdle}, stateful=stateful)


class _Reader(Executor):
    """Looks at the histories that come with work."""

    def __init__(self, travels: Travels, *code: Any, stateful: bool) -> None:
        super().__init__(*code, stateful=stateful)
        self._travels = travels

    def turn(self, request: m.WorkflowRequest, token: str) -> m.WorkflowResponse:
        if request.instanceId.startswith("heirs"):
            carried = request.propagatedHistory if request.HasField("propagatedHistory") else None
            self._travels.carried(request.instanceId, False, carried)
        return super().turn(request, token)

    async def activity(self, request: m.ActivityRequest, token: str) -> m.ActivityResponse:
        if request.name == "read":
            carried = request.propagatedHistory if request.HasField("propagatedHistory") else None
            self._travels.carried(request.workflowInstance.instanceId, True, carried)
        return await super().activity(request, token)
