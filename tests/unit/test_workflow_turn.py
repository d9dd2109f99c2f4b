"""The pure centre: turns, what they accept and what they decide; facts against a history loaded again."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pillion.wire.messages import taskhub as m
from pillion.wire.messages import wellknown
from pillion.workflow import history
from pillion.workflow import turn as turns
from pillion.workflow.family import told_to_parent
from pillion.workflow.history import Event
from pillion.workflow.instance import Instance, Mail
from pillion.workflow.question import Decision, Setting
from pillion.workflow.snapshot import Status

SETTING = Setting("app", lambda: "new-id")
COMPLETED = m.ORCHESTRATION_STATUS_COMPLETED


def begun(*actions: m.WorkflowAction) -> Instance:
    """An instance after its first turn."""
    instance = Instance("i")
    started = history.execution_started(1, m.ExecutionStartedEvent(name="w"))
    decide(instance, [started], *actions)
    return instance


def decide(
    instance: Instance, events: list[Event], *actions: m.WorkflowAction, patches: list[str] | None = None
) -> Decision | None:
    """One turn, committed."""
    turn = turns.begin(instance, [Mail.of(event) for event in events], 100)
    if turn is None:
        return None
    answer = m.WorkflowResponse(actions=actions)
    if patches is not None:
        answer.version.patches.extend(patches)
    decision = turns.apply(turn, answer, SETTING, 200)
    while decision.again is not None:
        decision = turns.apply(decision.again, m.WorkflowResponse(), SETTING, 200)
    if decision.reset:
        instance.forget()
    instance.generation = decision.generation
    instance.extend(decision.events)
    return decision


def task(number: int) -> m.WorkflowAction:
    return m.WorkflowAction(id=number, scheduleTask=m.ScheduleTaskAction(name="a"))


def timer(number: int, fire_ns: int, event: str = "") -> m.WorkflowAction:
    body = m.CreateTimerAction(fireAt=history.timestamp(fire_ns))
    if event:
        body.externalEvent.name = event
    return m.WorkflowAction(id=number, createTimer=body)


def complete(status: int = COMPLETED, result: str | None = None, **more: Any) -> m.WorkflowAction:
    body = m.CompleteWorkflowAction(workflowStatus=status, result=history.text(result), **more)
    return m.WorkflowAction(id=-1, completeWorkflow=body)


def done(number: int) -> Event:
    return history.task_result(50, m.ActivityResponse(taskId=number), "")


def status_of(instance: Instance) -> Status:
    return instance.status


def kinds(decision: Decision | None) -> list[str]:
    assert decision is not None
    return [event.WhichOneof("eventType") or "" for event, _ in decision.events]


def test_a_result_is_taken_once_and_only_for_what_waits() -> None:
    """Invariant 22."""
    instance = begun(task(0), task(1))
    assert kinds(decide(instance, [done(0), done(0), done(7)])) == ["workflowStarted", "taskCompleted"]
    assert decide(instance, [done(0)]) is None
    failed = history.task_failed(1, 1, "", "E", "m")
    assert kinds(decide(instance, [failed, done(1)])) == ["workflowStarted", "taskFailed"]


def test_a_second_start_and_what_comes_after_the_end_are_dropped() -> None:
    instance = begun()
    assert decide(instance, [history.execution_started(2, m.ExecutionStartedEvent(name="w"))]) is None
    decide(instance, [history.event_raised(3, "e", None)], complete())
    assert decide(instance, [history.terminated(4, None, recursive=True)]) is None


def test_the_first_completion_wins() -> None:
    instance = begun()
    decision = decide(
        instance, [history.event_raised(3, "e", None)], complete(result="1"), complete(m.ORCHESTRATION_STATUS_FAILED)
    )
    assert kinds(decision) == ["workflowStarted", "eventRaised", "executionCompleted"]
    assert (instance.status, instance.snapshot().output) == (Status.COMPLETED, "1")


def test_a_termination_wins_unless_the_worker_completed_in_the_same_turn() -> None:
    """Invariant 25; continuing as new does not win."""
    told = history.terminated(4, '"out"', recursive=False)
    for actions, status, output in (
        ((), Status.TERMINATED, '"out"'),
        ((task(0),), Status.TERMINATED, '"out"'),
        ((complete(result="1"),), Status.COMPLETED, "1"),
        ((complete(m.ORCHESTRATION_STATUS_CONTINUED_AS_NEW),), Status.TERMINATED, '"out"'),
    ):
        instance = begun()
        decide(instance, [told], *actions)
        assert (instance.status, instance.snapshot().output) == (status, output)


def test_suspending_and_resuming_show_in_the_status() -> None:
    instance = begun()
    decide(instance, [history.suspended(2, "r")])
    assert status_of(instance) is Status.SUSPENDED
    decide(instance, [history.resumed(3, None)])
    assert status_of(instance) is Status.RUNNING


def test_an_event_satisfies_the_oldest_wait_for_it() -> None:
    instance = begun(timer(0, 10**18, "Go"), timer(1, 10**18, "go"), timer(2, 10**18, "other"), timer(3, 10**18))
    decide(instance, [history.event_raised(3, "GO", None)])
    assert list(instance.facts.timers) == [1, 2, 3]
    assert decide(instance, [history.timer_fired(9, 0, 10**18)]) is None


def test_a_stall_drops_the_turn_and_is_written_once_for_each_reason() -> None:
    instance = begun()
    nowhere = m.WorkflowAction(id=0, workflowVersionNotAvailable=m.WorkflowVersionNotAvailableAction())
    raised = [history.event_raised(3, "e", None)]
    first = decide(instance, raised, nowhere, task(1))
    assert first is not None
    assert (kinds(first), first.keeps_inbox, first.stalled) == (["executionStalled"], True, True)
    assert status_of(instance) is Status.STALLED
    again = decide(instance, raised, nowhere)
    assert again is not None
    assert (kinds(again), again.stalled) == ([], True)
    assert decide(instance, raised, task(1)) is not None
    assert status_of(instance) is Status.RUNNING


def test_patches_that_do_not_continue_the_history_stall() -> None:
    instance = Instance("i")
    decide(instance, [history.execution_started(1, m.ExecutionStartedEvent(name="w"))], patches=["a", "b"])
    assert instance.facts.patches == ["a", "b"]
    raised = history.event_raised(3, "e", None)
    decision = decide(instance, [raised], task(0), patches=["b", "a"])
    assert decision is not None
    assert decision.stalled
    stalled = instance.facts.stalled
    assert stalled is not None
    assert stalled.reason == m.PATCH_MISMATCH
    assert stalled.description == "Patch mismatch. History patches: [a, b], current patches: [b, a]. "
    decide(instance, [raised], task(0), patches=["a", "b", "c"])
    assert (instance.facts.patches, instance.status) == (["a", "b", "c"], Status.RUNNING)


def test_continuing_as_new_begins_another_history() -> None:
    instance = begun(task(0))
    kept = history.event_raised(0, "n", '"x"')
    kept.ClearField("timestamp")
    decision = decide(
        instance, [done(0)],
        complete(m.ORCHESTRATION_STATUS_CONTINUED_AS_NEW, "2", carryoverEvents=[kept, kept]),
    )  # fmt: skip
    assert kinds(decision) == ["workflowStarted", "executionStarted", "eventRaised", "eventRaised"]
    snapshot = instance.snapshot()
    assert (instance.generation, snapshot.input, snapshot.execution_id, snapshot.name) == (2, "2", "new-id", "w")
    assert instance.facts.tasks == {}


def test_children_get_ids_below_their_parent() -> None:
    body = m.CreateChildWorkflowAction(name="kid")
    instance = begun(m.WorkflowAction(id=26, createChildWorkflow=body))
    [child] = instance.facts.descendants
    assert (child.instance_id, child.task_id, child.app_id) == ("i:001a", 26, "")


def test_a_request_is_what_the_message_would_be() -> None:
    instance = begun(task(0))
    instance.propagated = m.PropagatedHistory(scope=1).SerializeToString()
    turn = turns.begin(instance, [Mail.of(done(0))], 300)
    assert turn is not None
    request = m.WorkflowRequest.FromString(turn.request())
    assert (request.instanceId, request.propagatedHistory.scope) == ("i", 1)
    assert [event.SerializeToString() for event in request.pastEvents] == list(instance.rows())
    assert [event.WhichOneof("eventType") for event in request.newEvents] == ["workflowStarted", "taskCompleted"]
    count = 2
    size = len(history.frames(history.PAST, list(instance.rows())[:count]))
    delta = m.WorkflowRequest.FromString(turn.request((count, size)))
    assert delta.cachedHistory.eventCount == count
    assert [event.WhichOneof("eventType") for event in delta.pastEvents] == ["taskScheduled"]


def test_a_child_tells_its_parent_how_it_ended() -> None:
    parent = m.ParentInstanceInfo(taskScheduledId=3, workflowInstance=m.WorkflowInstance(instanceId="p"))
    for status, kind in ((COMPLETED, "childWorkflowInstanceCompleted"),
                         (m.ORCHESTRATION_STATUS_TERMINATED, "childWorkflowInstanceFailed")):  # fmt: skip
        instance = Instance("i")
        started = m.ExecutionStartedEvent(name="w", parentInstance=parent)
        decide(instance, [history.execution_started(1, started)], complete(status, "1"))
        told = told_to_parent(instance, 5)
        assert told.WhichOneof("eventType") == kind
        assert getattr(told, kind).taskScheduledId == 3


STEP = st.one_of(
    st.tuples(st.just("done"), st.integers(0, 6)),
    st.tuples(st.just("failed"), st.integers(0, 6)),
    st.tuples(st.just("fired"), st.integers(0, 6)),
    st.tuples(st.just("raised"), st.integers(0, 3)),
    st.tuples(st.just("suspend"), st.just(0)),
    st.tuples(st.just("resume"), st.just(0)),
    st.tuples(st.just("terminate"), st.just(0)),
)
ACTION = st.one_of(
    st.tuples(st.just("task"), st.just(0)),
    st.tuples(st.just("timer"), st.just(0)),
    st.tuples(st.just("complete"), st.just(0)),
    st.tuples(st.just("again"), st.just(0)),
)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.lists(STEP, max_size=5), st.lists(ACTION, max_size=3)), max_size=8))
def test_whatever_comes_a_history_stays_whole(script: list[tuple[list[Any], list[Any]]]) -> None:
    """Invariants 18, 22, 25: one resolution for each scheduled id, in its order; nothing after the end; the view that
    grew with the history is the view of the history read anew.
    """
    instance = begun(task(0))
    count = 1
    ended = False
    for steps, acts in script:
        events = []
        for what, number in steps:
            match what:
                case "done":
                    events.append(done(number))
                case "failed":
                    events.append(history.task_failed(1, number, "", "E", "m"))
                case "fired":
                    events.append(history.timer_fired(1, number, 5))
                case "raised":
                    events.append(history.event_raised(1000 + number, "e", None))
                case "suspend":
                    events.append(history.suspended(1, None))
                case "resume":
                    events.append(history.resumed(1, None))
                case _:
                    events.append(history.terminated(1, None, recursive=False))
        actions = []
        for what, _ in acts:
            if what == "task":
                actions.append(task(count))
            elif what == "timer":
                actions.append(timer(count, 10**18))
            elif what == "complete":
                actions.append(complete())
            else:
                actions.append(complete(m.ORCHESTRATION_STATUS_CONTINUED_AS_NEW))
            count += 1
        decision = decide(instance, events, *actions)
        assert not (ended and decision is not None)
        ended = ended or instance.facts.completed is not None
        _check(instance)


def _check(instance: Instance) -> None:
    events = [Event.FromString(raw) for raw in instance.rows()]
    scheduled: set[int] = set()
    resolved: set[int] = set()
    for number, event in enumerate(events):
        kind = event.WhichOneof("eventType") or ""
        if kind in ("taskScheduled", "timerCreated"):
            scheduled.add(event.eventId)
        elif kind in ("taskCompleted", "taskFailed", "timerFired"):
            body = getattr(event, kind)
            target = body.timerId if kind == "timerFired" else body.taskScheduledId
            assert target in scheduled
            assert target not in resolved
            resolved.add(target)
        if kind == "executionCompleted":
            rest = [one.WhichOneof("eventType") for one in events[number + 1 :]]
            assert "executionCompleted" not in rest
            assert "workflowStarted" not in rest
    again = Instance("i", generation=instance.generation)
    again.load(list(instance.rows()))
    assert repr(again.facts) == repr(instance.facts)
    assert again.framed == instance.framed
    assert set(again.facts.tasks) == {n for n in scheduled if n not in resolved and n in instance.facts.tasks}


@given(st.lists(st.binary(max_size=400), max_size=20))
def test_frames_are_taken_apart_as_they_were_put_together(raws: list[bytes]) -> None:
    assert list(history.split(history.frames(history.PAST, raws))) == raws


def test_absent_and_empty_texts_differ() -> None:
    answer = m.ActivityResponse(taskId=1, result=wellknown.StringValue(value=""))
    assert history.task_result(1, answer, "").taskCompleted.HasField("result")
    assert not done(1).taskCompleted.HasField("result")
