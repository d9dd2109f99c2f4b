"""A turn: what a worker is asked, and what its answer means (spec `actors-workflows-jobs.md` 3.4 to 3.6). Pure.

`begin` takes events that came for a committed instance and makes a `Turn`; `apply` takes the worker's answer and makes
a `Decision`: what is to be written, in one transaction, and what follows once it is. Neither changes the instance. A
turn that continued as new yields another turn in its decision, at most `MOST_ROUNDS` times in a row.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.wire.messages import taskhub as m
from pillion.workflow import history
from pillion.workflow.actions import event_of
from pillion.workflow.facts import Facts
from pillion.workflow.history import Event, nanoseconds, timestamp
from pillion.workflow.instance import Mail
from pillion.workflow.question import Decision, Setting, Turn, pair
from pillion.workflow.snapshot import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillion.workflow.instance import Instance
    from pillion.workflow.question import Pair

MOST_ROUNDS = 20
"""So often a workflow may continue as new before its progress is saved (3.6.5)."""


def begin(instance: Instance, mail: Sequence[Mail], now_ns: int) -> Turn | None:
    """Make a turn of what came, in its order; None when none of it is news: then the inbox rows simply go.

    Nothing is news to a finished instance. Results without a scheduled event that waits for them, a second start and
    a raised event that was recorded before are dropped (3.6.4, 3.6.8).
    """
    facts = instance.facts
    if facts.completed is not None:
        return None
    fresh = [pair(history.turn_started(now_ns))]
    terminating = _accept(facts, mail, fresh)
    if len(fresh) == 1:
        return None
    return Turn(
        instance.instance_id, facts, instance.framed, instance.generation, fresh, instance.propagated,
        terminating=terminating,
    )  # fmt: skip


def _accept(facts: Facts, mail: Sequence[Mail], fresh: list[Pair]) -> Event | None:
    """Append what is news to `fresh`; return an event that terminates the instance, if there is one."""
    resolved: set[tuple[str, int]] = set()
    raised: set[tuple[str, int]] = set()
    started = facts.started is not None
    terminating = None
    for one in mail:
        event = one.event
        kind = event.WhichOneof("eventType") or ""
        resolution = _RESOLVES.get(kind)
        if resolution is not None:
            what, of, waiting = resolution
            key = what, of(event)
            if key in resolved or key[1] not in waiting(facts):
                continue
            resolved.add(key)
        elif kind == "executionStarted":
            if started:
                continue
            started = True
        elif kind == "eventRaised":
            mark = (event.eventRaised.name, nanoseconds(event.timestamp))
            if mark in raised or mark in facts.raised:
                continue
            raised.add(mark)
        elif kind == "executionTerminated":
            terminating = terminating or event
        elif kind not in _TOLD:
            continue
        fresh.append((event, one.raw))
    return terminating


_RESOLVES: dict[str, tuple[str, Callable[[Event], int], Callable[[Facts], dict[int, object]]]] = {
    "taskCompleted": ("task", lambda e: e.taskCompleted.taskScheduledId, lambda f: f.tasks),  # type: ignore[dict-item,return-value]
    "taskFailed": ("task", lambda e: e.taskFailed.taskScheduledId, lambda f: f.tasks),  # type: ignore[dict-item,return-value]
    "timerFired": ("timer", lambda e: e.timerFired.timerId, lambda f: f.timers),  # type: ignore[dict-item,return-value]
    "childWorkflowInstanceCompleted": (
        "child", lambda e: e.childWorkflowInstanceCompleted.taskScheduledId, lambda f: f.children,  # type: ignore[dict-item,return-value]
    ),
    "childWorkflowInstanceFailed": (
        "child", lambda e: e.childWorkflowInstanceFailed.taskScheduledId, lambda f: f.children,  # type: ignore[dict-item,return-value]
    ),
}  # fmt: skip
_TOLD = frozenset({"executionSuspended", "executionResumed"})


def force(turn: Turn, now_ns: int) -> Decision:
    """End a turn that terminates the instance without a worker: it never began, or cannot go on (it is stalled)."""
    told = turn.terminating
    if told is None:
        raise ValueError("nothing terminates this turn")
    return _close(turn, [*turn.fresh, pair(_forced(told, now_ns))], None)


def _forced(told: Event, now_ns: int) -> Event:
    body = told.executionTerminated
    output = body.input if body.HasField("input") else None
    return history.execution_completed(now_ns, -1, Status.TERMINATED, output, None)


def stall(turn: Turn, reason: int, description: str, now_ns: int) -> Decision:
    """Drop the turn's output and record why, once for each description (3.9). What came stays in the inbox."""
    known = turn.facts.stalled
    news = [] if known is not None and known.description == description else [
        pair(history.stalled(now_ns, reason, description))
    ]  # fmt: skip
    return Decision(turn.generation, news, keeps_inbox=True, stalled=True)


