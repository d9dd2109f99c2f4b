"""What an instance still has to tell others, as one row: events sent, terminations, workflows started on their own.

The row is written in the transaction of the turn that decided it and deleted when all of it has arrived, so nothing is
lost with a crash; what arrives twice is recognised by its time (events) or its execution id (starts). Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.wire.messages import taskhub as m
from pillion.workflow import history
from pillion.workflow.actions import detached_id
from pillion.workflow.history import PAST, Event, frame, split

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True, slots=True)
class Send:
    """One action and the time, in nanoseconds, that names it for good."""

    at_ns: int
    action: m.WorkflowAction

    @property
    def key(self) -> str:
        return f"send-{self.at_ns}"


def numbered(actions: Sequence[m.WorkflowAction], now_ns: int) -> list[Send]:
    return [Send(now_ns + number, action) for number, action in enumerate(actions)]


def pack(sends: Sequence[Send]) -> bytes:
    return b"".join(
        [frame(PAST, one.at_ns.to_bytes(8, "big") + one.action.SerializeToString()) for one in sends]
    )  # fmt: skip


def unpack(row: bytes) -> list[Send]:
    return [Send(int.from_bytes(raw[:8], "big"), m.WorkflowAction.FromString(raw[8:])) for raw in split(row)]


def target(send: Send) -> str:
    """The application that it goes to, "" for this one."""
    action = send.action
    if action.HasField("router") and action.router.HasField("targetAppID"):
        return action.router.targetAppID
    if action.HasField("createDetachedWorkflow") and action.createDetachedWorkflow.HasField("router"):
        return action.createDetachedWorkflow.router.targetAppID
    return ""


def event_of(send: Send, instance_id: str, app_id: str) -> tuple[str, Event]:
    """Return the instance that it is for and the event that tells it; a start event creates the instance."""
    action, now_ns = send.action, send.at_ns
    if action.HasField("sendEvent"):
        sent = action.sendEvent
        data = sent.data.value if sent.HasField("data") else None
        return sent.instance.instanceId, history.event_raised(now_ns, sent.name, data)
    if action.HasField("terminateWorkflow"):
        told = action.terminateWorkflow
        reason = told.reason.value if told.HasField("reason") else None
        return told.instanceId, history.terminated(now_ns, reason, recursive=told.recurse)
    body = action.createDetachedWorkflow
    started = m.ExecutionStartedEvent(name=body.name, tags=dict(body.tags))
    if body.HasField("version"):
        started.version.value = body.version.value
    if body.HasField("input"):
        started.input.value = body.input.value
    if body.HasField("scheduledStartTimestamp"):
        started.scheduledStartTimestamp.CopyFrom(body.scheduledStartTimestamp)
    if body.HasField("parentTraceContext"):
        started.parentTraceContext.CopyFrom(body.parentTraceContext)
    new_id = detached_id(instance_id, action)
    started.workflowInstance.instanceId = new_id
    given = body.executionId.value if body.HasField("executionId") else f"{instance_id}:{now_ns}"
    started.workflowInstance.executionId.value = given
    return new_id, history.execution_started(now_ns, started, m.TaskRouter(sourceAppID=app_id))
