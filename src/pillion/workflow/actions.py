"""What a worker asks for, as events of the history: one function for each action that becomes one (spec
`actors-workflows-jobs.md` 3.5). Pure.

Knows: the fields of actions and of events. Never knows: turns, what follows from an event.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.workflow import history

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.wire.messages import taskhub as m
    from pillion.workflow.history import Event


def event_of(action: m.WorkflowAction, kind: str, instance_id: str, app_id: str, now_ns: int) -> Event | None:
    """The event of an action of this kind; None for one that leaves none of its own."""
    make = _MAKES.get(kind)
    if make is None:
        return None
    event = history.stamped(now_ns, action.id)
    _route(action, event, app_id)
    make(instance_id, action, event)
    return event


def _route(action: m.WorkflowAction, event: Event, app_id: str) -> None:
    """Say whence the event comes and where it goes; the action's own router counts before that of its body."""
    router = event.router
    router.sourceAppID = app_id
    if action.HasField("router"):
        given = action.router
    elif action.HasField("scheduleTask") and action.scheduleTask.HasField("router"):
        given = action.scheduleTask.router
    elif action.HasField("createChildWorkflow") and action.createChildWorkflow.HasField("router"):
        given = action.createChildWorkflow.router
    else:
        return
    if given.HasField("targetAppID"):
        router.targetAppID = given.targetAppID
    if given.HasField("targetAppNamespace"):
        router.targetAppNamespace = given.targetAppNamespace


def _task(instance_id: str, action: m.WorkflowAction, event: Event) -> None:
    body = action.scheduleTask
    made = event.taskScheduled
    made.name = body.name
    made.taskExecutionId = body.taskExecutionId
    if body.HasField("version"):
        made.version.value = body.version.value
    if body.HasField("input"):
        made.input.value = body.input.value
    if body.HasField("historyPropagationScope"):
        made.historyPropagationScope = body.historyPropagationScope


def _child(instance_id: str, action: m.WorkflowAction, event: Event) -> None:
    body = action.createChildWorkflow
    made = event.childWorkflowInstanceCreated
    made.instanceId = body.instanceId or f"{instance_id}:{action.id:04x}"
    made.name = body.name
    if body.HasField("version"):
        made.version.value = body.version.value
    if body.HasField("input"):
        made.input.value = body.input.value
    if body.HasField("historyPropagationScope"):
        made.historyPropagationScope = body.historyPropagationScope


def _timer(instance_id: str, action: m.WorkflowAction, event: Event) -> None:
    body = action.createTimer
    made = event.timerCreated
    made.fireAt.CopyFrom(body.fireAt)
    if body.HasField("name"):
        made.name = body.name
    origin = body.WhichOneof("origin")
    if origin is not None:
        getattr(made, origin).CopyFrom(getattr(body, origin))


def _sent(instance_id: str, action: m.WorkflowAction, event: Event) -> None:
    body = action.sendEvent
    made = event.eventSent
    made.instanceId = body.instance.instanceId
    made.name = body.name
    if body.HasField("data"):
        made.input.value = body.data.value


def _detached(instance_id: str, action: m.WorkflowAction, event: Event) -> None:
    event.detachedWorkflowInstanceCreated.instanceId = detached_id(instance_id, action)


def detached_id(instance_id: str, action: m.WorkflowAction) -> str:
    """The id of a workflow that `action` starts without waiting for it."""
    return action.createDetachedWorkflow.instanceId or f"{instance_id}:{action.id:04x}"


_MAKES: dict[str, Callable[[str, m.WorkflowAction, Event], None]] = {
    "scheduleTask": _task,
    "createChildWorkflow": _child,
    "createTimer": _timer,
    "sendEvent": _sent,
    "createDetachedWorkflow": _detached,
}
