"""The workflow API: start, look, steer (spec `http-api.md` 4.7, `actors-workflows-jobs.md` 3.8).

The component in the path is ignored, as the contract has it: workflows live in the sidecar. Knows: checks, answers,
errors. Never knows: instances, workers (`workflow/`).
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson

from pillion.api.operation import Http, Operation, Rpc
from pillion.api.render import JSON
from pillion.blocks import workflow_faults as faults
from pillion.blocks.actors_faults import NO_STATE_STORE
from pillion.errors import ApiError, ComponentError
from pillion.kinds.actors import NoStateStore
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Response
from pillion.wire.gojson import escaped
from pillion.wire.iso8601 import parse_rfc3339
from pillion.wire.messages import runtime as m
from pillion.wire.messages import wellknown
from pillion.workflow.faults import DescendantsActive, InstanceActive, InstanceMissing
from pillion.workflow.hub import Start
from pillion.workflow.snapshot import Status

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from google.protobuf.message import Message

    from pillion.api.call import HttpCall, RpcCall
    from pillion.api.operation import ServeHttp, ServeUnary
    from pillion.blocks.actor_access import Gate
    from pillion.errors import Fault
    from pillion.workflow.hub import Workflows
    from pillion.workflow.snapshot import Snapshot

MOST_ID = 64
START_TIME = "dapr.workflow.start_time"
_UNKNOWN = "UNKNOWN"
_SHOWN = frozenset(Status) - {Status.STALLED}
_ZERO = "0001-01-01T00:00:00Z"
"""How a time that is not known is written: Go's zero value."""
_ZERO_S, _LAST_S = -62_135_596_800, 253_402_300_799
_NANOS = 1_000_000_000
_VERSIONS = ("v1.0", "v1.0-beta1", "v1.0-alpha1")
_DONE = b"{}"


