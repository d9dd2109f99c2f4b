"""Workflows as actors: the internal methods by which sidecars speak of instances, and the reminders that reach them
(spec `actors-workflows-jobs.md` 3.1, 3.2). Payloads are the reference's, so that either can be on the other side.

Knows: methods, payloads, who may call. Never knows: how an instance is driven.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from pillion.errors import ComponentError
from pillion.kinds.actors import ActorCall, ActorReply, RemoteFailure
from pillion.wire.messages import backend, wellknown
from pillion.wire.messages import taskhub as m
from pillion.workflow import duties, history
from pillion.workflow.calls import ADD, CREATE, PROTOBUF, caller_of, execution_of
from pillion.workflow.creation import adopt as adopt_instance
from pillion.workflow.creation import create
from pillion.workflow.faults import (
    AccessDenied,
    InstanceMissing,
    NotCompleted,
    RerunExists,
    RerunMissing,
    RerunRefused,
    from_remote,
)
from pillion.workflow.history import Event
from pillion.workflow.invocations import unwrapped
from pillion.workflow.purge import ENDED, FORCE, PURGE, PURGE_TREE, ended_of, purge, purge_tree
from pillion.workflow.rerun import adopt, fork
from pillion.workflow.rows import Step
from pillion.workflow.surroundings import RETENTION, WAKE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillion.kinds.actors import Tick
    from pillion.workflow.engine import Engine
    from pillion.workflow.mending import Mending
    from pillion.workflow.snapshot import Snapshot, Status

log = logging.getLogger("pillion.workflow")

WAIT, FORK, RERUN = "WaitForRuntimeStatus", "ForkWorkflowHistory", "RerunWorkflowInstance"
_METADATA_URL = "type.googleapis.com/durabletask.protos.backend.v1.WorkflowMetadata"
_OPERATIONS = {
    "eventRaised": "raise", "executionSuspended": "pause", "executionResumed": "resume",
    "executionTerminated": "terminate",
}  # fmt: skip
"""What a policy calls an event that is added. Results are not among them: they answer what was begun here (3.10)."""


class WorkflowActor:
    """The handler of the actor type `workflow`."""

    def __init__(self, engine: Engine, mending: Mending) -> None:
        self._engine = engine
        self._mending = mending

    async def invoke(self, call: ActorCall) -> ActorReply:
        try:
            return ActorReply(await self._invoke(call), content_type=PROTOBUF)
        except DecodeError as error:
            raise ComponentError(f"workflow '{call.actor_id}': {call.method} cannot be read: {error}") from None

    async def _invoke(self, call: ActorCall) -> bytes:
        engine, instance_id = self._engine, call.actor_id
        match call.method:
            case "AddWorkflowEvent":
                event = Event.FromString(call.body)
                operation = _OPERATIONS.get(event.WhichOneof("eventType") or "")
                if operation is not None:
                    await self._check(call, operation)
                await engine.calls.check_parent(call)
                await engine.add(instance_id, event, execution_of(call))
            case "CreateWorkflowInstance":
                request = backend.CreateWorkflowInstanceRequest.FromString(call.body)
                await self._check(call, "schedule", request.startEvent.executionStarted.name)
                await create(engine, instance_id, request)
            case "PurgeWorkflowState":
                await self._check(call, "purge")
                await purge(engine, instance_id, force=_forced(call), ended=ended_of(call))
            case "RecursivePurgeWorkflowState":
                await self._check(call, "purge")
                await engine.calls.check_parent(call)
                count = await purge_tree(engine, instance_id, force=_forced(call))
                return m.PurgeInstancesResponse(deletedInstanceCount=count).SerializeToString()
            case duties.OVER:
                await self._check(call, "get")
                await engine.calls.check_parent(call)
                return duties.YES if await duties.all_over(engine, instance_id) else b""
            case "ForkWorkflowHistory":
                await self._check(call, "rerun")
                await self._fork(instance_id, m.RerunWorkflowFromEventRequest.FromString(call.body))
            case "RerunWorkflowInstance":
                await self._check(call, "rerun")
                await self._adopt(instance_id, backend.BackendWorkflowState.FromString(call.body))
            case "pillion.Inspect" | "pillion.Mend":
                return await self._mending.answer_instance(call)
            case _:
                raise ComponentError(f"no such method: {call.method}")
        return b""

    async def _check(self, call: ActorCall, operation: str, name: str | None = None) -> None:
        """Raise `AccessDenied` when a policy does not let the caller do this to workflows of the name."""
        policies = self._engine.surroundings.policies()
        if policies is None:
            return
        caller, namespace = caller_of(call)
        if caller == policies.app_id and namespace in ("", policies.namespace):
            return
        if not caller and not call.remote:
            return  # the sidecar itself, or its own application
        if name is None:
            runner = await self._engine.find(call.actor_id)
            start = None if runner is None else runner.instance.start_event
            name = "" if start is None else start.executionStarted.name
        if not policies.workflow(caller, namespace, operation, name):
            raise AccessDenied

    async def _fork(self, instance_id: str, order: m.RerunWorkflowFromEventRequest) -> None:
        """Cut the history of a finished instance and have the new one take it over."""
        engine = self._engine
        source = await engine.rows.load(instance_id)
        if source is None:
            raise RerunMissing(f"workflow instance does not exist with ID '{instance_id}'")
        new_id = order.newInstanceID
        if not new_id or new_id == instance_id:
            raise RerunRefused("the new instance needs an ID of its own")
        state = fork(source, order, new_id)
        call = ActorCall(
            engine.workflow_type, new_id, RERUN, body=state.SerializeToString(), headers=engine.calls.caller(),
            content_type=PROTOBUF, verb="",
        )  # fmt: skip
        try:
            await engine.surroundings.actors.invoke(call)
        except RemoteFailure as error:
            raise from_remote(error) from error

    async def _adopt(self, instance_id: str, state: backend.BackendWorkflowState) -> None:
        engine = self._engine
        events, status = adopt(state, engine.surroundings.now_ns(), engine.surroundings.new_id())
        step = Step([], 1, events=events, writes_status=True, custom_status=status)
        if not await adopt_instance(engine, instance_id, step):
            raise RerunExists(f"workflow '{instance_id}' has already been created")

    async def tick(self, tick: Tick) -> bool:
        """A reminder: our own `wake`, or one that a reference sidecar has left."""
        engine, instance_id, name = self._engine, tick.actor_id, tick.name
        if name == WAKE:
            await engine.woken(instance_id, tick.payload)
        elif name.startswith("timer-"):
            raw = unwrapped(tick.payload)
            timer = backend.DurableTimer.FromString(raw or b"")
            runner = await engine.find(instance_id)
            if runner is not None:
                fired = timer.timerEvent.timerFired
                engine.alarms.fire(runner, timer.generation, fired.timerId, history.nanoseconds(fired.fireAt))
        elif name.startswith("activity-result-") or name == "cascade-terminate":
            raw = unwrapped(tick.payload)
            if raw:
                try:
                    await engine.add(instance_id, Event.FromString(raw))
                except InstanceMissing:
                    log.warning("workflow '%s' is gone: %s is dropped", instance_id, name)
        else:
            # `start-…`, `new-event-…`: the inbox row is there, and reading the instance sees to it.
            runner = await engine.find(instance_id)
            if runner is not None:
                runner.kick()
                engine.rest(runner)
        return False

    async def deactivate(self, actor_type: str, actor_id: str) -> None:
        """The instance belongs to another host from now on."""
        await self._engine.leave(actor_id)

    async def stream(self, call: ActorCall) -> AsyncIterator[bytes]:
        """`WaitForRuntimeStatus`: how the instance stands, now and whenever its status changes, until it is finished.

        An instance that does not exist yet is waited for.
        """
        if call.method != WAIT:
            raise ComponentError(f"unsupported stream method: {call.method}")
        await self._check(call, "get")
        engine = self._engine
        shown: Status | None = None
        while True:
            change = engine.watchers.watch(call.actor_id)
            try:
                if engine.status(call.actor_id) is not shown or shown is None:
                    snapshot = await engine.look(call.actor_id)
                    if snapshot is not None and snapshot.status is not shown:
                        shown = snapshot.status
                        yield packed(snapshot)
                        if shown.terminal:
                            return
                await change
            finally:
                engine.watchers.unwatch(call.actor_id, change)

    def __repr__(self) -> str:
        return f"<WorkflowActor of {self._engine!r}>"


class Retentioner:
    """The handler of the actor type `retentioner`: its reminder deletes a finished instance (3.9)."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def invoke(self, call: ActorCall) -> ActorReply:
        raise ComponentError(f"no such method: {call.method}")

    async def tick(self, tick: Tick) -> bool:
        if tick.name != RETENTION:
            return False
        engine = self._engine
        headers, ended = engine.calls.caller(), wellknown.Timestamp()
        if tick.payload and wellknown.Any.FromString(tick.payload).Unpack(ended):
            headers.append((ENDED, str(history.nanoseconds(ended)).encode()))
        call = ActorCall(engine.workflow_type, tick.actor_id, PURGE, headers=headers, content_type=PROTOBUF, verb="")
        try:
            await engine.surroundings.actors.invoke(call)
        except RemoteFailure as error:
            # Gone already, begun anew, or stalled: nothing to delete any more, or not yet again.
            fault = from_remote(error)
            if not isinstance(fault, (InstanceMissing, NotCompleted)) and "stalled" not in str(fault):
                raise
        return False

    async def deactivate(self, actor_type: str, actor_id: str) -> None:
        """Nothing is kept here."""


