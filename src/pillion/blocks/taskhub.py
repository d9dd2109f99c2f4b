"""The service that workflow SDKs speak: clients' requests, and the workers' streams (spec `grpc-api.md` 10).

Knows: the messages, the texts of errors. Never knows: turns, instances, who works (`workflow/`).
"""

from __future__ import annotations

import asyncio
import uuid
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError

from pillion.api.operation import Operation, Rpc
from pillion.errors import Code, ComponentError
from pillion.kinds.actors import ActorError, RemoteFailure
from pillion.net.exchange import RpcError
from pillion.wire.messages import taskhub as m
from pillion.wire.messages import wellknown
from pillion.workflow.faults import InstanceMissing, NotCompleted
from pillion.workflow.history import absent_or, read_varint, text
from pillion.workflow.hub import Rerun, Start, StreamEnded

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from google.protobuf.message import Message

    from pillion.api.call import RpcCall
    from pillion.api.operation import ServeAtOnce, ServeUnary
    from pillion.blocks.actor_access import Gate
    from pillion.net.exchange import Oversized, ServerCall
    from pillion.workflow.hub import Workflows
    from pillion.workflow.snapshot import Snapshot

T = TypeVar("T")
SERVICE = "TaskHubSidecarService"
SEND_S = 10.0
"""A worker that takes longer than this to read an item loses its stream."""
_NANOS = 1_000_000_000
_EMPTY = wellknown.Empty()
_DONE = m.CompleteTaskResponse()


