"""Whose word counts: ids that are used again, names that others have, executions that are no more (spec 3.9)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from pillion.components.memory import MemoryState, MemoryStateSettings
from pillion.errors import Code
from pillion.kinds.actors import RemoteFailure
from pillion.kinds.component import Context as ComponentContext
from pillion.kinds.state import Get, Set
from pillion.testing.workflow_rig import Rig
from pillion.testing.workflow_worker import ActivityFailed, Context
from pillion.wire.messages import backend, taskhub
from pillion.workflow import history
from pillion.workflow.creation import create
from pillion.workflow.duties import end_wake
from pillion.workflow.faults import (
    DescendantsActive,
    DescendantsUnknown,
    InstanceActive,
    InstanceMissing,
    NotReady,
    RerunExists,
    RerunMissing,
    RerunRefused,
    WorkflowFault,
    from_remote,
)
from pillion.workflow.hub import Start
from pillion.workflow.runner import Runner
from workflow_support import Bench, bench, memory_store, run

if TYPE_CHECKING:
    from collections.abc import Generator

    from pillion.kinds.state import Found

    Steps = Generator[Any, Any, Any]


def waits(ctx: Context, _: Any) -> Steps:
    return (yield ctx.wait_for_event("go"))


class Slow(MemoryState):
    """A store whose answers let others have their turn."""

    async def get(self, request: Get) -> Found:
        await asyncio.sleep(0.001)
        return await super().get(request)


def two_applications(code: dict[str, Any]) -> tuple[Bench, Bench]:
    here, far = Bench(code, rig=Rig(memory_store())), Bench(code, rig=Rig(memory_store(), app_id="other"))
    here.rig.actors.join(far.rig.actors)
    far.rig.actors.join(here.rig.actors)
    here.connect()
    far.connect()
    return here, far


def test_two_starts_at_once_of_a_finished_id_begin_it_once() -> None:
    def mother(ctx: Context, _: Any) -> Any:
        ctx.call_child("waits", instance_id="child")
        return "done"

    async def test() -> None:
        store = Slow(MemoryStateSettings(), ComponentContext(name="store"))
        async with bench({"mother": mother, "waits": waits}, store=store) as b:
            await b.hub.start(Start("mother", "m"))
            await b.done("m")
            await b.hub.wait_start("child")
            await b.hub.raise_event("child", "go")
            await b.done("child")
            heard = await asyncio.gather(*(b.hub.start(Start("waits", "m")) for _ in range(2)), return_exceptions=True)
            assert sorted(type(one).__name__ for one in heard) == ["InstanceActive", "str"]
            await b.hub.wait_start("m")
            assert b.hub.engine.runners["m"].instance.generation == 2

    run(test())


def test_the_answer_of_a_child_is_for_the_generation_that_asked() -> None:
    def anew(ctx: Context, number: int) -> Steps:
        child = ctx.call_child("waits", instance_id=f"child-{number}")
        if number == 1:
            yield ctx.wait_for_event("next")
            ctx.continue_as_new(2)
            return None
        return (yield child)

    async def test() -> None:
        async with bench({"anew": anew, "waits": waits}) as b:
            await b.hub.start(Start("anew", "a", input="1"))
            await b.hub.wait_start("child-1")
            await b.hub.raise_event("a", "next")
            await b.hub.wait_start("child-2")
            await b.hub.raise_event("child-1", "go", '"of the first"')
            await b.done("child-1")
            await b.quiet()
            await b.hub.raise_event("child-2", "go", '"of the second"')
            assert (await b.done("a")).output == '"of the second"'

    run(test())


def test_who_merely_has_the_name_of_a_child_is_not_purged_with_the_parent() -> None:
    def wants(ctx: Context, _: Any) -> Steps:
        try:
            yield ctx.call_child("waits", instance_id="somebody")
        except ActivityFailed as error:
            return error.details.errorType

    async def test() -> None:
        async with bench({"wants": wants, "waits": waits}) as b:
            await b.hub.start(Start("waits", "somebody"))
            await b.hub.wait_start("somebody")
            await b.hub.start(Start("wants", "w"))
            assert (await b.done("w")).output == '"WorkflowInstanceAlreadyExists"'
            assert await b.hub.purge("w") == 1
            await b.hub.start(Start("wants", "w"))  # nor does it keep the id from being used again
            await b.done("w")
            await b.hub.raise_event("somebody", "go", '"well"')
            assert (await b.done("somebody")).output == '"well"'
            assert await b.hub.purge("w") == 1
            assert await b.hub.get("somebody") is not None

    run(test())


def test_an_id_is_not_used_again_while_a_grandchild_in_another_application_lives() -> None:
    def mother(ctx: Context, depth: int) -> Any:
        if depth:
            ctx.call_child("mother", depth - 1, instance_id=f"m{depth}", app_id="other" if depth % 2 else "app")
        else:
            ctx.call_child("waits", instance_id="last", app_id="other")
        return "done"

    async def test() -> None:
        here, far = two_applications({"mother": mother, "waits": waits})
        await here.hub.start(Start("mother", "m", input="2"))
        await here.done("m")
        await far.hub.wait_start("last")
        with pytest.raises(DescendantsActive):
            await here.hub.start(Start("mother", "m", input="0"))
        await far.hub.raise_event("last", "go")
        await far.done("last")
        await here.hub.start(Start("waits", "m"))
        await here.kill()
        await far.kill()

    run(test())


def test_a_child_that_nobody_waits_for_begins_although_the_host_dies() -> None:
    def mother(ctx: Context, _: Any) -> Any:
        ctx.call_child("waits", instance_id="child", app_id="other")
        return "done"

    async def test() -> None:
        code = {"mother": mother, "waits": waits}
        here, far = Bench(code, rig=Rig(memory_store())), Bench(code, rig=Rig(memory_store(), app_id="other"))
        far.rig.actors.join(here.rig.actors)
        here.connect()
        far.connect()
        await here.hub.start(Start("mother", "m"))
        await here.done("m")
        await here.restart()
        here.rig.actors.join(far.rig.actors)
        await far.hub.wait_start("child")
        await here.kill()
        await far.kill()

    run(test())


def test_what_another_host_has_written_can_be_purged() -> None:
    async def test() -> None:
        async with bench({"waits": waits}) as b:
            await b.hub.start(Start("waits", "w"))
            await b.hub.raise_event("w", "go")
            await b.done("w")
            await b.quiet()
            assert await b.hub.engine.find("w") is not None
            key = "app||dapr.internal.default.app.workflow||w||metadata"
            found = await b.rig.store.get(Get(key))
            await b.rig.store.set(Set(key, found.value or b""))
            assert await b.hub.purge("w") == 1
            with pytest.raises(InstanceMissing):
                await b.hub.purge("w")

    run(test())


@pytest.mark.parametrize(
    "fault",
    [
        InstanceActive("an active workflow with ID 'a b' already exists"),
        DescendantsActive("a workflow with ID 'a' has finished, but its child 'b' has not"),
        DescendantsUnknown("how the child 'b' stands could not be found out: it is not there"),
        NotReady("the finished workflow 'a' still has something to tell"),
        RerunExists("workflow 'a' has already been created"),
        RerunMissing("'a' does not have history event with ID '7'"),
        RerunMissing("workflow instance does not exist with ID 'a'"),
        RerunRefused("'a' is not in a terminal state"),
        RerunRefused("cannot write input to timer event '3'"),
    ],
    ids=lambda fault: str(fault)[:30],
)
def test_a_fault_is_known_again_behind_what_sidecars_put_before_it(fault: WorkflowFault) -> None:
    said = f"rpc error: code = Internal desc = error invoke actor method: {fault}"
    heard = from_remote(RemoteFailure(said, Code.INTERNAL))
    assert (type(heard), str(heard), heard.retryable) == (type(fault), str(fault), fault.retryable)


def test_a_job_that_is_deleted_for_the_former_use_of_an_id_is_put_again_for_the_present_one() -> None:
    async def test() -> None:
        async with bench({"waits": waits}) as b:
            await b.hub.start(Start("waits", "w"))
            await b.hub.raise_event("w", "go")
            await b.done("w")
            await b.quiet()
            former = await b.hub.engine.find("w")
            assert former is not None
            await b.hub.start(Start("waits", "w"))
            await b.hub.wait_start("w")
            gone = Runner(b.hub.engine, former.instance)
            gone.closed = True  # as that of a host whose place was lost while it asked for the deletion
            names = b.hub.engine.surroundings.names
            await b.rig.jobs.delete(names.key(names.workflow(), "w", "wake"))
            await end_wake(b.hub.engine, gone)
            assert names.key(names.workflow(), "w", "wake") in b.rig.jobs.jobs

    run(test())


@pytest.mark.parametrize("events", [0, 200])
def test_a_start_that_arrives_twice_begins_once_also_when_the_workflow_has_continued_as_new(events: int) -> None:
    """Found by the simulator: the answer to a start was lost, and when it was asked again the workflow had ended."""
    begun: list[int] = []

    def counts_down(ctx: Context, left: int) -> Steps:
        for _ in range(events):
            yield ctx.wait_for_event("word")
        begun.append(left)
        if left:
            ctx.continue_as_new(left - 1)
        return "done"

    async def test() -> None:
        async with bench({"counts_down": counts_down}) as b:
            started = taskhub.ExecutionStartedEvent(name="counts_down", input=history.text("2"))
            started.workflowInstance.instanceId = "c"
            started.workflowInstance.executionId.value = "the first"
            request = backend.CreateWorkflowInstanceRequest(startEvent=history.execution_started(
                b.hub.engine.surroundings.now_ns(), started, taskhub.TaskRouter(sourceAppID="app")
            ))  # fmt: skip
            await create(b.hub.engine, "c", request)
            for _ in range(3 * events):
                await b.hub.raise_event("c", "word")
            ended = await b.done("c")
            await b.quiet()
            await create(b.hub.engine, "c", request)
            assert await b.done("c") == ended
            assert begun == [2, 1, 0]
            started.workflowInstance.executionId.value = "another"
            request.startEvent.executionStarted.CopyFrom(started)
            await create(b.hub.engine, "c", request)
            await b.hub.wait_start("c")
            assert (await b.hub.get("c")) != ended

    run(test())


def test_what_was_purged_does_not_begin_again_when_the_id_of_its_parent_is_used_again() -> None:
    def mother(ctx: Context, alone: bool) -> Any:
        if not alone:
            ctx.call_child("quick", instance_id="child")
        return "done"

    def quick(ctx: Context, _: Any) -> Any:
        return "done"

    async def test() -> None:
        async with bench({"mother": mother, "quick": quick}) as b:
            await b.hub.start(Start("mother", "m", input="false"))
            await b.done("m")
            await b.done("child")
            await b.quiet()
            await b.hub.purge("child")
            await b.restart()
            await b.hub.start(Start("mother", "m", input="true"))
            await b.done("m")
            await b.quiet()
            assert await b.hub.get("child") is None

    run(test())