def _forced(call: ActorCall) -> bool:
    return any(name.lower() == FORCE and value == b"true" for name, value in call.headers)


def packed(snapshot: Snapshot) -> bytes:
    """A snapshot as `WorkflowMetadata` in an `Any`."""
    made = backend.WorkflowMetadata(
        instanceId=snapshot.instance_id, name=snapshot.name, runtimeStatus=int(snapshot.status),
        parentInstanceId=snapshot.parent_id, failureDetails=snapshot.failure,
        input=history.text(snapshot.input), output=history.text(snapshot.output),
        customStatus=history.text(snapshot.custom_status), version=history.text(snapshot.version),
        parentAppId=history.text(snapshot.parent_app or None),
    )  # fmt: skip
    if snapshot.created_ns is not None:
        made.createdAt.CopyFrom(history.timestamp(snapshot.created_ns))
    if snapshot.updated_ns is not None:
        made.lastUpdatedAt.CopyFrom(history.timestamp(snapshot.updated_ns))
    if snapshot.completed_ns is not None:
        made.completedAt.CopyFrom(history.timestamp(snapshot.completed_ns))
    if snapshot.started_ns is not None:
        made.startedAt.CopyFrom(history.timestamp(snapshot.started_ns))
    return wellknown.Any(type_url=_METADATA_URL, value=made.SerializeToString()).SerializeToString()


def status_of(item: bytes) -> int:
    """The runtime status in an item of `WaitForRuntimeStatus`."""
    return backend.WorkflowMetadata.FromString(wellknown.Any.FromString(item).value).runtimeStatus


__all__ = ["ADD", "CREATE", "FORK", "PURGE_TREE", "WAIT", "Retentioner", "WorkflowActor", "status_of"]