class TaskHubBlock:
    """The handlers. `gate` is that of the actors, in which workflows live."""

    def __init__(self, workflows: Workflows, gate: Gate) -> None:
        self._workflows = workflows
        self._gate = gate

    def operations(self) -> list[Operation]:
        """The rows of this service."""
        unary: tuple[tuple[tuple[str, ...], type[Message], ServeUnary, ServeAtOnce | None], ...] = (
            (("Hello",), wellknown.Empty, self.hello, None),
            (("StartInstance",), m.CreateInstanceRequest, self.start, None),
            (("GetInstance",), m.GetInstanceRequest, self.get, None),
            (("WaitForInstanceStart",), m.GetInstanceRequest, self.wait_start, None),
            (("WaitForInstanceCompletion",), m.GetInstanceRequest, self.wait_completion, None),
            (("RaiseEvent",), m.RaiseEventRequest, self.raise_event, None),
            (("TerminateInstance",), m.TerminateRequest, self.terminate, None),
            (("SuspendInstance",), m.SuspendRequest, self.suspend, None),
            (("ResumeInstance",), m.ResumeRequest, self.resume, None),
            (("PurgeInstances",), m.PurgeInstancesRequest, self.purge, None),
            (("CompleteActivityTask",), m.ActivityResponse, self.complete_activity, self.take_activity),
            (
                ("CompleteWorkflowTask", "CompleteOrchestratorTask"), m.WorkflowResponse, self.complete_workflow,
                self.take_workflow,
            ),
            (("RerunWorkflowFromEvent",), m.RerunWorkflowFromEventRequest, self.rerun, None),
            (("ListInstanceIDs",), m.ListInstanceIDsRequest, self.list_ids, None),
            (("GetInstanceHistory",), m.GetInstanceHistoryRequest, self.history, None),
        )  # fmt: skip
        oversized: dict[type[Message], Oversized] = {
            m.ActivityResponse: partial(self.oversized, activity=True),
            m.WorkflowResponse: self.oversized,
        }
        rows = [
            Operation(names[0], "workers", rpc=Rpc(
                names, takes, serve, service=SERVICE, at_once=at_once, oversized=oversized.get(takes)
            ))
            for names, takes, serve, at_once in unary
        ]  # fmt: skip
        work = Rpc(("GetWorkItems",), stream=self.work_items, service=SERVICE)
        return [*rows, Operation("GetWorkItems", "workers", rpc=work)]

    async def _enter(self) -> Workflows:
        await self._gate.enter()
        return self._workflows

    # -- clients

    async def hello(self, call: RpcCall, request: wellknown.Empty) -> Message:
        return _EMPTY

    async def start(self, call: RpcCall, request: m.CreateInstanceRequest) -> Message:
        """Without a time to start at, the answer waits until the instance has begun."""
        workflows = await self._enter()
        later = request.HasField("scheduledStartTimestamp")
        parent = request.parentTraceContext if request.HasField("parentTraceContext") else None
        order = Start(
            request.name,
            request.instanceId or str(uuid.uuid4()),
            absent_or(request, "input"),
            version=absent_or(request, "version"),
            start_at=_seconds(request.scheduledStartTimestamp) if later else None,
            tags=dict(request.tags),
            traceparent=parent.traceParent if parent is not None else call.traceparent,
            tracestate=absent_or(parent, "traceState") or "" if parent is not None else call.tracestate,
        )
        instance_id = await _served(workflows.start(order), "failed to create workflow instance: ")
        if not later:
            await _served(workflows.wait_start(instance_id))
        return m.CreateInstanceResponse(instanceId=instance_id)

    async def get(self, call: RpcCall, request: m.GetInstanceRequest) -> Message:
        workflows = await self._enter()
        return _instance(await _served(workflows.get(request.instanceId)), full=request.getInputsAndOutputs)

    async def wait_start(self, call: RpcCall, request: m.GetInstanceRequest) -> Message:
        workflows = await self._enter()
        return _instance(await _served(workflows.wait_start(request.instanceId)), full=request.getInputsAndOutputs)

    async def wait_completion(self, call: RpcCall, request: m.GetInstanceRequest) -> Message:
        workflows = await self._enter()
        return _instance(await _served(workflows.wait_completion(request.instanceId)), full=request.getInputsAndOutputs)

    async def raise_event(self, call: RpcCall, request: m.RaiseEventRequest) -> Message:
        workflows = await self._enter()
        await _served(workflows.raise_event(request.instanceId, request.name, absent_or(request, "input")))
        return m.RaiseEventResponse()

    async def terminate(self, call: RpcCall, request: m.TerminateRequest) -> Message:
        workflows = await self._enter()
        ending = workflows.terminate(
            request.instanceId, absent_or(request, "output"), recursive=request.recursive, wait=True
        )  # fmt: skip
        await _served(ending, "failed to submit termination request: ")
        return m.TerminateResponse()

    async def suspend(self, call: RpcCall, request: m.SuspendRequest) -> Message:
        workflows = await self._enter()
        await _served(workflows.suspend(request.instanceId, absent_or(request, "reason"), wait=True))
        return m.SuspendResponse()

    async def resume(self, call: RpcCall, request: m.ResumeRequest) -> Message:
        workflows = await self._enter()
        await _served(workflows.resume(request.instanceId, absent_or(request, "reason"), wait=True))
        return m.ResumeResponse()

    async def purge(self, call: RpcCall, request: m.PurgeInstancesRequest) -> Message:
        workflows = await self._enter()
        if request.WhichOneof("request") == "purgeInstanceFilter":
            raise RpcError(Code.UNKNOWN, "multi-instance purge is not unimplemented")
        going = workflows.purge(request.instanceId, recursive=request.recursive, force=request.force)
        count = await _served(going, "failed to purge workflow state: ")
        return m.PurgeInstancesResponse(deletedInstanceCount=count)

    async def rerun(self, call: RpcCall, request: m.RerunWorkflowFromEventRequest) -> Message:
        """The answer waits until the new instance has begun."""
        workflows = await self._enter()
        order = Rerun(
            request.sourceInstanceID,
            request.eventID,
            request.newInstanceID if request.HasField("newInstanceID") else None,
            absent_or(request, "input"),
            request.overwriteInput,
            request.newChildWorkflowInstanceID if request.HasField("newChildWorkflowInstanceID") else None,
        )
        if not order.source_id:
            raise RpcError(Code.INVALID_ARGUMENT, "rerun workflow source instance ID is required")
        instance_id = await _served(workflows.rerun(order))
        await _served(workflows.wait_start(instance_id))
        return m.RerunWorkflowFromEventResponse(newInstanceID=instance_id)

    async def list_ids(self, call: RpcCall, request: m.ListInstanceIDsRequest) -> Message:
        workflows = await self._enter()
        ids, token = await _served(workflows.list_ids(token=request.continuationToken, page_size=request.pageSize))
        return m.ListInstanceIDsResponse(instanceIds=ids, continuationToken=token or None)

    async def history(self, call: RpcCall, request: m.GetInstanceHistoryRequest) -> Message:
        workflows = await self._enter()
        events = await _served(workflows.history(request.instanceId))
        if events is None:
            raise RpcError(Code.NOT_FOUND, f"workflow instance '{request.instanceId}' not found")
        reply = m.GetInstanceHistoryResponse()
        for event in events:
            reply.events.add().ParseFromString(event)
        return reply

    # -- workers

    async def work_items(self, call: RpcCall) -> None:
        """Hand out work until the worker or the sidecar goes. What the worker holds by then is offered to others."""
        stream = call.stream
        message = await stream.receive()
        try:
            request = m.GetWorkItemsRequest.FromString(message or b"")
        except DecodeError as error:
            raise RpcError(Code.INTERNAL, f"grpc: error unmarshalling request: {error}") from error
        workflows = await self._enter()
        await stream.send_headers()
        work = workflows.attach(request.capabilities)
        try:
            while True:
                item = await work.next()
                if not stream.send_now(item):
                    async with asyncio.timeout(SEND_S):
                        await stream.flushed()
        except StreamEnded:
            raise RpcError(Code.CANCELLED, "shutting down") from None
        except TimeoutError:
            raise RpcError(Code.DEADLINE_EXCEEDED, f"the worker did not take an item within {SEND_S:g} s") from None
        finally:
            work.close(left=said_goodbye(stream))

    async def complete_activity(self, call: RpcCall, request: m.ActivityResponse) -> Message:
        workflows = await self._enter()
        workflows.complete_activity(request)
        return _DONE

    async def complete_workflow(self, call: RpcCall, request: m.WorkflowResponse) -> Message:
        workflows = await self._enter()
        workflows.complete_workflow(request)
        return _DONE

    def take_activity(self, request: m.ActivityResponse) -> bytes | None:
        """`complete_activity` without waiting, while the gate is open."""
        if self._workflows is None or not self._gate.is_open:
            return None
        self._workflows.complete_activity(request)
        return b""

    def take_workflow(self, request: m.WorkflowResponse) -> bytes | None:
        """`complete_workflow` without waiting, while the gate is open."""
        if self._workflows is None or not self._gate.is_open:
            return None
        self._workflows.complete_workflow(request)
        return b""

    def oversized(self, beginning: bytes, said: str, *, activity: bool = False) -> None:
        """A worker's answer is too large to be taken: nobody else would ever tell what it was the answer to."""
        found = _addressed(beginning, activity=activity)
        if found is not None and self._workflows is not None and self._gate.is_open:
            self._workflows.oversized(*found, said)