class WorkflowBlock:
    """The handlers. `gate` is that of the actors, in which workflows live."""

    def __init__(self, workflows: Workflows, gate: Gate) -> None:
        self._workflows = workflows
        self._gate = gate

    def operations(self) -> list[Operation]:
        """The rows of this block."""
        one = "{instance}"
        return [
            self._row("Get", "GET", one, self.http_get, m.GetWorkflowRequest, self.rpc_get),
            self._row("Start", "POST", "{name}/start", self.http_start, m.StartWorkflowRequest, self.rpc_start),
            self._row(
                "RaiseEvent", "POST", f"{one}/raiseEvent/{{event}}", self.http_raise, m.RaiseEventWorkflowRequest,
                self.rpc_raise,
            ),
            self._row("Pause", "POST", f"{one}/pause", self.http_pause, m.PauseWorkflowRequest, self.rpc_pause),
            self._row("Resume", "POST", f"{one}/resume", self.http_resume, m.ResumeWorkflowRequest, self.rpc_resume),
            self._row(
                "Terminate", "POST", f"{one}/terminate", self.http_terminate, m.TerminateWorkflowRequest,
                self.rpc_terminate,
            ),
            self._row("Purge", "POST", f"{one}/purge", self.http_purge, m.PurgeWorkflowRequest, self.rpc_purge),
        ]  # fmt: skip

    def _row(
        self,
        verb: str,
        method: str,
        tail: str,
        http: ServeHttp,
        takes: type[Message],
        unary: ServeUnary,
    ) -> Operation:
        routes = tuple(Http((method,), f"{version}/workflows/{{component}}/{tail}", http) for version in _VERSIONS)
        names = tuple(f"{verb}Workflow{suffix}" for suffix in ("Beta1", "Alpha1"))
        return Operation(f"{verb}Workflow", "workflows", http=routes, rpc=Rpc(names, takes, unary))

    async def _enter(self) -> Workflows:
        await self._gate.enter()
        return self._workflows

    # -- what is asked, on either protocol

    async def _start(self, order: Start) -> str:
        check_id(order.instance_id)
        if not order.name:
            raise ApiError(faults.NO_NAME)
        workflows = await self._enter()
        try:
            return await workflows.start(order)
        except NoStateStore as error:
            raise ApiError(NO_STATE_STORE) from error
        except (InstanceActive, DescendantsActive) as error:  # SDKs look for the name of the status
            text = f"rpc error: code = AlreadyExists desc = {error}"
            raise ApiError(faults.START, name=order.name, error=text) from error
        except ComponentError as error:
            raise ApiError(faults.START, name=order.name, error=error) from error

    async def _get(self, instance_id: str) -> Snapshot | None:
        workflows = await self._named(instance_id)
        try:
            return await workflows.get(instance_id)
        except NoStateStore as error:
            raise ApiError(NO_STATE_STORE) from error
        except ComponentError as error:
            raise ApiError(faults.GET, id=instance_id, error=error) from error

    async def _raise(self, instance_id: str, event: str, data: bytes) -> None:
        if instance_id and not event:
            raise ApiError(faults.NO_EVENT)
        workflows = await self._named(instance_id)
        text = as_text(data, "event data")
        await _steer(faults.RAISE, instance_id, workflows.raise_event(instance_id, event, text or None))

    async def _pause(self, instance_id: str) -> None:
        workflows = await self._named(instance_id)
        await _steer(faults.PAUSE, instance_id, workflows.suspend(instance_id))

    async def _resume(self, instance_id: str) -> None:
        workflows = await self._named(instance_id)
        await _steer(faults.RESUME, instance_id, workflows.resume(instance_id))

    async def _terminate(self, instance_id: str) -> None:
        workflows = await self._named(instance_id)
        await _steer(faults.TERMINATE, instance_id, workflows.terminate(instance_id), missing=faults.NOT_FOUND)

    async def _purge(self, instance_id: str) -> None:
        workflows = await self._named(instance_id)
        await _steer(faults.PURGE, instance_id, workflows.purge(instance_id), missing=faults.NOT_FOUND)

    async def _named(self, instance_id: str) -> Workflows:
        if not instance_id:
            raise ApiError(faults.NO_INSTANCE_ID)
        return await self._enter()

    # -- HTTP

    async def http_start(self, call: HttpCall) -> Response:
        given = [value for key, value in call.query if key == "instanceID"]
        order = Start(
            call.params[1], given[0] if given and given[0] else str(uuid.uuid4()), as_text(body_of(call), "input"),
            traceparent=call.traceparent, tracestate=call.tracestate,
        )  # fmt: skip
        instance_id = await self._start(order)
        return Response(202, [JSON], escaped(orjson.dumps({"instanceID": instance_id})))

    async def http_get(self, call: HttpCall) -> Response:
        instance_id = call.params[1]
        found = await self._get(instance_id)
        if found is None:
            raise ApiError(faults.NOT_FOUND, id=instance_id)
        body: dict[str, object] = {
            "instanceID": found.instance_id,
            "workflowName": found.name,
            "createdAt": time_text(found.created_ns),
            "lastUpdatedAt": time_text(found.updated_ns),
            "runtimeStatus": status_text(found.status),
        }
        if more := properties(found):
            body["properties"] = more
        return Response(200, [JSON], escaped(orjson.dumps(body)))

    async def http_raise(self, call: HttpCall) -> Response:
        await self._raise(call.params[1], call.params[2], body_of(call))
        return _accepted()

    async def http_pause(self, call: HttpCall) -> Response:
        await self._pause(call.params[1])
        return _accepted()

    async def http_resume(self, call: HttpCall) -> Response:
        await self._resume(call.params[1])
        return _accepted()

    async def http_terminate(self, call: HttpCall) -> Response:
        await self._terminate(call.params[1])
        return _accepted()

    async def http_purge(self, call: HttpCall) -> Response:
        await self._purge(call.params[1])
        return _accepted()

    # -- gRPC

    async def rpc_start(self, call: RpcCall, request: m.StartWorkflowRequest) -> Message:
        name, start_at = request.workflow_name, None
        if (text := request.options.get(START_TIME)) is not None:
            try:
                start_at = parse_rfc3339(text)
            except ValueError as error:
                raise ApiError(faults.START_TIME, name=name, given=text) from error
        order = Start(
            name, request.instance_id or str(uuid.uuid4()), as_text(request.input, "input"), start_at=start_at,
            traceparent=call.traceparent, tracestate=call.tracestate,
        )  # fmt: skip
        return m.StartWorkflowResponse(instance_id=await self._start(order))

    async def rpc_get(self, call: RpcCall, request: m.GetWorkflowRequest) -> Message:
        found = await self._get(request.instance_id)
        if found is None:
            return m.GetWorkflowResponse(instance_id=request.instance_id)
        return m.GetWorkflowResponse(
            instance_id=found.instance_id,
            workflow_name=found.name,
            created_at=_stamp(found.created_ns),
            last_updated_at=_stamp(found.updated_ns),
            runtime_status=status_text(found.status),
            properties=properties(found),
        )

    async def rpc_raise(self, call: RpcCall, request: m.RaiseEventWorkflowRequest) -> Message:
        await self._raise(request.instance_id, request.event_name, request.event_data)
        return wellknown.Empty()

    async def rpc_pause(self, call: RpcCall, request: m.PauseWorkflowRequest) -> Message:
        await self._pause(request.instance_id)
        return wellknown.Empty()

    async def rpc_resume(self, call: RpcCall, request: m.ResumeWorkflowRequest) -> Message:
        await self._resume(request.instance_id)
        return wellknown.Empty()

    async def rpc_terminate(self, call: RpcCall, request: m.TerminateWorkflowRequest) -> Message:
        await self._terminate(request.instance_id)
        return wellknown.Empty()

    async def rpc_purge(self, call: RpcCall, request: m.PurgeWorkflowRequest) -> Message:
        await self._purge(request.instance_id)
        return wellknown.Empty()


