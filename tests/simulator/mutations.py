"""Plausible mistakes, each a small change of the real code: the simulator has to notice every one of them.

A row says what is done wrong, in which story that shows, and by which seed. The seeds were found by looking; where a
change of the stories moves them, `python -m simulator.mutations` looks again and prints what it finds.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from pillion.actors.host import ActorHost
from pillion.actors.membership import Drained, HaltAll, Membership
from pillion.actors.placement import Placement
from pillion.actors.state import ActorState
from pillion.actors.turns import Turns
from pillion.control import placement
from pillion.jobs import machine
from pillion.jobs.leases import Leases
from pillion.jobs.near import Near
from pillion.kinds.jobs import Outcome
from pillion.workflow import duties, runner, turn
from pillion.workflow.engine import Engine
from pillion.workflow.rows import Rows
from pillion.workflow.runner import Runner
from simulator.suite import STORIES, tell_seed

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.actors.fence import Fence
    from pillion.actors.residents import Residents

    Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutation:
    """`seed` is one that shows it, and need not be the first."""

    name: str
    story: str
    seed: int
    apply: Callable[[Patch], None]


def no_fence(patch: Patch) -> None:
    async def take_nothing(self: ActorState, store: Any, prefix: str, held: Fence) -> None:
        held.etag = "any"

    async def write(self: ActorState, store: Any, prefix: str, held: Fence, etag: str, keyed: Any) -> None:
        await store.transact(keyed, {})

    patch.setattr(ActorState, "_take", take_nothing)
    patch.setattr(ActorState, "_move", write)


def acknowledge_before_the_drain(patch: Patch) -> None:
    real = Placement._drain

    async def drain(self: Placement, before: Any, types: Any, version: int) -> None:
        self._feed(Drained(version))
        await real(self, before, types, version)

    patch.setattr(Placement, "_drain", drain)


def keep_actors_when_the_place_is_lost(patch: Patch) -> None:
    real = Membership._halt
    patch.setattr(
        Membership, "_halt", lambda self, why: [one for one in real(self, why) if not isinstance(one, HaltAll)]
    )


def a_new_leader_does_not_wait(patch: Patch) -> None:
    patch.setattr(placement, "wait_s", lambda grace_s: 0.0)


def turns_overlap(patch: Patch) -> None:
    def enter(self: Turns[Any], place: Any, max_depth: int = 1) -> bool:
        self.running.append(place)
        return True

    patch.setattr(Turns, "enter", enter)


def the_moved_are_served(patch: Patch) -> None:
    async def drain(self: Residents, actor_types: Any, stays: Any) -> None:
        return None

    patch.setattr(ActorHost, "drain", drain)


def an_undelivered_tick_counts(patch: Patch) -> None:
    real = machine.settle
    patch.setattr(
        machine, "settle",
        lambda stored, outcome, fired: real(stored, Outcome.SUCCESS if outcome is Outcome.FAILED else outcome, fired),
    )  # fmt: skip


def fire_after_the_lease(patch: Patch) -> None:
    patch.setattr(Leases, "hold", lambda self: self.certain)


def fire_early(patch: Patch) -> None:
    real = Near.pop
    patch.setattr(Near, "pop", lambda self, now: real(self, now + 0.05))


def one_tick_too_many(patch: Patch) -> None:
    real = machine.settle

    def settle(stored: Any, outcome: Outcome, fired: float) -> Any:
        return real(stored, outcome, fired) if stored.count != 4 or stored.last is None else real(
            stored.__replace__(count=3) if hasattr(stored, "__replace__") else _with_count(stored, 3), outcome, fired
        )  # fmt: skip

    patch.setattr(machine, "settle", settle)


def _with_count(stored: Any, count: int) -> Any:
    from dataclasses import replace

    return replace(stored, count=count)


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
    async def nothing(call: Any) -> None:
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
    real = Engine.fire
    patch.setattr(
        Engine, "fire", lambda self, found, generation, timer_id: real(self, found, found.instance.generation, timer_id)
    )


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
    Mutation("state is not fenced", "counting", 28, no_fence),
    Mutation("a table is acknowledged before the drain", "counting", 44, acknowledge_before_the_drain),
    Mutation("actors go on when the place is lost", "counting", 102, keep_actors_when_the_place_is_lost),
    Mutation("a new leader does not wait", "counting", 27, a_new_leader_does_not_wait),
    Mutation("turns overlap", "counting", 0, turns_overlap),
    Mutation("what moves is not drained", "counting", 30, the_moved_are_served),
    Mutation("a failed tick counts as done", "ticking", 0, an_undelivered_tick_counts),
    Mutation("ticks are fired after the lease", "ticking", 1, fire_after_the_lease),
    Mutation("ticks are fired early", "ticking", 0, fire_early),
    Mutation("one tick too many", "ticking", 0, one_tick_too_many),
    Mutation("results are taken twice", "working", 24, results_are_taken_twice),
    Mutation("a save goes over another host's", "working", 56, save_over_another_host),
    Mutation("no job wakes an instance", "working", 0, no_job_wakes),
    Mutation("the job of a finished instance stays", "working", 0, the_job_stays),
    Mutation("activities are not dispatched again", "working", 0, activities_are_not_dispatched_again),
    Mutation("timers of an old generation fire", "working", 0, timers_of_an_old_generation_fire),
    Mutation("events are acknowledged too early", "working", 5, events_are_acknowledged_before_they_are_written),
    Mutation("a child is told before it is there", "working", 50, a_child_that_is_not_there_is_not_terminated),
)  # fmt: skip


def caught(mutation: Mutation, seed: int) -> bool:
    """Whether this seed shows the mistake, in whatever way."""
    with pytest.MonkeyPatch.context() as patch:
        mutation.apply(patch)
        try:
            tell_seed(STORIES[mutation.story], seed)
        except Exception:  # a driver that breaks is noticed as well as a judge that speaks
            return True
    return False


def main(first: int = 0, most: int = 400) -> None:
    """Print the first seed that shows each mistake."""
    wanted = sys.argv[1:]
    for mutation in MUTATIONS:
        if not wanted or any(word in mutation.name for word in wanted):
            found = next((seed for seed in range(first, most) if caught(mutation, seed)), None)
            sys.stdout.write(f"{found!s:>5} {mutation.story:9} {mutation.name}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
