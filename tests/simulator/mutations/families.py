"""Mistakes about whose word counts: children, ids that are used again, other applications."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pillion.wire.messages import taskhub as m
from pillion.workflow import activities, duties, elsewhere, faults
from pillion.workflow.calls import Calls
from pillion.workflow.instance import Instance
from pillion.workflow.snapshot import Status
from simulator.mutations.mutation import Mutation

if TYPE_CHECKING:
    from simulator.mutations.mutation import Patch


def answers_of_former_generations_count(patch: Patch) -> None:
    patch.setattr(Instance, "is_for", lambda self, mail: True)


def grandchildren_elsewhere_are_not_asked_for(patch: Patch) -> None:
    async def all_over(engine: Any, instance_id: str) -> bool:
        runner = await engine.find(instance_id)
        return runner is None or bool(runner.instance.status.terminal)

    patch.setattr(duties, "all_over", all_over)


def whoever_has_the_name_is_the_child(patch: Patch) -> None:
    async def anybody(self: Calls, call: Any) -> None:
        return None

    patch.setattr(Calls, "check_parent", anybody)


def the_next_owner_begins_no_children(patch: Patch) -> None:
    real = duties.finish

    async def finish(engine: Any, runner: Any, last_tasks: Any) -> bool:
        if last_tasks is None and runner.instance.status is not Status.TERMINATED:
            runner.instance.facts.children = {}
        return await real(engine, runner, last_tasks)

    patch.setattr(duties, "finish", finish)


def only_the_own_history_is_handed_down(patch: Patch) -> None:
    for module in (duties, activities, elsewhere):
        real = module.propagate

        def propagate(instance: Any, scope: int, app_id: str, real: Any = real) -> bytes | None:
            made: bytes | None = real(instance, scope and m.HISTORY_PROPAGATION_SCOPE_OWN_HISTORY, app_id)
            return made

        patch.setattr(module, "propagate", propagate)


def what_another_host_refused_is_not_understood(patch: Patch) -> None:
    patch.setattr(faults, "_BY_FORM", ())


MUTATIONS = (
    Mutation("answers of former generations count", "spanning", 1, answers_of_former_generations_count),
    Mutation("grandchildren elsewhere are not asked for", "spanning", 0, grandchildren_elsewhere_are_not_asked_for),
    Mutation("whoever has the name is the child", "spanning", 36, whoever_has_the_name_is_the_child),
    Mutation("the next owner begins no children", "spanning", 27, the_next_owner_begins_no_children),
    Mutation("only the own history is handed down", "spanning", 0, only_the_own_history_is_handed_down),
    Mutation("another host's refusal is a failure", "spanning", 1, what_another_host_refused_is_not_understood),
)  # fmt: skip
