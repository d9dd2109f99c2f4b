"""Events of a history: made, framed for the wire, taken apart. Bytes and messages in, bytes and messages out.

A history is kept as the bytes in which a worker receives it: one frame (tag, length, event) after the other, so that a
request is a join of bytes and no event is encoded twice. Never knows: instances, stores, clocks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pillion.wire.messages import taskhub as m
from pillion.wire.messages import wellknown

if TYPE_CHECKING:
    from collections.abc import Iterator

NANOS = 1_000_000_000
PAST = 0x1A
"""`WorkflowRequest.pastEvents`, field 3, length-delimited: the tag before each event of a kept history."""
NEW = 0x22
"""`WorkflowRequest.newEvents`, field 4."""
FAR_NS = 253_402_214_400 * NANOS
"""9999-12-31: timers of waits without an end are set to that day (3.9), and are not armed."""

Timestamp = wellknown.Timestamp
StringValue = wellknown.StringValue
Event = m.HistoryEvent


def timestamp(ns: int) -> wellknown.Timestamp:
    return Timestamp(seconds=ns // NANOS, nanos=ns % NANOS)


def nanoseconds(stamp: wellknown.Timestamp) -> int:
    return stamp.seconds * NANOS + stamp.nanos


def text(value: str | None) -> wellknown.StringValue | None:
    """A text that may be absent, as the wire has it."""
    return None if value is None else StringValue(value=value)


def absent_or(message: Any, name: str) -> str | None:
    """Read a `StringValue` field of `message`: None when it is absent."""
    return getattr(message, name).value if message.HasField(name) else None


def varint(number: int) -> bytes:
    if number < 0x80:
        return bytes((number,))
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    parts.append(number)
    return bytes(parts)


def read_varint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at `at`, and where what follows it begins. Raises `ValueError`, `IndexError`."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise ValueError("a number of more than ten bytes")


def frame(tag: int, raw: bytes) -> bytes:
    """One length-delimited field; `tag` is below 0x80."""
    size = len(raw)
    if size < 0x80:
        return bytes((tag, size)) + raw
    return bytes((tag,)) + varint(size) + raw


def frames(tag: int, raws: list[bytes]) -> bytes:
    return b"".join([frame(tag, raw) for raw in raws])


def split(framed: bytes | bytearray | memoryview) -> Iterator[bytes]:
    """Take a framed history apart again: each event's own bytes."""
    view = memoryview(framed)
    at, end = 0, len(view)
    while at < end:
        at += 1
        size = shift = 0
        while True:
            byte = view[at]
            at += 1
            size |= (byte & 0x7F) << shift
            if byte < 0x80:
                break
            shift += 7
        yield bytes(view[at : at + size])
        at += size


# --- events of the sidecar's own making; all others come out of actions, in `turn.py` --------------------------------


def stamped(now_ns: int, event_id: int = -1) -> Event:
    """An event of no kind yet; setting fields is twice as fast as passing messages to the constructor."""
    event = Event(eventId=event_id)
    stamp = event.timestamp
    stamp.seconds = now_ns // NANOS
    stamp.nanos = now_ns % NANOS
    return event


def turn_started(now_ns: int) -> Event:
    event = stamped(now_ns)
    event.workflowStarted.SetInParent()
    return event


def execution_started(
    now_ns: int,
    started: m.ExecutionStartedEvent,
    router: m.TaskRouter | None = None,
) -> Event:
    return Event(eventId=-1, timestamp=timestamp(now_ns), executionStarted=started, router=router)


def execution_completed(
    now_ns: int, event_id: int, status: int, result: wellknown.StringValue | None, failure: m.TaskFailureDetails | None
) -> Event:
    done = m.ExecutionCompletedEvent(workflowStatus=status, result=result, failureDetails=failure)
    return Event(eventId=event_id, timestamp=timestamp(now_ns), executionCompleted=done)


def stalled(now_ns: int, reason: int, description: str) -> Event:
    why = m.ExecutionStalledEvent(reason=reason, description=description)
    return Event(eventId=-1, timestamp=timestamp(now_ns), executionStalled=why)


def timer_fired(now_ns: int, timer_id: int, fire_ns: int) -> Event:
    fired = m.TimerFiredEvent(fireAt=timestamp(fire_ns), timerId=timer_id)
    return Event(eventId=-1, timestamp=timestamp(now_ns), timerFired=fired)


def event_raised(now_ns: int, name: str, input: str | None) -> Event:
    return Event(eventId=-1, timestamp=timestamp(now_ns), eventRaised=m.EventRaisedEvent(name=name, input=text(input)))


def suspended(now_ns: int, reason: str | None) -> Event:
    return Event(
        eventId=-1, timestamp=timestamp(now_ns), executionSuspended=m.ExecutionSuspendedEvent(input=text(reason))
    )


def resumed(now_ns: int, reason: str | None) -> Event:
    return Event(eventId=-1, timestamp=timestamp(now_ns), executionResumed=m.ExecutionResumedEvent(input=text(reason)))


def terminated(now_ns: int, output: str | None, *, recursive: bool) -> Event:
    told = m.ExecutionTerminatedEvent(input=text(output), recurse=recursive)
    return Event(eventId=-1, timestamp=timestamp(now_ns), executionTerminated=told)


def task_result(now_ns: int, answer: m.ActivityResponse, execution_id: str) -> Event:
    """What a worker said of an activity, as an event of the workflow's history."""
    event = stamped(now_ns)
    if answer.HasField("failureDetails"):
        failed = event.taskFailed
        failed.taskScheduledId = answer.taskId
        failed.taskExecutionId = execution_id
        failed.failureDetails.CopyFrom(answer.failureDetails)
        return event
    done = event.taskCompleted
    done.taskScheduledId = answer.taskId
    done.taskExecutionId = execution_id
    if answer.HasField("result"):
        done.result.value = answer.result.value
    return event


def task_failed(now_ns: int, task_id: int, execution_id: str, kind: str, message: str, *, final: bool = True) -> Event:
    """An activity that failed before any worker saw it. `final`: trying again is of no use."""
    details = m.TaskFailureDetails(errorType=kind, errorMessage=message, isNonRetriable=final)
    failed = m.TaskFailedEvent(taskScheduledId=task_id, failureDetails=details, taskExecutionId=execution_id)
    return Event(eventId=-1, timestamp=timestamp(now_ns), taskFailed=failed)


def child_failed(now_ns: int, task_id: int, kind: str, message: str, *, final: bool = True) -> Event:
    details = m.TaskFailureDetails(errorType=kind, errorMessage=message, isNonRetriable=final)
    failed = m.ChildWorkflowInstanceFailedEvent(taskScheduledId=task_id, failureDetails=details)
    return Event(eventId=-1, timestamp=timestamp(now_ns), childWorkflowInstanceFailed=failed)
