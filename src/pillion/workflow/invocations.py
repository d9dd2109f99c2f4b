"""How a sidecar asks another one to run an activity: names, headers, payloads, and what the answer may say besides.

Knows: the method `Execute` of the actor type `activity` (spec `actors-workflows-jobs.md` 3.2), and the headers that are
ours. Never knows: who asks, what runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.wire.messages import taskhub as m
from pillion.wire.messages import wellknown
from pillion.workflow import history
from pillion.workflow.losses import Lost

if TYPE_CHECKING:
    from pillion.kinds.actors import ActorReply
    from pillion.workflow.history import Event

AWAIT = (b"pillion-activity", b"await")
"""The caller waits for the result."""
LOSSES = b"pillion-losses"
"""The caller counts what is lost; so much is."""
AGAIN = (b"pillion-again", b"true")
"""The caller asked before, and does not know what became of it."""
LOST = b"pillion-lost"
"""In the answer: `Lost`, in place of a result."""
EXECUTE = "Execute"
_BYTES = "google.protobuf.BytesValue"

Key = tuple[str, str, int]
"""One activity as it was scheduled: actor id, execution id, and when. The time tells it from one of an instance of the
same id that was purged: generations begin anew then, and workers may make the same execution ids again."""


class WasLost(Exception):
    """A worker, or a host, was lost with the activity."""

    def __init__(self, what: Lost) -> None:
        super().__init__(what)
        self.what = what


def activity_id(instance_id: str, task_id: int, generation: int) -> str:
    return f"{instance_id}::{task_id}::{generation}"


def key_of(actor_id: str, event: Event) -> Key:
    return actor_id, event.taskScheduled.taskExecutionId, history.nanoseconds(event.timestamp)


def lost_in(answer: ActorReply | BaseException) -> Lost | None:
    """What was lost, when that is the answer."""
    if isinstance(answer, BaseException):
        return answer.what if isinstance(answer, WasLost) else None
    for name, value in answer.headers:
        if name == LOST:
            return Lost.WORKER if value == Lost.WORKER.value.encode() else Lost.HOST
    return None


def request(event: Event, instance_id: str, execution_id: str | None, propagated: bytes | None) -> bytes:
    """The serialised `ActivityRequest` of a scheduled event."""
    body = event.taskScheduled
    asked = m.ActivityRequest(name=body.name, taskId=event.eventId, taskExecutionId=body.taskExecutionId)
    asked.workflowInstance.instanceId = instance_id
    if execution_id is not None:
        asked.workflowInstance.executionId.value = execution_id
    if body.HasField("version"):
        asked.version.value = body.version.value
    if body.HasField("input"):
        asked.input.value = body.input.value
    if body.HasField("parentTraceContext"):
        asked.parentTraceContext.CopyFrom(body.parentTraceContext)
    raw = asked.SerializeToString()
    return raw if propagated is None else raw + history.frame(0x42, propagated)


def unwrapped(payload: bytes) -> bytes | None:
    """The message inside of a reminder's payload: an `Any` of it, or of a `BytesValue` around it; None for nothing."""
    if not payload:
        return None
    held = wellknown.Any.FromString(payload)
    if held.type_url.endswith(_BYTES):
        return wellknown.BytesValue.FromString(held.value).value
    return held.value
