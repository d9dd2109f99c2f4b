"""Mistakes about limits: what runs at once, and how long what has ended is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pillion.workflow import actor, duties, surroundings
from pillion.workflow.workers import Workers
from simulator.mutations.mutation import Mutation

if TYPE_CHECKING:
    from simulator.mutations.mutation import Patch


def what_was_withdrawn_leaves_its_place(patch: Patch) -> None:
    def withdraw(self: Workers, item: Any) -> None:
        if not item.gone:
            item.gone = True
            self._release(item)
            self._leave(item)

    patch.setattr(Workers, "withdraw", withdraw)


def a_lost_worker_keeps_its_place(patch: Patch) -> None:
    real = Workers.lost

    def lost(self: Workers, stream: Any, *, left: bool = False) -> None:
        for item in stream.items.values():
            item.gates = []
        real(self, stream, left=left)

    patch.setattr(Workers, "lost", lost)


def limits_are_not_shared(patch: Patch) -> None:
    patch.setattr(Workers, "divide", lambda self, turns, activities: None)


def retention_is_short(patch: Patch) -> None:
    real = surroundings.moment
    patch.setattr(duties, "moment", lambda seconds: real(seconds - 4.0))


def retention_is_of_whoever_has_the_id(patch: Patch) -> None:
    patch.setattr(actor, "ended_of", lambda call: None)


def the_next_owner_does_not_retain(patch: Patch) -> None:
    real, retain, ended_here = duties.finish, duties._retain, set[int]()

    async def finish(engine: Any, runner: Any, last_tasks: Any) -> bool:
        if last_tasks is not None:
            ended_here.add(id(runner.instance))
        return await real(engine, runner, last_tasks)

    async def first_alone(engine: Any, instance: Any) -> None:
        if id(instance) in ended_here:
            await retain(engine, instance)

    patch.setattr(duties, "finish", finish)
    patch.setattr(duties, "_retain", first_alone)


MUTATIONS = (
    Mutation("what was withdrawn leaves its place at once", "limiting", 1, what_was_withdrawn_leaves_its_place),
    Mutation("a lost worker keeps its place", "limiting", 19, a_lost_worker_keeps_its_place),
    Mutation("limits are not shared", "limiting", 0, limits_are_not_shared),
    Mutation("retention is short", "limiting", 0, retention_is_short),
    Mutation("retention is of whoever has the id", "limiting", 8, retention_is_of_whoever_has_the_id),
    Mutation("the next owner does not retain", "limiting", 1, the_next_owner_does_not_retain),
)  # fmt: skip