async def _steer(fault: Fault, instance_id: str, work: Awaitable[object], *, missing: Fault | None = None) -> None:
    try:
        await work
    except InstanceMissing as error:
        raise ApiError(missing or fault, id=instance_id, error=error) from error
    except NoStateStore as error:
        raise ApiError(NO_STATE_STORE) from error
    except ComponentError as error:
        raise ApiError(fault, id=instance_id, error=error) from error


def _accepted() -> Response:
    return Response(202, [JSON], _DONE)


def check_id(instance_id: str) -> None:
    """Raise `ApiError` for what cannot be the id of a new instance."""
    if len(instance_id.encode("utf-8", "surrogateescape")) > MOST_ID:
        raise ApiError(faults.ID_TOO_LONG, most=MOST_ID)
    if not all(character.isalnum() or character in "_-" for character in instance_id):
        raise ApiError(faults.ID_INVALID, id=instance_id)


def body_of(call: HttpCall) -> bytes:
    """Return the body. Raises `ApiError` where it is too large, or ended too early."""
    try:
        return call.body()
    except (BodyTooLarge, BodyIncomplete) as error:
        raise ApiError(faults.BODY_READ, error=error) from error


def as_text(data: bytes, what: str) -> str:
    """Return input as the text it is kept as. Raises `ApiError`."""
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ApiError(faults.NOT_TEXT, what=what, error=error) from error


def status_text(status: Status) -> str:
    """The status as this API writes it; it has no word for stalled instances."""
    return status.name if status in _SHOWN else _UNKNOWN


def properties(found: Snapshot) -> dict[str, str]:
    """The `dapr.workflow.*` properties that are set."""
    values = {
        "dapr.workflow.custom_status": found.custom_status,
        "dapr.workflow.input": found.input,
        "dapr.workflow.output": found.output,
    }
    if found.failure is not None:
        values["dapr.workflow.failure.error_type"] = found.failure.errorType
        values["dapr.workflow.failure.error_message"] = found.failure.errorMessage
        if found.failure.HasField("stackTrace"):
            values["dapr.workflow.failure.stack_trace"] = found.failure.stackTrace.value
    return {key: value for key, value in values.items() if value is not None}


def time_text(ns: int | None) -> str:
    """A time as Go's JSON writes it: RFC 3339 with as many digits as needed. Workers and clients may name times beyond
    the years that this can write: they are shown as the first and the last one.
    """
    if ns is None:
        return _ZERO
    seconds, nanos = divmod(min(max(ns, _ZERO_S * _NANOS), _LAST_S * _NANOS), _NANOS)
    whole = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()
    fraction = f".{nanos:09d}".rstrip("0") if nanos else ""
    return f"{whole}{fraction}Z"


def _stamp(ns: int | None) -> wellknown.Timestamp:
    if ns is None:
        return wellknown.Timestamp(seconds=_ZERO_S)
    return wellknown.Timestamp(seconds=ns // _NANOS, nanos=ns % _NANOS)
