"""Spans of workflows and activities, below the request that began them (spec `actors-workflows-jobs.md` 3.11).

A workflow's span is open for as long as the workflow is, which may be longer than a process lives: its id is written
into the start event, and the span itself is made when the workflow ends. Without a trace that came with the start
there is nothing to record. Knows: identifiers and names. Never knows: instances' states.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pillion.observe.tracing import Span, SpanKind
from pillion.wire.trace import split_parent
from pillion.workflow.history import absent_or, nanoseconds

if TYPE_CHECKING:
    from pillion.observe.tracing import Attributes
    from pillion.wire.messages import taskhub as m
    from pillion.workflow.history import Event


class Tracer(Protocol):
    """What is needed of `observe.tracing.Tracer`."""

    def start(self, kind: SpanKind, parent: str = "", state: str = "") -> Span: ...

    def end(self, span: Span) -> None: ...


def parent_below(started: m.ExecutionStartedEvent) -> tuple[str, str]:
    """The traceparent and tracestate for what a workflow does: below its own span; "" without a trace."""
    if not started.HasField("parentTraceContext"):
        return "", ""
    context = started.parentTraceContext
    came = split_parent(context.traceParent)
    if came is None:
        return "", ""
    trace_id, parent_id, flags = came
    own = started.workflowSpanID.value if started.HasField("workflowSpanID") else parent_id
    return f"00-{trace_id}-{own}-{flags}", absent_or(context, "traceState") or ""


def workflow_ended(tracer: Tracer, started: Event, completed: Event, instance_id: str, status: str) -> None:
    """Record the span of a finished workflow."""
    body = started.executionStarted
    came = split_parent(body.parentTraceContext.traceParent) if body.HasField("parentTraceContext") else None
    if came is None or not body.HasField("workflowSpanID"):
        return
    trace_id, parent_id, flags = came
    span = Span(
        SpanKind.SERVER, trace_id, body.workflowSpanID.value, parent_id,
        absent_or(body.parentTraceContext, "traceState") or "",
        sampled=int(flags, 16) & 1 == 1, started_ns=nanoseconds(started.timestamp),
    )  # fmt: skip
    span.name = f"orchestration||{body.name}"
    span.attributes = _attributes("orchestration", body.name, instance_id)
    done = completed.executionCompleted
    if status != "success":
        span.error = done.failureDetails.errorMessage if done.HasField("failureDetails") else status
    tracer.end(span)


def activity_begun(tracer: Tracer, started: m.ExecutionStartedEvent) -> Span | None:
    """Begin the span of an activity; None without a trace."""
    parent, state = parent_below(started)
    return tracer.start(SpanKind.CLIENT, parent, state) if parent else None


def activity_ended(tracer: Tracer, span: Span, name: str, instance_id: str, task_id: int, error: str | None) -> None:
    if span.sampled:
        span.name = f"activity||{name}"
        span.attributes = (*_attributes("activity", name, instance_id), ("durabletask.task.task_id", str(task_id)))
        span.error = error
    tracer.end(span)


def _attributes(kind: str, name: str, instance_id: str) -> Attributes:
    return (
        ("durabletask.type", kind),
        ("durabletask.task.name", name),
        ("durabletask.task.instance_id", instance_id),
    )