def apply(turn: Turn, answer: m.WorkflowResponse, setting: Setting, now_ns: int) -> Decision:
    """Make a decision of a worker's answer."""
    if (trouble := _trouble(turn, answer)) is not None:
        return _refuse(turn, *trouble, now_ns)
    fresh = _versioned(turn, answer)
    completed = False
    sends = list(turn.sends)
    for action in answer.actions:
        kind = action.WhichOneof("workflowActionType")
        if kind == "completeWorkflow":
            body = action.completeWorkflow
            if body.workflowStatus == Status.CONTINUED_AS_NEW:
                if completed or turn.terminating is not None:
                    continue
                return _continue(turn, answer, body, sends, setting, now_ns)
            if not completed:
                completed = True
                result = body.result if body.HasField("result") else None
                failure = body.failureDetails if body.HasField("failureDetails") else None
                status = body.workflowStatus
                if status not in _ENDS:
                    status = int(Status.COMPLETED)
                fresh.append(pair(history.execution_completed(now_ns, action.id, status, result, failure)))
            continue
        if kind is None:
            # Of a newer SDK. Passed over, the workflow would wait for ever for what was never begun.
            text = f"The worker asks in action {action.id} for what this sidecar does not know; a newer one may."
            return _refuse(turn, m.VERSION_NOT_AVAILABLE, text, now_ns)
        event = event_of(action, kind, turn.instance_id, setting.app_id, now_ns)
        if event is not None:
            fresh.append(pair(event))
        if kind in _SENDS:
            sends.append(action)
    if turn.terminating is not None and not completed:
        fresh.append(pair(_forced(turn.terminating, now_ns)))
    return _close(turn, fresh, answer, sends)


def _refuse(turn: Turn, reason: int, description: str, now_ns: int) -> Decision:
    """The worker's answer cannot be followed: stall, unless the instance is to end anyhow."""
    return force(turn, now_ns) if turn.terminating is not None else stall(turn, reason, description, now_ns)


_ENDS = frozenset({int(Status.COMPLETED), int(Status.FAILED), int(Status.CANCELED), int(Status.TERMINATED)})
_SENDS = frozenset({"sendEvent", "terminateWorkflow", "createDetachedWorkflow"})


def _close(
    turn: Turn, fresh: list[Pair], answer: m.WorkflowResponse | None, sends: list[m.WorkflowAction] | None = None
) -> Decision:
    ended = next((event for event, _ in reversed(fresh) if event.HasField("executionCompleted")), None)
    status = answer.customStatus.SerializeToString() if answer is not None and answer.HasField("customStatus") else None
    return Decision(
        turn.generation, fresh, reset=turn.reset, custom_status=status, writes_status=answer is not None,
        sends=turn.sends if sends is None else sends,
        terminal=None if ended is None else Status(ended.executionCompleted.workflowStatus),
    )  # fmt: skip


def _trouble(turn: Turn, answer: m.WorkflowResponse) -> tuple[int, str] | None:
    """Return reason and description when the worker cannot go on with this history (3.9 versioning)."""
    for action in answer.actions:
        if action.HasField("workflowVersionNotAvailable"):
            return m.VERSION_NOT_AVAILABLE, "Version not available"
    patches = turn.facts.patches
    if patches and (answer.HasField("version") or answer.actions):
        current = list(answer.version.patches)
        if current[: len(patches)] != patches:
            said = f"History patches: [{', '.join(patches)}], current patches: [{', '.join(current)}]. "
            return m.PATCH_MISMATCH, f"Patch mismatch. {said}"
    return None


def _versioned(turn: Turn, answer: m.WorkflowResponse) -> list[Pair]:
    """The new events; the worker's version goes into the first, with those patches that are not in the past."""
    fresh = list(turn.fresh)
    if answer.HasField("version"):
        version = answer.version
        patches = list(version.patches)[len(turn.facts.patches) :]
        if patches or version.HasField("name"):
            marked = Event()
            marked.CopyFrom(fresh[0][0])
            marked.workflowStarted.version.patches.extend(patches)
            if version.HasField("name"):
                marked.workflowStarted.version.name = version.name
            fresh[0] = pair(marked)
    return fresh


def _continue(
    turn: Turn,
    answer: m.WorkflowResponse,
    body: m.CompleteWorkflowAction,
    sends: list[m.WorkflowAction],
    setting: Setting,
    now_ns: int,
) -> Decision:
    """Begin anew with a new input: the past goes, what the worker carries over comes with it (3.5)."""
    before = turn.started
    started = m.ExecutionStartedEvent()
    if before is not None:
        started.CopyFrom(before.executionStarted)
    started.ClearField("input")
    if body.HasField("result"):
        started.input.value = body.result.value
    if body.HasField("newVersion"):
        started.version.value = body.newVersion.value
    started.ClearField("scheduledStartTimestamp")
    started.ClearField("parentTraceContext")
    started.workflowInstance.instanceId = turn.instance_id
    started.workflowInstance.executionId.value = setting.new_id()
    start = history.execution_started(now_ns, started, before.router if before and before.HasField("router") else None)
    generation = turn.generation + 1
    carried = _carried(body, now_ns)
    if turn.rounds + 1 > MOST_ROUNDS:
        status = answer.customStatus.SerializeToString() if answer.HasField("customStatus") else None
        return Decision(
            generation, [], reset=True, custom_status=status, writes_status=True, carried=[Mail.of(start), *carried],
            sends=sends,
        )  # fmt: skip
    fresh = [pair(history.turn_started(now_ns))]
    terminating = _accept(Facts(), [Mail.of(start), *carried], fresh)
    following = Turn(
        turn.instance_id, Facts(), b"", generation, fresh, turn.propagated, reset=True, rounds=turn.rounds + 1,
        sends=sends, terminating=terminating,
    )  # fmt: skip
    return Decision(generation, again=following)


def _carried(body: m.CompleteWorkflowAction, now_ns: int) -> list[Mail]:
    """Events that the worker did not use. Workers make them anew, often without a time: each is given one of its own,
    so that none is taken for another one.
    """
    found: list[Mail] = []
    marks: set[tuple[str, int]] = set()
    for number, event in enumerate(body.carryoverEvents):
        if event.HasField("eventRaised"):
            mark = (event.eventRaised.name, nanoseconds(event.timestamp))
            if mark[1] == 0 or mark in marks:
                event.timestamp.CopyFrom(timestamp(now_ns + number))
            else:
                marks.add(mark)
        found.append(Mail.of(event))
    return found
