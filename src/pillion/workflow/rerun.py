"""A finished workflow run again from one of its events (spec `actors-workflows-jobs.md` 3.9). Pure.

`fork` cuts the history before the event; what was not finished there, and the event itself, go into an inbox from which
`adopt` dispatches them anew. Both sides exchange a `BackendWorkflowState`, as the reference's do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.wire.messages import backend
from pillion.wire.messages import taskhub as m
from pillion.workflow import history
from pillion.workflow.faults import RerunMissing, RerunRefused
from pillion.workflow.history import Event
from pillion.workflow.snapshot import TERMINAL

if TYPE_CHECKING:
    from pillion.workflow.instance import Instance
    from pillion.workflow.question import Pair

_SCHEDULED = frozenset({"taskScheduled", "timerCreated", "childWorkflowInstanceCreated"})


def fork(source: Instance, order: m.RerunWorkflowFromEventRequest, new_id: str) -> backend.BackendWorkflowState:
    """Return the state of the new instance. Raises `RerunRefused`, `RerunMissing`."""
    source_id = source.instance_id
    facts = source.facts
    if source.status not in TERMINAL or facts.started is None:
        raise RerunRefused(f"'{source_id}' is not in a terminal state")
    if facts.started.executionStarted.HasField("parentInstance"):
        raise RerunRefused(f"'{source_id}': cannot rerun from child-workflows")
    made = backend.BackendWorkflowState(generation=1)
    if source.custom_status:
        made.customStatus.MergeFromString(source.custom_status)
    open_: dict[tuple[str, int], Event] = {}
    kept: list[Event] = []
    for raw in source.rows():
        event = Event.FromString(raw)
        kind = event.WhichOneof("eventType") or ""
        if event.eventId == order.eventID and event.eventId >= 0 and kind in _SCHEDULED:
            _retarget(event, kind, order, source_id, new_id)
            made.inbox.extend(
                [*(_marked(one, source_id, new_id) for one in open_.values()), event]
            )  # fmt: skip
            break
        if kind in _SCHEDULED:
            open_[kind, event.eventId] = event
        elif (found := _resolved(event, kind)) is not None:
            scheduled = open_.pop(found, None)
            if scheduled is not None:
                # A child that finished stays with the source: the history tells of it, nobody owns it anew.
                kept.append(scheduled)
        if kind not in _SCHEDULED:
            kept.append(event)
    else:
        raise RerunMissing(f"'{source_id}' does not have history event with ID '{order.eventID}'")
    for event in kept:
        if event.HasField("executionStarted"):
            event.executionStarted.workflowInstance.instanceId = new_id
            event.executionStarted.workflowInstance.ClearField("executionId")
    made.history.extend(kept)
    return made


def _resolved(event: Event, kind: str) -> tuple[str, int] | None:
    """The scheduled event that this one resolves."""
    match kind:
        case "taskCompleted":
            return "taskScheduled", event.taskCompleted.taskScheduledId
        case "taskFailed":
            return "taskScheduled", event.taskFailed.taskScheduledId
        case "timerFired":
            return "timerCreated", event.timerFired.timerId
        case "childWorkflowInstanceCompleted":
            return "childWorkflowInstanceCreated", event.childWorkflowInstanceCompleted.taskScheduledId
        case "childWorkflowInstanceFailed":
            return "childWorkflowInstanceCreated", event.childWorkflowInstanceFailed.taskScheduledId
        case _:
            return None


def _retarget(event: Event, kind: str, order: m.RerunWorkflowFromEventRequest, source_id: str, new_id: str) -> None:
    """Give the target event its new input and its new ids."""
    if kind == "timerCreated":
        if order.overwriteInput:
            raise RerunRefused(f"cannot write input to timer event '{order.eventID}'")
        if order.HasField("newChildWorkflowInstanceID"):
            raise RerunRefused("a new child workflow id is for child workflow events only")
    else:
        body = event.taskScheduled if kind == "taskScheduled" else event.childWorkflowInstanceCreated
        if order.overwriteInput:
            body.ClearField("input")
            if order.HasField("input"):
                body.input.value = order.input.value
        if kind == "taskScheduled" and order.HasField("newChildWorkflowInstanceID"):
            raise RerunRefused("a new child workflow id is for child workflow events only")
    _marked(event, source_id, new_id)
    if kind == "childWorkflowInstanceCreated" and order.HasField("newChildWorkflowInstanceID"):
        event.childWorkflowInstanceCreated.instanceId = order.newChildWorkflowInstanceID


def _marked(event: Event, source_id: str, new_id: str) -> Event:
    """An event that is dispatched anew says whom it was taken from; a child gets an id under its new parent."""
    kind = event.WhichOneof("eventType")
    if kind is not None:
        getattr(event, kind).rerunParentInstanceInfo.instanceID = source_id
    if kind == "childWorkflowInstanceCreated":
        event.childWorkflowInstanceCreated.instanceId = f"{new_id}:{event.eventId:04x}"
    return event


def adopt(state: backend.BackendWorkflowState, now_ns: int, execution_id: str) -> tuple[list[Pair], bytes | None]:
    """Return the history of the new instance, its unfinished part stamped with the present, and its custom status.

    `execution_id` is that of the new instance, unless the state brings one.

    Raises `RerunRefused` for what no fork makes.
    """
    if not state.inbox:
        raise RerunRefused("expect rerun workflow inbox to not be empty")
    events: list[Event] = list(state.history)
    for event in events:
        if event.HasField("executionStarted"):
            started = event.executionStarted.workflowInstance
            if not started.HasField("executionId"):
                started.executionId.value = execution_id
    for event in state.inbox:
        if event.WhichOneof("eventType") not in _SCHEDULED:
            raise RerunRefused(f"unexpected event type '{event.WhichOneof('eventType')}' in inbox")
        event.timestamp.CopyFrom(history.timestamp(now_ns))
        events.append(event)
    status = state.customStatus.SerializeToString() if state.HasField("customStatus") else None
    return [(event, event.SerializeToString()) for event in events], status
