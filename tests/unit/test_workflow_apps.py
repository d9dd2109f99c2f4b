"""Two applications, policies between them, and what a reference sidecar on the other side does and expects."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pillion.kinds.actors import ActorCall, Tick
from pillion.observe.metrics import Registry
from pillion.observe.workflow_meters import WorkflowAccessMeter
from pillion.testing.workflow_rig import Rig
from pillion.testing.workflow_worker import ActivityFailed, Context
from pillion.wire.messages import backend, wellknown
from pillion.wire.messages import taskhub as m
from pillion.workflow import history
from pillion.workflow.faults import AccessDenied
from pillion.workflow.hub import Start
from pillion.workflow.instance import Instance, Mail
from pillion.workflow.policy import Policies, Rule, WorkflowRule
from pillion.workflow.rows import Step
from pillion.workflow.snapshot import Status
from workflow_support import Bench, bench, memory_store, run

if TYPE_CHECKING:
    from collections.abc import Generator

WORKFLOW = "dapr.internal.default.app.workflow"
ACTIVITY = "dapr.internal.default.app.activity"


def pair_of(caller_code: Any, rules: tuple[Rule, ...] | None = None, **activities: Any) -> tuple[Bench, Bench]:
    """Application `app`, which calls, and `other`, which has the policies."""
    here = Bench({"main": caller_code}, {}, rig=Rig(memory_store()))
    far = Bench(
        {"kid": kid, "tells": caller_code},
        activities or {"add": lambda n: n + 1},
        rig=Rig(memory_store(), app_id="other"),
    )
    if rules is not None:
        policies = Policies("other", "default", rules)
        engine = far.hub.engine
        engine.surroundings = replace(engine.surroundings, policies=lambda: policies)
    here.rig.actors.join(far.rig.actors)
    far.rig.actors.join(here.rig.actors)
    here.connect()
    far.connect()
    return here, far


def kid(ctx: Context, value: int) -> Generator[Any, Any, Any]:
    return (yield ctx.call_activity("add", value))


def calls(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
    results = []
    for what in ("activity", "child"):
        try:
            if what == "activity":
                results.append((yield ctx.call_activity("add", 1, app_id="other")))
            else:
                results.append((yield ctx.call_child("kid", 5, instance_id="far-kid", app_id="other")))
        except ActivityFailed as error:
            results.append(error.details.errorType)
    return results


def test_activities_and_children_of_another_application() -> None:
    async def test() -> None:
        here, far = pair_of(calls)
        await here.hub.start(Start("main", "m"))
        assert (await here.done("m")).output == "[2, 6]"
        assert (await far.hub.get("far-kid")).parent_app == "app"  # type: ignore[union-attr]
        assert await here.hub.purge("m") == 2
        assert await far.hub.get("far-kid") is None
        await here.kill()
        await far.kill()

    run(test())


def test_what_a_policy_denies_fails_in_the_workflow_that_asked() -> None:
    async def test() -> None:
        here, far = pair_of(calls, ())
        await here.hub.start(Start("main", "m"))
        denied = "WorkflowAccessPolicyDenied"
        assert (await here.done("m")).output == f'["{denied}", "{denied}"]'
        call = ActorCall(
            "dapr.internal.default.other.workflow", "x", "AddWorkflowEvent", headers=here.hub.engine.calls.caller(),
            body=history.event_raised(1, "e", None).SerializeToString(),
        )  # fmt: skip
        await far.hub.start(Start("kid", "x", input="1"))
        with pytest.raises(AccessDenied, match="access denied by workflow access policy"):
            await here.rig.actors.invoke(call)
        await here.kill()
        await far.kill()

    run(test())


def test_what_a_policy_allows_runs_and_its_results_come_back() -> None:
    async def test() -> None:
        rules = (Rule(frozenset({"app"}), (WorkflowRule("k*", frozenset({"schedule"})),), ("a*",)),)
        here, far = pair_of(calls, rules)
        await here.hub.start(Start("main", "m"))
        assert (await here.done("m")).output == "[2, 6]"
        await here.kill()
        await far.kill()

    run(test())


@pytest.mark.parametrize(
    ("caller", "namespace", "operation", "name", "allowed"),
    [
        ("own", "ns", "purge", "anything", True),
        ("own", "elsewhere", "purge", "anything", False),
        ("a", "ns", "schedule", "order-1", True),
        ("a", "ns", "terminate", "order-1", False),
        ("a", "ns", "schedule", "other", False),
        ("b", "ns", "schedule", "order-1", False),
        ("a", "", "get", "order-1", True),
    ],
)
def test_policies(caller: str, namespace: str, operation: str, name: str, allowed: bool) -> None:
    rules = (Rule(frozenset({"a"}), (WorkflowRule("order-*", frozenset({"schedule", "get"})),)),)
    assert Policies("own", "ns", rules).workflow(caller, namespace, operation, name) is allowed


def test_decisions_of_policies_are_counted() -> None:
    """`runtime.md` 6.1: by caller and operation, of workflows and of activities."""
    registry = Registry({"app_id": "own", "namespace": "ns"})
    rules = (Rule(frozenset({"a"}), (WorkflowRule("order-*", frozenset({"get"})),), ("pay",)),)
    policies = Policies("own", "ns", rules, WorkflowAccessMeter(registry).decided)
    policies.workflow("a", "ns", "get", "order-1")
    policies.workflow("b", "ns", "purge", "order-1")
    policies.activity("a", "ns", "pay")
    text = "\n".join(registry.text())
    for name, caller, operation, kind in (
        ("allowed", "a", "get", "workflow"),
        ("denied", "b", "purge", "workflow"),
        ("allowed", "a", "schedule", "activity"),
    ):
        labels = f'app_id="own",src_app_id="{caller}",operation="{operation}",type="{kind}"'
        assert f"dapr_runtime_workflow_acl_action_{name}_total{{{labels}}} 1" in text


def test_an_activity_that_a_reference_sidecar_sends_is_a_durable_reminder_and_its_result_an_event() -> None:
    def waits(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        return (yield ctx.call_activity("add", 1, app_id="nowhere"))

    async def test() -> None:
        async with bench({"waits": waits}, {"add": lambda n: n + 41}) as b:
            await b.hub.start(Start("waits", "w"))
            await b.hub.wait_start("w")
            event = next(event for event in await b.history("w") if event.HasField("taskScheduled"))
            event.router.Clear()
            event.router.sourceAppID = "app"
            asked = backend.ActivityInvocation(historyEvent=event).SerializeToString()
            await b.rig.actors.invoke(ActorCall(ACTIVITY, "w::0::1", "Execute", body=asked))
            [key] = [key for key in b.rig.jobs.jobs if key.name == "run-activity"]
            assert (key.actor_type, key.actor_id) == (ACTIVITY, "w::0::1")
            assert (await b.done("w")).output == "42"

    run(test())


def test_reminders_that_a_reference_sidecar_left_are_understood() -> None:
    """An instance created, and a result brought, by others: reading it sees to it, and it gets a job of its own."""

    async def test() -> None:
        async with bench({"kid": kid}, {"add": lambda n: n + 1}) as b:
            started = m.ExecutionStartedEvent(name="kid", input=wellknown.StringValue(value="1"))
            instance = Instance("i")
            await b.hub.engine.rows.save(instance, Step([Mail.of(history.execution_started(5, started))], 1))
            handler = b.rig.actors.types[WORKFLOW].handler
            await handler.tick(Tick(WORKFLOW, "nobody", "start-abc"))
            await handler.tick(Tick(WORKFLOW, "i", "start-abc"))
            assert (await b.done("i")).output == "2"
            held = wellknown.Any()
            held.Pack(history.task_failed(9, 0, "", "E", "late"))
            await handler.tick(Tick(WORKFLOW, "i", "activity-result-1", payload=held.SerializeToString()))
            await b.quiet()
            assert (await b.hub.get("i")).status is Status.COMPLETED  # type: ignore[union-attr]

    run(test())


def test_a_timer_reminder_of_an_older_generation_does_nothing() -> None:
    """Invariant 27."""

    def sleeps(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        yield ctx.sleep(9999)
        return "woken"

    async def test() -> None:
        async with bench({"sleeps": sleeps}) as b:
            await b.hub.start(Start("sleeps", "s"))
            await b.hub.wait_start("s")
            handler = b.rig.actors.types[WORKFLOW].handler

            created = next(one.timerCreated for one in await b.history("s") if one.HasField("timerCreated"))
            due_ns = history.nanoseconds(created.fireAt)

            async def fire(generation: int, fire_ns: int = due_ns) -> None:
                timer = backend.DurableTimer(timerEvent=history.timer_fired(1, 0, fire_ns), generation=generation)
                held = wellknown.Any()
                held.Pack(timer)
                await handler.tick(Tick(WORKFLOW, "s", "timer-0", payload=held.SerializeToString()))

            await fire(0)
            await fire(1, due_ns - 1)  # of an earlier use of the id
            await asyncio.sleep(0.01)
            assert (await b.hub.get("s")).status is Status.RUNNING  # type: ignore[union-attr]
            await fire(1)
            assert (await b.done("s")).output == '"woken"'

    run(test())


def test_a_far_timer_is_the_due_time_of_the_job() -> None:
    def sleeps(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        yield ctx.sleep(86400)

    async def test() -> None:
        async with bench({"sleeps": sleeps}) as b:
            await b.hub.start(Start("sleeps", "s"))
            await b.hub.wait_start("s")
            assert len(b.hub.engine.timers) == 0
            [key] = b.rig.jobs.jobs
            for _ in range(8):
                await b.rig.jobs.fire(key)
                assert key in b.rig.jobs.jobs, "it is put again before the old one ends"
            last = b.rig.jobs.jobs[key].due_time
            now = b.rig.clock.now()
            from datetime import datetime

            assert 3000 < datetime.fromisoformat(last.replace("Z", "+00:00")).timestamp() - now < 3700

    run(test())


def test_history_goes_along_with_activities_and_children_where_they_ask_for_it() -> None:
    seen: list[m.PropagatedHistory] = []

    def own(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        yield ctx.call_activity("look", 1)
        return (yield ctx.call_activity("look", 2, scope=m.HISTORY_PROPAGATION_SCOPE_OWN_HISTORY))

    async def test() -> None:
        b = Bench({"own": own}, {})
        stream = b.hub.attach()
        await b.hub.start(Start("own", "o"))
        for _ in range(5):
            item = m.WorkItem.FromString(await stream.next())
            if item.HasField("workflowRequest"):
                b.hub.complete_workflow(b.executor.turn(item.workflowRequest, item.completionToken))
            else:
                request = item.activityRequest
                if request.HasField("propagatedHistory"):
                    seen.append(request.propagatedHistory)
                b.hub.complete_activity(m.ActivityResponse(instanceId="o", taskId=request.taskId))
        await b.done("o")
        [propagated] = seen
        [chunk] = propagated.chunks
        assert (chunk.appId, chunk.instanceId, chunk.workflowName) == ("app", "o", "own")
        first = m.HistoryEvent.FromString(chunk.rawEvents[0])
        assert first.HasField("workflowStarted")
        await b.kill()

    run(test())


def test_a_trace_goes_through_a_workflow_its_activities_and_its_children() -> None:
    from pillion.observe.tracing import Span, Tracer

    spans: list[Span] = []

    def parent(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
        yield ctx.call_activity("add", 1)
        return (yield ctx.call_child("kid", 1, instance_id="kid"))

    async def test() -> None:
        async with bench({"parent": parent, "kid": kid}, {"add": lambda n: n + 1}) as b:
            engine = b.hub.engine
            tracer = Tracer("app", 1.0, spans.append)
            b.hub._surroundings = engine.surroundings = replace(engine.surroundings, tracer=tracer)
            trace = "0af7651916cd43dd8448eb211c80319c"
            await b.hub.start(Start("parent", "p", traceparent=f"00-{trace}-b7ad6b7169203331-01"))
            await b.done("p")
            assert {span.trace_id for span in spans} == {trace}
            by_name = {f"{span.name} {dict(span.attributes)['durabletask.task.instance_id']}": span for span in spans}
            whole = by_name["orchestration||parent p"]
            child = by_name["orchestration||kid kid"]
            assert whole.parent_id == "b7ad6b7169203331"
            assert by_name["activity||add p"].parent_id == whole.span_id
            assert child.parent_id == whole.span_id
            assert by_name["activity||add kid"].parent_id == child.span_id

    run(test())