def _addressed(beginning: bytes, *, activity: bool) -> tuple[str, int] | None:
    """Read the instance and the task (-1: a turn) from the beginning of an answer: its first two fields."""
    if beginning[:1] != b"\x0a":
        return None
    try:
        size, at = read_varint(beginning, 1)
        instance_id = beginning[at : at + size].decode()
        if len(beginning) <= at + size or not activity:
            return instance_id, 0 if activity else -1
        task_id = read_varint(beginning, at + size + 1)[0] if beginning[at + size] == 0x10 else 0
    except (ValueError, IndexError):
        return None
    return instance_id, task_id


def said_goodbye(stream: ServerCall) -> bool:
    """Whether the worker ended its stream itself: then what it held did not take it down."""
    return not getattr(stream, "broken", True)


async def _served(work: Awaitable[T], prefix: str = "") -> T:
    """Return the result; a failure as this service tells it: plain, with its status where it has one."""
    try:
        return await work
    except RemoteFailure as error:
        code = Code.UNKNOWN if isinstance(error, (InstanceMissing, NotCompleted)) else error.code
        raise RpcError(code, f"{prefix}{error}") from error
    except ActorError as error:
        code = Code.UNAVAILABLE if error.retryable else Code.FAILED_PRECONDITION
        raise RpcError(code, f"{prefix}{error}") from error
    except ComponentError as error:
        raise RpcError(Code.UNKNOWN, f"{prefix}{error}") from error


def _seconds(stamp: wellknown.Timestamp) -> float:
    return stamp.seconds + stamp.nanos / _NANOS


def _stamp(ns: int | None) -> wellknown.Timestamp | None:
    return None if ns is None else wellknown.Timestamp(seconds=ns // _NANOS, nanos=ns % _NANOS)


def _instance(found: Snapshot | None, *, full: bool) -> m.GetInstanceResponse:
    """An instance as this service shows it: texts that may be large only when they were asked for."""
    if found is None:
        return m.GetInstanceResponse(exists=False)
    state = m.WorkflowState(
        instanceId=found.instance_id,
        name=found.name,
        version=text(found.version),
        workflowStatus=int(found.status),
        createdTimestamp=_stamp(found.created_ns),
        lastUpdatedTimestamp=_stamp(found.updated_ns),
        startedAt=_stamp(found.started_ns),
    )
    if full:
        for name, value in (("input", found.input), ("output", found.output), ("customStatus", found.custom_status)):
            if value is not None:
                getattr(state, name).value = value
        if found.failure is not None:
            state.failureDetails.CopyFrom(found.failure)
    return m.GetInstanceResponse(exists=True, workflowState=state)
