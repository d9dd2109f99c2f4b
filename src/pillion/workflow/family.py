"""Parents and children: what a child is begun with, what it tells its parent, what of its history a parent hands down
(spec `actors-workflows-jobs.md` 3.5, 3.9). Pure.
"""

from __future__ import annotations

import hashlib
import uuid
from typing import TYPE_CHECKING

from pillion.wire.messages import taskhub as m
from pillion.workflow import history
from pillion.workflow.history import Event, timestamp
from pillion.workflow.snapshot import Status

if TYPE_CHECKING:
    from pillion.workflow.instance import Instance


def parent_of(started: Event | None) -> m.ParentInstanceInfo | None:
    if started is None or not started.executionStarted.HasField("parentInstance"):
        return None
    return started.executionStarted.parentInstance


def is_child_of(started: Event | None, app_id: str, instance_id: str) -> bool:
    """Whether the instance that began so was started by that one."""
    parent = parent_of(started)
    return parent is not None and parent.appID in ("", app_id) and parent.workflowInstance.instanceId == instance_id


def told_to_parent(instance: Instance, now_ns: int) -> Event:
    """The event by which a finished child resolves its parent's wait: completed, or failed whatever else it is."""
    completed = instance.facts.completed
    parent = parent_of(instance.facts.started)
    if completed is None or parent is None:
        raise ValueError("only a finished child has something to tell")
    done = completed.executionCompleted
    event = Event(eventId=-1, timestamp=timestamp(now_ns))
    if done.workflowStatus == Status.COMPLETED:
        told = event.childWorkflowInstanceCompleted
        told.taskScheduledId = parent.taskScheduledId
        if done.HasField("result"):
            told.result.value = done.result.value
        return event
    failed = event.childWorkflowInstanceFailed
    failed.taskScheduledId = parent.taskScheduledId
    if done.HasField("failureDetails"):
        failed.failureDetails.CopyFrom(done.failureDetails)
    else:
        how = Status(done.workflowStatus).name.lower()
        failed.failureDetails.errorType = "WorkflowTerminated" if how == "terminated" else "WorkflowFailed"
        failed.failureDetails.errorMessage = f"workflow '{instance.instance_id}' was {how}"
    return event


def child_start(instance: Instance, created: Event, app_id: str, namespace: str, now_ns: int) -> Event:
    """The start event of a child workflow."""
    body = created.childWorkflowInstanceCreated
    started = m.ExecutionStartedEvent(name=body.name)
    if body.HasField("version"):
        started.version.value = body.version.value
    if body.HasField("input"):
        started.input.value = body.input.value
    if body.HasField("parentTraceContext"):
        started.parentTraceContext.CopyFrom(body.parentTraceContext)
    started.workflowInstance.instanceId = body.instanceId
    own_id = instance.execution_id
    if own_id is not None:
        started.workflowInstance.executionId.value = child_execution(own_id, created.eventId)
    parent = started.parentInstance
    parent.taskScheduledId = created.eventId
    parent.appID = app_id
    parent.appNamespace = namespace
    parent.workflowInstance.instanceId = instance.instance_id
    own = instance.start_event
    if own is not None:
        parent.name.value = own.executionStarted.name
        if own.executionStarted.workflowInstance.HasField("executionId"):
            parent.workflowInstance.executionId.value = own.executionStarted.workflowInstance.executionId.value
    router = m.TaskRouter(sourceAppID=app_id)
    if created.HasField("router") and created.router.HasField("targetAppID"):
        router.targetAppID = created.router.targetAppID
    return history.execution_started(now_ns, started, router)


def child_execution(execution_id: str, task_id: int) -> str:
    """The execution id of a child, a UUID: the same however often its creation is tried, and another one's never."""
    digest = hashlib.blake2b(f"{execution_id} {task_id}".encode(), digest_size=16).digest()
    return str(uuid.UUID(bytes=digest, version=4))


def propagate(instance: Instance, scope: int, app_id: str) -> bytes | None:
    """The history that goes along with an activity or a child, serialised; None for no propagation (3.9)."""
    if scope == m.HISTORY_PROPAGATION_SCOPE_NONE:
        return None
    made = m.PropagatedHistory(scope=scope)
    if scope == m.HISTORY_PROPAGATION_SCOPE_LINEAGE and instance.propagated is not None:
        made.chunks.extend(m.PropagatedHistory.FromString(instance.propagated).chunks)
    started = instance.facts.started
    name = started.executionStarted.name if started is not None else ""
    made.chunks.add(rawEvents=list(instance.rows()), appId=app_id, instanceId=instance.instance_id, workflowName=name)
    return made.SerializeToString()
