"""Mistakes in the workflow engine."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pillion.workflow import duties, runner, turn
from pillion.workflow.alarms import Alarms
from pillion.workflow.engine import Engine
from pillion.workflow.rows import Rows
from pillion.workflow.runner import Runner
from simulator.mutations.mutation import Mutation

if TYPE_CHECKING:
    from simulator.mutations.mutation import Patch


def results_are_taken_twice(patch: Patch) -> None:
    patch.setattr(turn, "_RESOLVES", {})
    patch.setattr(turn, "_TOLD", frozenset({*turn._TOLD, *runner._RESULTS}))


def save_over_another_host(patch: Patch) -> None:
    real = Rows._operations

    def operations(self: Rows, instance: Any, step: Any) -> Any:
        prepared = real(self, instance, step)
        head = prepared.operations[-1]
        head.etag, head.concurrency = None, ""
        return prepared

    patch.setattr(Rows, "_operations", operations)


def no_job_wakes(patch: Patch) -> None:
    async def put_wake(self: Engine, instance_id: str, due: float, count: int) -> None:
        return None

    patch.setattr(Engine, "put_wake", put_wake)


def the_job_stays(patch: Patch) -> None:
    async def nothing(call: Any, wanted: Any = None) -> None:
        return None

    patch.setattr(duties, "_until_done", nothing)
    patch.setattr(Engine, "woken", lambda self, instance_id, payload: _nothing())


async def _nothing() -> None:
    return None


def activities_are_not_dispatched_again(patch: Patch) -> None:
    real = Engine.resume

    async def resume(self: Engine, found: Runner) -> None:
        tasks, found.instance.facts.tasks = found.instance.facts.tasks, {}
        try:
            await real(self, found)
        finally:
            found.instance.facts.tasks = tasks

    patch.setattr(Engine, "resume", resume)


def timers_of_an_old_generation_fire(patch: Patch) -> None:
    real = Alarms.fire

    def fire(self: Alarms, found: Runner, generation: int, timer_id: int, fire_ns: int) -> None:
        now = found.instance.facts.timers.get(timer_id)
        real(self, found, found.instance.generation, timer_id, fire_ns if now is None else now.fire_ns)

    patch.setattr(Alarms, "fire", fire)


def timers_of_an_earlier_use_of_an_id_fire(patch: Patch) -> None:
    real = Alarms.fire

    def fire(self: Alarms, found: Runner, generation: int, timer_id: int, fire_ns: int) -> None:
        now = found.instance.facts.timers.get(timer_id)
        real(self, found, generation, timer_id, fire_ns if now is None else now.fire_ns)

    patch.setattr(Alarms, "fire", fire)


def events_are_acknowledged_before_they_are_written(patch: Patch) -> None:
    real = Runner._flush

    async def flush(self: Runner) -> None:
        for _, done in self.incoming:
            if not done.done():
                done.set_result(None)
        await asyncio.sleep(0.5)
        await real(self)

    patch.setattr(Runner, "_flush", flush)


def a_child_that_is_not_there_is_not_terminated(patch: Patch) -> None:
    async def terminate(engine: Engine, found: Runner, created: Any, word: Any) -> None:
        body = created.childWorkflowInstanceCreated
        await duties._tell(engine, engine.workflow_type, body.instanceId, word)

    patch.setattr(duties, "_terminate_child", terminate)


MUTATIONS = (
    Mutation("results are taken twice", "working", 13, results_are_taken_twice),
    Mutation("a save goes over another host's", "working", 56, save_over_another_host),
    Mutation("no job wakes an instance", "working", 0, no_job_wakes),
    Mutation("the job of a finished instance stays", "working", 1, the_job_stays),
    Mutation("activities are not dispatched again", "working", 9, activities_are_not_dispatched_again),
    Mutation("timers of an old generation fire", "working", 0, timers_of_an_old_generation_fire),
    Mutation("timers of an earlier use of an id fire", "limiting", 218, timers_of_an_earlier_use_of_an_id_fire),
    Mutation("events are acknowledged too early", "working", 16, events_are_acknowledged_before_they_are_written),
    Mutation("a child is told before it is there", "working", 37, a_child_that_is_not_there_is_not_terminated),
)  # fmt: skip
