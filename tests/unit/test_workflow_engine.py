"""The workflow engine end to end in one process: the semantics of spec `actors-workflows-jobs.md` 3.6 to 3.9."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from pillion import tasks
from pillion.kinds.actors import Moved
from pillion.testing.workflow_worker import TIMED_OUT, ActivityFailed, Context
from pillion.wire.messages import backend
from pillion.wire.messages import taskhub as m
from pillion.workflow import builtin, history
from pillion.workflow.faults import (
    DescendantsActive,
    IdInvalid,
    InstanceActive,
    InstanceMissing,
    InstanceStalled,
    NotCompleted,
    RerunExists,
    RerunMissing,
    RerunRefused,
)
from pillion.workflow.hub import Rerun, Start
from pillion.workflow.items import INTERNAL
from pillion.workflow.snapshot import Status
from workflow_support import Bench, bench, run

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from pillion.kinds.actors import Owner

Code = "Generator[Any, Any, Any]"


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 - for conditions that nobody announces
        await asyncio.sleep(0.001)


def chain(ctx: Context, count: int) -> Generator[Any, Any, Any]:
    value = 0
    for _ in range(count):
        value = yield ctx.call_activity("add", value)
    return value


def waits(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
    return (yield ctx.wait_for_event("go"))


def add(value: int) -> int:
    return value + 1


def test_a_chain_of_activities_runs_in_order_and_leaves_rows_of_the_reference() -> None:
    async def test() -> None:
        async with bench({"chain": chain}, {"add": add}) as b:
            await b.hub.start(Start("chain", "one", input="1"))
            done = await b.done("one")
            assert (done.status, done.output, done.name, done.input) == (Status.COMPLETED, "1", "chain", "1")
            await b.quiet()
            prefix = "app||dapr.internal.default.app.workflow||one||"
            keys, _ = await b.rig.store.keys_like("%")  # type: ignore[attr-defined]
            # A completed workflow with one activity is eight rows (3.1).
            assert sorted(key.removeprefix(prefix) for key in keys) == sorted(
                ["customStatus", "metadata", *(f"history-{n:06d}" for n in range(6))]
            )
            assert b.rig.jobs.jobs == {}, "after completion no job remains (27)"
            assert await b.kinds("one") == [
                "workflowStarted", "executionStarted", "taskScheduled",
                "workflowStarted", "taskCompleted", "executionCompleted",
            ]  # fmt: skip

    run(test())


def test_a_fan_out_collects_every_result() -> None:
    def fan(ctx: Context, count: int) -> Generator[Any, Any, Any]:
        results = yield ctx.all([ctx.call_activity("add", n) for n in range(count)])
        return sum(results)

    async def test() -> None:
        async with bench({"fan": fan}, {"add": add}) as b:
            await b.hub.start(Start("fan", "f", input="100"))
            assert (await b.done("f")).output == str(sum(range(1, 101)))

    run(test())


def test_a_failed_activity_is_raised_in_the_workflow() -> None:
    def guarded(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        try:
            yield ctx.call_activity("boom")
        except ActivityFailed as error:
            return error.details.errorMessage

    def boom(_: Any) -> None:
        raise ValueError("no luck")

    async def test() -> None:
        async with bench({"guarded": guarded, "open": lambda ctx, _: ctx.call_activity("boom")}, {"boom": boom}) as b:
            await b.hub.start(Start("guarded", "g"))
            assert (await b.done("g")).output == '"no luck"'

    run(test())


def test_a_failing_workflow_keeps_its_failure() -> None:
    def fails(ctx: Context, _: Any) -> None:
        raise RuntimeError("broken")

    async def test() -> None:
        async with bench({"fails": fails}) as b:
            await b.hub.start(Start("fails", "f"))
            done = await b.done("f")
            assert done.status is Status.FAILED
            assert done.failure is not None
            assert (done.failure.errorType, done.failure.errorMessage) == ("RuntimeError", "broken")

    run(test())


def test_timers_fire_in_order_and_never_early() -> None:
    def sleeps(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        begun = ctx.now_ns
        yield ctx.sleep(0.05)
        first = ctx.now_ns
        yield ctx.sleep(0.01)
        return [first - begun, ctx.now_ns - first]

    async def test() -> None:
        async with bench({"sleeps": sleeps}) as b:
            await b.hub.start(Start("sleeps", "s"))
            first, second = eval((await b.done("s")).output)
            assert first >= 50_000_000
            assert second >= 10_000_000

    run(test())


def test_an_event_ends_its_wait_and_the_timer_with_it() -> None:
    def choice(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        got = yield ctx.wait_for_event("Approve", timeout_s=1000)
        return "late" if got is TIMED_OUT else got

    async def test() -> None:
        async with bench({"choice": choice}) as b:
            await b.hub.start(Start("choice", "c"))
            await b.hub.wait_start("c")
            await b.hub.raise_event("c", "aPPROVE", '"yes"')
            assert (await b.done("c")).output == '"yes"'

    run(test())


def test_a_wait_for_an_event_times_out() -> None:
    def choice(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        got = yield ctx.wait_for_event("go", timeout_s=0.02)
        return "late" if got is TIMED_OUT else got

    async def test() -> None:
        async with bench({"choice": choice}) as b:
            await b.hub.start(Start("choice", "c"))
            assert (await b.done("c")).output == '"late"'

    run(test())


def test_events_of_one_name_arrive_in_their_order_and_none_is_lost() -> None:
    """Invariant 32, with events raised before the workflow waits for them and after."""

    def collects(ctx: Context, count: int) -> Generator[Any, Any, Any]:
        yield ctx.call_activity("add", 1)
        got = []
        for _ in range(count):
            event = yield ctx.wait_for_event("e")
            got += [event]
        return got

    async def test() -> None:
        async with bench({"collects": collects}, {"add": add}) as b:
            await b.hub.start(Start("collects", "c", input="50"))
            for number in range(50):
                await b.hub.raise_event("c", "e", str(number))
            assert eval((await b.done("c")).output) == list(range(50))

    run(test())


def test_a_redelivered_event_counts_once() -> None:
    def collects(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        first = yield ctx.wait_for_event("e")
        second = yield ctx.wait_for_event("e")
        return [first, second]

    async def test() -> None:
        from pillion.workflow import history

        async with bench({"collects": collects}) as b:
            await b.hub.start(Start("collects", "c"))
            await b.hub.wait_start("c")
            event = history.event_raised(1000, "e", "1")
            for _ in range(3):
                await b.hub.engine.add("c", event)
            await b.hub.engine.add("c", history.event_raised(1001, "e", "2"))
            assert (await b.done("c")).output == "[1, 2]"

    run(test())


def test_requests_about_an_instance_that_is_not_there() -> None:
    async def test() -> None:
        async with bench({"waits": waits}) as b:
            await b.hub.start(Start("waits", "there"))
            assert await b.hub.get("nobody") is None
            assert await b.hub.history("nobody") is None
            assert await b.hub.inspect("nobody") is None
            for request in (
                b.hub.raise_event("nobody", "e"), b.hub.suspend("nobody"), b.hub.resume("nobody"),
                b.hub.terminate("nobody"), b.hub.purge("nobody"), b.hub.purge("nobody", recursive=False),
            ):  # fmt: skip
                with pytest.raises(InstanceMissing, match="no such instance exists"):
                    await request

    run(test())


def test_an_active_instance_is_not_started_again_and_a_finished_one_is() -> None:
    async def test() -> None:
        async with bench({"waits": waits}) as b:
            await b.hub.start(Start("waits", "w", input="1"))
            with pytest.raises(InstanceActive, match="an active workflow with ID 'w' already exists"):
                await b.hub.start(Start("waits", "w"))
            await b.hub.raise_event("w", "go")
            await b.done("w")
            await b.hub.start(Start("waits", "w", input="2"))
            await b.hub.wait_start("w")
            again = await b.hub.inspect("w")
            assert again is not None
            assert (again.snapshot.status, again.snapshot.input, again.generation) == (Status.RUNNING, "2", 2)
            assert await b.kinds("w") == ["workflowStarted", "executionStarted"]

    run(test())


def test_a_workflow_that_is_suspended_goes_on_when_resumed() -> None:
    async def test() -> None:
        async with bench({"waits": waits}) as b:
            await b.hub.start(Start("waits", "w"))
            await b.hub.suspend("w", "lunch", wait=True)
            await b.hub.raise_event("w", "go", '"x"')
            assert (await b.hub.get("w")).status is Status.SUSPENDED  # type: ignore[union-attr]
            await b.hub.resume("w", wait=True)
            assert (await b.done("w")).output == '"x"'

    run(test())


def test_terminate_ends_a_workflow_with_the_given_output_and_its_children_with_it() -> None:
    """Invariant 30, and the cascade of 3.9."""

    def parent(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        return (yield ctx.call_child("waits", instance_id="kid"))

    async def test() -> None:
        async with bench({"parent": parent, "waits": waits}) as b:
            await b.hub.start(Start("parent", "p"))
            await b.hub.wait_start("kid")
            await b.hub.terminate("p", '"enough"', wait=True)
            done = await b.done("p")
            assert (done.status, done.output) == (Status.TERMINATED, '"enough"')
            assert (await b.done("kid")).status is Status.TERMINATED
            await b.quiet()
            assert b.rig.jobs.jobs == {}

    run(test())


def test_a_child_answers_its_parent_and_its_failure_is_raised_there() -> None:
    def parent(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        good = yield ctx.call_child("chain", 2)
        try:
            yield ctx.call_child("bad", instance_id="bad-one")
        except ActivityFailed as error:
            return [good, error.details.errorType]

    def bad(ctx: Context, _: Any) -> None:
        raise KeyError("x")

    async def test() -> None:
        async with bench({"parent": parent, "chain": chain, "bad": bad}, {"add": add}) as b:
            await b.hub.start(Start("parent", "p"))
            assert (await b.done("p")).output == '[2, "KeyError"]'
            child = await b.hub.get("p:0000")
            assert child is not None
            assert (child.parent_id, child.parent_app, child.output) == ("p", "app", "2")

    run(test())


def test_a_child_whose_id_is_taken_fails_in_its_parent() -> None:
    def parent(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        try:
            yield ctx.call_child("waits", instance_id="taken")
        except ActivityFailed as error:
            return error.details.errorType

    async def test() -> None:
        async with bench({"parent": parent, "waits": waits}) as b:
            await b.hub.start(Start("waits", "taken"))
            await b.hub.start(Start("parent", "p"))
            assert (await b.done("p")).output == '"WorkflowInstanceAlreadyExists"'

    run(test())


@pytest.mark.parametrize("child_id", ["a/b", "a#b", "x" * 600, "a\x00b"])
def test_a_child_whose_id_cannot_be_fails_in_its_parent(child_id: str) -> None:
    """Nothing could wake it: rather than to be asked for without end, it has failed."""

    def parent(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        try:
            yield ctx.call_child("waits", instance_id=child_id)
        except ActivityFailed as error:
            return [error.details.errorType, error.details.errorMessage]

    async def test() -> None:
        async with bench({"parent": parent}) as b:
            with pytest.raises(IdInvalid, match="no workflow can have the ID"):
                await b.hub.start(Start("parent", child_id))
            await b.hub.start(Start("parent", "p"))
            kind, text = json.loads((await b.done("p")).output)
            assert kind == "WorkflowInstanceIdInvalid"
            assert text.startswith("no workflow can have the ID")
            assert await b.hub.get(child_id) is None
            with pytest.raises(IdInvalid):
                await b.hub.rerun(Rerun("p", 0, child_id))

    run(test())


def test_continue_as_new_keeps_events_and_begins_a_new_history() -> None:
    """Invariant 31: each event is counted once, whatever generation it meets."""

    def counts(ctx: Context, state: list[int]) -> Generator[Any, Any, Any]:
        got = yield ctx.wait_for_event("n")
        state = [*state, got]
        if len(state) == 30:
            return state
        ctx.continue_as_new(state)

    async def test() -> None:
        async with bench({"counts": counts}) as b:
            await b.hub.start(Start("counts", "c", input="[]"))
            for number in range(30):
                await b.hub.raise_event("c", "n", str(number))
            assert eval((await b.done("c")).output) == list(range(30))
            assert len(await b.kinds("c")) < 40

    run(test())


def test_continuing_as_new_without_a_pause_lets_progress_be_saved() -> None:
    """At most 20 in one turn, then it is written down (3.6.5)."""

    def loops(ctx: Context, left: int) -> Any:
        if left:
            ctx.continue_as_new(left - 1)
        return left

    async def test() -> None:
        async with bench({"loops": loops}) as b:
            await b.hub.start(Start("loops", "l", input="50"))
            done = await b.done("l")
            assert (done.status, done.output) == (Status.COMPLETED, "0")
            inspection = await b.hub.inspect("l")
            assert inspection is not None
            assert inspection.generation == 51

    run(test())


def test_old_timers_and_results_never_reach_a_new_generation() -> None:
    """Invariants 24 and 27."""

    def renews(ctx: Context, first: bool) -> Generator[Any, Any, Any]:
        if first:
            ctx.call_activity("late", "old")
            ctx.sleep(0.02)
            yield ctx.wait_for_event("renew")
            ctx.continue_as_new(False)
            return None
        got = yield ctx.call_activity("late", "new")
        return got

    async def test() -> None:
        gates = {"old": asyncio.Event(), "new": asyncio.Event()}

        async def late(which: str) -> str:
            await gates[which].wait()
            return which

        async with bench({"renews": renews}, {"late": late}) as b:
            await b.hub.start(Start("renews", "r", input="true"))
            await until(lambda: "r" in b.hub.engine.runners and bool(b.hub.engine.runners["r"].activities))
            await b.hub.raise_event("r", "renew")
            await until(lambda: b.hub.engine.runners["r"].instance.generation == 2)
            gates["old"].set()
            await asyncio.sleep(0.03)
            gates["new"].set()
            assert (await b.done("r")).output == '"new"'
            assert "timerFired" not in await b.kinds("r")

    run(test())


def test_what_a_workflow_sends_arrives_and_leaves_no_row_behind() -> None:
    """Actions that the reference's backend fails on for ever: events, terminations, workflows of their own."""

    def tells(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        ctx.send_event("ear", "go", "hello")
        ctx.terminate("victim", '"by tells"')
        ctx.start_detached("chain", 1, instance_id="free")
        yield ctx.call_activity("add", 1)
        return "told"

    async def test() -> None:
        async with bench({"tells": tells, "waits": waits, "chain": chain}, {"add": add}) as b:
            await b.hub.start(Start("waits", "ear"))
            await b.hub.start(Start("waits", "victim"))
            await b.hub.start(Start("tells", "t"))
            assert (await b.done("t")).output == '"told"'
            assert (await b.done("ear")).output == '"hello"'
            victim = await b.done("victim")
            assert (victim.status, victim.output) == (Status.TERMINATED, '"by tells"')
            assert (await b.done("free")).output == "1"
            await b.quiet()
            keys, _ = await b.rig.store.keys_like("%outbox")  # type: ignore[attr-defined]
            assert keys == []

    run(test())


def test_a_scheduled_start_is_kept_even_when_events_come_before() -> None:
    """The reference starts at the first event (spec 6); terminated before its time, a workflow never runs."""

    async def test() -> None:
        async with bench({"waits": waits}) as b:
            now = b.rig.clock.now()
            await b.hub.start(Start("waits", "soon", start_at=now + 0.15))
            await b.hub.start(Start("waits", "never", start_at=now + 9999))
            await b.hub.raise_event("soon", "go", "1")
            assert (await b.hub.get("soon")).status is Status.PENDING  # type: ignore[union-attr]
            await b.hub.terminate("never", wait=True)
            turns = b.executor.turns
            assert turns == 0
            done = await b.done("soon")
            assert done.output == "1"
            assert done.started_ns >= int((now + 0.15) * 1e9) - 1000

    run(test())


def test_purge_takes_the_whole_tree_and_only_what_is_finished() -> None:
    """Invariant 29."""

    def parent(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        yield ctx.call_child("chain", 1)
        return (yield ctx.wait_for_event("go"))

    async def test() -> None:
        async with bench({"parent": parent, "chain": chain}, {"add": add}) as b:
            await b.hub.start(Start("parent", "p"))
            await b.done("p:0000")
            with pytest.raises(NotCompleted):
                await b.hub.purge("p")
            await b.hub.raise_event("p", "go")
            await b.done("p")
            assert await b.hub.purge("p") == 2
            keys, _ = await b.rig.store.keys_like("%")  # type: ignore[attr-defined]
            assert keys == []
            assert b.rig.jobs.jobs == {}
            with pytest.raises(InstanceMissing):
                await b.hub.purge("p")
            await b.hub.start(Start("parent", "q"))
            await b.hub.wait_start("q:0000")
            assert await b.hub.purge("q", force=True) == 2
            keys, _ = await b.rig.store.keys_like("%||q%")  # type: ignore[attr-defined]
            assert keys == []

    run(test())


def test_a_timer_of_an_earlier_use_of_an_id_does_not_fire_in_the_present_one() -> None:
    """Found by the simulator: both are timer 0 of a first generation, and the old one was still in the heap."""

    def sleeps(ctx: Context, length_s: float) -> Generator[Any, Any, Any]:
        yield ctx.sleep(length_s)
        return "woken"

    async def test() -> None:
        async with bench({"sleeps": sleeps}) as b:
            await b.hub.start(Start("sleeps", "s", input="0.05"))
            await b.hub.wait_start("s")
            await b.hub.terminate("s", wait=True)
            await b.hub.purge("s")
            await b.hub.start(Start("sleeps", "s", input="0.5"))
            assert (await b.done("s")).output == '"woken"'
            fired = next(one for one in await b.history("s") if one.HasField("timerFired"))
            assert history.nanoseconds(fired.timestamp) >= history.nanoseconds(fired.timerFired.fireAt) - 1000

    run(test())


def test_an_id_is_not_used_again_while_a_child_lives() -> None:
    """Invariant 28."""

    def leaves(ctx: Context, _: Any) -> Any:
        ctx.call_child("waits", instance_id="orphan")
        return "gone"

    async def test() -> None:
        async with bench({"leaves": leaves, "waits": waits}) as b:
            await b.hub.start(Start("leaves", "p"))
            await b.done("p")
            await b.hub.wait_start("orphan")
            with pytest.raises(DescendantsActive):
                await b.hub.start(Start("leaves", "p"))
            await b.hub.raise_event("orphan", "go")
            await b.done("orphan")
            await b.hub.start(Start("waits", "p"))
            assert (await b.hub.wait_start("p")).name == "waits"

    run(test())


def test_rerun_begins_at_an_event_with_another_input() -> None:
    async def test() -> None:
        async with bench({"chain": chain}, {"add": add}) as b:
            await b.hub.start(Start("chain", "first", input="3"))
            assert (await b.done("first")).output == "3"
            new = await b.hub.rerun(Rerun("first", 1, new_id="second", input="40", overwrite_input=True))
            assert new == "second"
            assert (await b.done("second")).output == "42"
            with pytest.raises(RerunExists):
                await b.hub.rerun(Rerun("first", 1, new_id="second"))
            with pytest.raises(RerunMissing):
                await b.hub.rerun(Rerun("first", 9))
            with pytest.raises(RerunMissing):
                await b.hub.rerun(Rerun("nobody", 1))
            with pytest.raises(RerunRefused):
                await b.hub.rerun(Rerun("first", 1, new_id="first"))

    run(test())


def test_a_worker_without_the_workflow_stalls_it_and_another_one_goes_on() -> None:
    async def test() -> None:
        async with bench({}) as b:
            await b.hub.start(Start("chain", "c", input="2"))
            await until(lambda: b.executor.turns == 1)
            await until(lambda: b.hub.engine.status("c") is Status.STALLED)
            inspection = await b.hub.inspect("c")
            assert inspection is not None
            assert [wait.kind for wait in inspection.waiting] == ["stalled"]
            with pytest.raises(InstanceStalled):
                await b.hub.raise_event("c", "e")
            await b.disconnect()
            b.workflows, b.activities = {"chain": chain}, {"add": add}
            b.connect()
            assert (await b.done("c")).output == "2"

    run(test())


def test_a_stalled_workflow_can_be_terminated() -> None:
    """And is told by its name, also when it stalled before its first turn."""

    async def test() -> None:
        async with bench({}) as b:
            await b.hub.start(Start("chain", "c", input="2"))
            await until(lambda: b.hub.engine.status("c") is Status.STALLED)
            found = await b.hub.inspect("c")
            assert found is not None
            assert (found.snapshot.name, found.snapshot.asked_name) == ("", "chain")
            await b.hub.terminate("c", wait=True)
            assert (await b.done("c")).status is Status.TERMINATED

    run(test())


def test_patches_must_continue_those_of_the_history() -> None:
    async def test() -> None:
        async with bench({"waits": waits}, patches=["a", "b"]) as b:
            await b.hub.start(Start("waits", "w"))
            await b.hub.wait_start("w")
            await b.disconnect()
            b.patches = ["a"]
            b.connect()
            await b.hub.raise_event("w", "go", "1")
            await until(lambda: b.hub.engine.status("w") is Status.STALLED)
            await b.disconnect()
            b.patches = ["a", "b", "c"]
            b.connect()
            assert (await b.done("w")).output == "1"
            versions = [
                list(event.workflowStarted.version.patches)
                for event in await b.history("w") if event.HasField("workflowStarted")
            ]  # fmt: skip
            assert versions == [["a", "b"], ["c"]]
            assert (await b.kinds("w")).count("executionStalled") == 1

    run(test())


def test_a_lost_worker_loses_no_item_and_its_late_answer_counts_for_nothing() -> None:
    """Invariants 33 and 34."""

    async def test() -> None:
        b = Bench({"chain": chain}, {"add": add})
        stream = b.hub.attach()
        await b.hub.start(Start("chain", "c", input="1"))
        item = m.WorkItem.FromString(await stream.next())
        late = b.executor.turn(item.workflowRequest, item.completionToken)
        late.actions[0].scheduleTask.name = "never"
        second = b.hub.attach()
        stream.close()
        again = m.WorkItem.FromString(await second.next())
        assert again.workflowRequest == item.workflowRequest
        assert again.completionToken != item.completionToken
        b.hub.complete_workflow(late)
        b.hub.complete_workflow(b.executor.turn(again.workflowRequest, again.completionToken))
        activity = m.WorkItem.FromString(await second.next())
        assert activity.activityRequest.name == "add"
        b.hub.complete_activity(await b.executor.activity(activity.activityRequest, ""))
        last = m.WorkItem.FromString(await second.next())
        b.hub.complete_workflow(b.executor.turn(last.workflowRequest, ""))
        assert (await b.done("c")).output == "1"
        await b.kill()

    run(test())


def test_an_activity_that_takes_its_workers_down_is_put_aside_and_can_be_retried_or_skipped() -> None:
    def two(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        return (yield ctx.all([ctx.call_activity("poison"), ctx.call_activity("poison")]))

    async def test() -> None:
        b = Bench({"two": two, "chain": chain}, {"add": add, "poison": lambda _: "fine"})
        keeper = b.hub.attach()
        await b.hub.start(Start("two", "t"))
        item = m.WorkItem.FromString(await keeper.next())
        b.hub.complete_workflow(b.executor.turn(item.workflowRequest, item.completionToken))
        keeper_closed = False
        for deaths in range(3 + 2 + 2):
            victim = b.hub.attach()
            if not keeper_closed:
                keeper.close()
                keeper_closed = True
            await victim.next()
            if deaths < 3:  # after that each of the two is under suspicion, and alone with its worker
                await victim.next()
            helper = b.hub.attach()
            victim.close()
            helper.close()
        b.connect()
        await b.hub.start(Start("chain", "other", input="1"))
        assert (await b.done("other")).output == "1", "others go on"
        inspection = await b.hub.inspect("t")
        assert inspection is not None
        kinds = {wait.task_id: wait.kind for wait in inspection.waiting}
        assert kinds == {0: "quarantine", 1: "quarantine"}
        await b.hub.retry_activity("t", 0)
        await b.hub.skip_activity("t", 1, '"skipped"')
        assert (await b.done("t")).output == '["fine", "skipped"]'
        await b.kill()

    run(test())


def test_a_turn_that_takes_its_workers_down_is_put_aside_and_can_be_retried_or_terminated() -> None:
    async def test() -> None:
        b = Bench({"chain": chain}, {"add": add})
        keeper = b.hub.attach()
        for name in ("t", "u"):
            await b.hub.start(Start("chain", name, input="1"))
        for deaths in range(3 + 2 + 2):
            victim = b.hub.attach()
            keeper.close()
            keeper = b.hub.attach()
            await victim.next()
            if deaths < 3:  # after that each of the two is under suspicion, and alone with its worker
                await victim.next()
            victim.close()
        b.connect()
        await b.hub.start(Start("chain", "other", input="1"))
        assert (await b.done("other")).output == "1", "others go on"
        for name in ("t", "u"):
            found = await b.hub.inspect(name)
            assert found is not None
            assert [(wait.kind, wait.name, wait.task_id, wait.attempts) for wait in found.waiting] == [
                ("quarantine", "chain", None, 5)
            ]  # fmt: skip
        await b.hub.retry_turn("t")
        assert (await b.done("t")).output == "1"
        with pytest.raises(InstanceMissing):
            await b.hub.retry_turn("t")
        await b.hub.terminate("u", '"enough"')
        found_u = await b.done("u")
        assert (found_u.status, found_u.output) == (Status.TERMINATED, '"enough"')
        await b.kill()

    run(test())


def test_a_large_history_stalls_before_it_wedges_a_worker() -> None:
    """Invariant 35."""

    def grows(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        for _number in range(20):
            yield ctx.call_activity("big")
        return "done"

    async def test() -> None:
        from dataclasses import replace

        from pillion.testing.workflow_rig import Rig
        from pillion.workflow.surroundings import Bounds
        from workflow_support import memory_store

        rig = Rig(memory_store(), bounds=Bounds(max_body=10_000, linger_s=0.0))
        async with bench({"grows": grows, "chain": chain}, {"big": lambda _: "x" * 1000, "add": add}, rig=rig) as b:
            await b.hub.start(Start("grows", "g"))
            await until(lambda: b.hub.engine.status("g") is Status.STALLED)
            await b.hub.start(Start("chain", "c", input="1"))
            assert (await b.done("c")).output == "1"
            b.rig.bounds = replace(b.rig.bounds, max_body=1_000_000)
            await b.restart()
            assert (await b.done("g")).output == '"done"'

    run(test())


def test_a_worker_that_keeps_histories_is_sent_what_is_new() -> None:
    async def test() -> None:
        async with bench({"chain": chain}, {"add": add}, stateful=True) as b:
            await b.hub.start(Start("chain", "c", input="30"))
            assert (await b.done("c")).output == "30"
            assert (b.executor.delta_turns, b.executor.misses) == (29, 0), "of 31: the first two begin the past"
            await b.hub.start(Start("chain", "d", input="3"))
            await b.done("d")

    run(test())


def test_what_a_worker_keeps_is_the_past_of_its_last_turn() -> None:
    """As the SDKs keep it: what was new in a turn was not committed yet, and is sent again as past."""

    async def test() -> None:
        b = Bench({"chain": chain}, {"add": add})
        stream = b.hub.attach([2])
        await b.hub.start(Start("chain", "c", input="4"))
        kept: list[bytes] = []
        deltas = 0
        while True:
            item = m.WorkItem.FromString(await stream.next())
            if item.HasField("activityRequest"):
                b.hub.complete_activity(await b.executor.activity(item.activityRequest, item.completionToken))
                continue
            asked = item.workflowRequest
            if asked.HasField("cachedHistory"):
                deltas += 1
                assert asked.cachedHistory.eventCount == len(kept)
            else:
                kept = []
            kept += [event.SerializeToString() for event in asked.pastEvents]
            assert kept == (await b.hub.history("c") if kept else [])
            whole = m.WorkflowRequest(instanceId="c", newEvents=asked.newEvents)
            for raw in kept:
                whole.pastEvents.add().ParseFromString(raw)
            b.hub.complete_workflow(b.executor.turn(whole, item.completionToken))
            if len(kept) == 3 * 4:
                break
        assert (await b.done("c")).output == "4"
        assert deltas == 3
        await b.kill()

    run(test())


def test_every_wait_has_a_name() -> None:
    def many(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        yield ctx.all([
            ctx.call_activity("slow"), ctx.sleep(100), ctx.wait_for_event("go", timeout_s=100),
            ctx.call_child("waits", instance_id="kid"),
        ])  # fmt: skip

    async def test() -> None:
        async def slow(_: Any) -> None:
            await asyncio.Event().wait()

        async with bench({"many": many, "waits": waits}, {"slow": slow}) as b:
            await b.hub.start(Start("many", "m"))
            await b.hub.wait_start("kid")
            inspection = await b.hub.inspect("m")
            assert inspection is not None
            assert {(wait.kind, wait.name) for wait in inspection.waiting} == {
                ("activity", "slow"), ("timer", ""), ("event", "GO"), ("child", "kid"),
            }  # fmt: skip
            await b.disconnect()
            await b.hub.raise_event("m", "x")
            await asyncio.sleep(0)
            inspection = await b.hub.inspect("m")
            assert inspection is not None
            assert "worker" in {wait.kind for wait in inspection.waiting}

    run(test())


def test_finished_instances_go_when_their_time_is_over() -> None:
    async def test() -> None:
        from pillion.kinds.config import Retention, Workflow
        from pillion.testing.workflow_rig import Rig
        from workflow_support import memory_store

        rig = Rig(memory_store(), config=Workflow(retention=Retention(completed_s=3600)))
        async with bench({"chain": chain}, {"add": add}, rig=rig) as b:
            await b.hub.start(Start("chain", "c", input="1"))
            await b.done("c")
            await b.quiet()
            [key] = b.rig.jobs.jobs
            assert (key.actor_type, key.name) == ("dapr.internal.default.app.retentioner", "retention")
            await b.rig.jobs.fire(key)
            assert await b.hub.get("c") is None
            keys, _ = await b.rig.store.keys_like("%")  # type: ignore[attr-defined]
            assert keys == []

    run(test())


def test_ids_are_listed_in_pages() -> None:
    async def test() -> None:
        async with bench({"waits": waits}) as b:
            for number in range(5):
                await b.hub.start(Start("waits", f"w{number}"))
            found: list[str] = []
            token = ""
            while True:
                page, token = await b.hub.list_ids(token=token, page_size=2)
                found += page
                if not token:
                    break
            assert found == [f"w{number}" for number in range(5)]

    run(test())


def test_metadata_tells_exactly_the_rows_that_are_there() -> None:
    """Invariant 21, after events have come while a turn ran."""

    async def test() -> None:
        gate = asyncio.Event()

        async def slow(_: Any) -> int:
            await gate.wait()
            return 1

        def code(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
            yield ctx.call_activity("slow")
            got = []
            for _number in range(6):
                event = yield ctx.wait_for_event("e")
                got += [event]
            return got

        async with bench({"code": code}, {"slow": slow}) as b:
            await b.hub.start(Start("code", "c"))
            prefix = "app||dapr.internal.default.app.workflow||c||"

            async def check() -> None:
                from pillion.kinds.state import Get

                head = await b.rig.store.get(Get(prefix + "metadata"))
                lengths = backend.BackendWorkflowStateMetadata.FromString(head.value or b"")
                keys, _ = await b.rig.store.keys_like(f"{prefix}%")  # type: ignore[attr-defined]
                for kind, length in (("history", lengths.historyLength), ("inbox", lengths.inboxLength)):
                    rows = sorted(key.removeprefix(prefix) for key in keys if f"||{kind}-" in key)
                    assert rows == [f"{kind}-{n:06d}" for n in range(length)]

            for number in range(6):
                await b.hub.raise_event("c", "e", str(number))
                await check()
            gate.set()
            assert eval((await b.done("c")).output) == list(range(6))
            await check()

    run(test())


def test_what_has_begun_ends_before_more_begins() -> None:
    """Beyond the bound of instances under way others wait in the store; waits for events and children do not count."""

    from pillion.testing.workflow_rig import Rig
    from pillion.workflow.surroundings import Bounds
    from workflow_support import memory_store

    async def test() -> None:
        most, now = 0, 0

        async def work(item: int) -> int:
            nonlocal most, now
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.001)
            now -= 1
            return item + 1

        def chain(ctx: Context, item: int) -> Any:
            for _ in range(3):
                item = yield ctx.call_activity("work", item)
            return item

        def parent(ctx: Context, item: int) -> Any:
            if item % 2:
                yield ctx.wait_for_event("go")
            return (yield ctx.call_child("chain", item))

        rig = Rig(memory_store(), bounds=Bounds(linger_s=0.0, in_progress=3))
        async with bench({"chain": chain, "parent": parent}, {"work": work}, rig=rig) as b:
            ids = [await b.hub.start(Start("parent", f"p{number}", input=str(number))) for number in range(40)]
            for number in range(1, 40, 2):
                await b.hub.raise_event(f"p{number}", "go")
            assert [(await b.done(one)).output for one in ids] == [str(number + 3) for number in range(40)]
            assert most <= 8
            assert not b.hub.engine.admission

    run(test())


def test_what_nobody_expects_is_not_the_end_of_an_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Listing the unfinished ones, finding who owns an activity, writing what came: each fails once and is done again.
    The event is taken once, and not given up.
    """
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)
    failing: list[str] = []

    def fails(what: str) -> bool:
        if what in failing:
            failing.remove(what)
            return True
        return False

    def story(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        told = yield ctx.wait_for_event("go")
        return (yield ctx.call_activity("add", told))

    async def test() -> None:
        async with bench({"story": story}, {"add": add}) as b:
            await b.hub.start(Start("story", "one"))
            await until(lambda: b.hub.engine.runners["one"].idle)

            listing = b.rig.jobs.list_reminders

            async def list_reminders(*arguments: Any) -> Any:
                if fails("list"):
                    raise RuntimeError("nobody expects this")
                return await listing(*arguments)

            monkeypatch.setattr(b.rig.jobs, "list_reminders", list_reminders)
            failing.append("list")
            await b.restart()
            await until(lambda: "one" in b.hub.engine.runners)
            assert not failing

            writing = b.hub.engine.rows.write

            async def write(*arguments: Any) -> None:
                if fails("write"):
                    raise RuntimeError("nor this")
                await writing(*arguments)

            monkeypatch.setattr(b.hub.engine.rows, "write", write)
            failing.append("write")
            owning = b.rig.actors.owner

            async def owner(actor_type: str, actor_id: str) -> Owner:
                if actor_type.endswith(".activity") and fails("owner"):
                    raise RuntimeError("and certainly not this")
                return await owning(actor_type, actor_id)

            monkeypatch.setattr(b.rig.actors, "owner", owner)
            failing.append("owner")
            await b.hub.raise_event("one", "go", "1")
            assert (await b.done("one")).output == "2"
            assert not failing

    run(test())


def test_an_instance_that_is_resumed_half_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what comes for a runner that has gone is refused: nobody would ever write it."""

    async def test() -> None:
        gate = asyncio.Event()

        async def held(value: int) -> int:
            await gate.wait()
            return value + 1

        async with bench({"chain": chain}, {"add": held}) as b:
            await b.hub.start(Start("chain", "one", input="1"))
            await until(lambda: bool(b.hub.engine.runners["one"].activities))
            old = b.hub.engine.runners["one"]
            await b.restart()
            with pytest.raises(Moved):
                await old.add(history.event_raised(1, "go", None))
            failed: list[str] = []
            dispatch = b.hub.engine.activities.dispatch

            async def surprising(runner: Any, event: Any) -> None:
                if not failed:
                    failed.append(runner.instance_id)
                    raise RuntimeError("nobody expects this")
                await dispatch(runner, event)

            monkeypatch.setattr(b.hub.engine.activities, "dispatch", surprising)
            gate.set()
            assert (await b.done("one")).output == "1"
            assert failed == ["one"]

    run(test())


def test_a_workflow_of_the_sidecar_is_answered_whatever_goes_wrong() -> None:
    """With a text that cannot be written, and with a failure that nobody expects: else its instance would wait."""

    def odd(text: str) -> Generator[Any, Any, str]:
        if text == "surprise":
            raise RuntimeError("nobody expects \ud800")
        outcome = yield builtin.Activity(INTERNAL + "half")
        return str(outcome.error)

    async def half(_: str) -> str:
        return "\ud800"

    async def test() -> None:
        async with bench({}, {}) as b:
            b.hub.register({INTERNAL + "odd": odd}, {INTERNAL + "half": half})
            b.hub.serve_builtin()
            await b.hub.start(Start(INTERNAL + "odd", "one", input="surprise"))
            done = await b.done("one")
            assert (done.status, done.failure and done.failure.errorMessage) == (Status.FAILED, "nobody expects ?")
            await b.hub.start(Start(INTERNAL + "odd", "two", input="x"))
            done = await b.done("two")
            assert done.status is Status.COMPLETED
            assert "surrogates not allowed" in str(done.output)

    run(test())
