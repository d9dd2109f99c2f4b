"""Actors over gRPC: methods, state, reminders and timers (spec `grpc-api.md` 3).

Knows: messages and statuses. Never knows: where an actor lives, how its turn comes, who keeps its reminders.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.blocks import actors_faults as faults
from pillion.blocks.actor_access import OWN, as_json_text, check_key, check_name, check_ttl, done, failed
from pillion.errors import ApiError, Code, ComponentError
from pillion.jobs.protocol import policy_of
from pillion.kinds.actors import ActorCall, NoHost
from pillion.kinds.jobs import JobExists
from pillion.kinds.state import Delete, Set
from pillion.net.exchange import RpcError
from pillion.wire.messages import runtime as m
from pillion.wire.messages import wellknown
from pillion.wire.methods import sendable

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pillion.api.call import RpcCall
    from pillion.blocks.actor_access import ActorAccess
    from pillion.kinds.actors import Headers
    from pillion.kinds.jobs import Job

EMPTY = wellknown.Empty()
JSON = b"application/json"


class ActorsRpc:
    """The handlers."""

    def __init__(self, access: ActorAccess) -> None:
        self._access = access

    # -- methods

    async def invoke(self, call: RpcCall, request: m.InvokeActorRequest) -> Message:
        access = self._access
        actor_type, actor_id = request.actor_type, request.actor_id
        method = access.target(actor_type, actor_id, request.method)
        content_type, headers = _headers(request)
        headers = access.sent(headers)
        if call.traceparent:
            headers.append((b"traceparent", call.traceparent.encode()))
        asked = ActorCall(actor_type, actor_id, method, request.data, headers, content_type, "")
        try:
            reply = await access.invoke(asked)
        except NoHost as error:
            nowhere = ApiError(faults.NO_ADDRESS, type=actor_type, id=actor_id)
            raise ApiError(faults.LOOKUP, error=nowhere) from error
        return m.InvokeActorResponse(data=reply.body)

    # -- state

    async def get_state(self, call: RpcCall, request: m.GetActorStateRequest) -> Message:
        parts = await self._access.parts(request.actor_type)
        check_key(request.key)
        found = await done(faults.STATE_GET, parts.state.get(request.actor_type, request.actor_id, request.key))
        return m.GetActorStateResponse(data=found.value or b"", metadata=found.metadata)

    async def transact(self, call: RpcCall, request: m.ExecuteActorStateTransactionRequest) -> Message:
        parts = await self._access.parts(request.actor_type)
        operations = [_operation(item, ttl=parts.ttl) for item in request.operations]
        await done(faults.STATE_SAVE, parts.state.transact(request.actor_type, request.actor_id, operations))
        return EMPTY

    # -- reminders

    async def create_reminder(self, call: RpcCall, request: m.RegisterActorReminderRequest) -> Message:
        await self._access.parts(request.actor_type)
        check_name(request.name, "reminder")
        parts = await self._access.hosting(request.actor_type)
        try:
            policy = policy_of(request.failure_policy) if request.HasField("failure_policy") else None
            await parts.reminders.create(
                request.actor_type, request.actor_id, request.name, due_time=request.due_time, period=request.period,
                ttl=request.ttl, data=as_json_text(request.data),
                overwrite=request.overwrite if request.HasField("overwrite") else True, failure_policy=policy,
            )  # fmt: skip
        except JobExists as error:
            raise ApiError(faults.REMINDER_EXISTS, name=request.name) from error
        except ComponentError as error:
            raise failed(faults.REMINDER_CREATE, error) from error
        return EMPTY

    async def get_reminder(self, call: RpcCall, request: m.GetActorReminderRequest) -> Message:
        parts = await self._access.hosting(request.actor_type)
        job = await done(faults.REMINDER_GET, parts.reminders.get(request.actor_type, request.actor_id, request.name))
        if job is None:
            raise ApiError(faults.REMINDER_NOT_FOUND, name=request.name)
        reply = m.GetActorReminderResponse(
            actor_type=request.actor_type, actor_id=request.actor_id, due_time=job.due_time or None,
            period=job.schedule or None, ttl=job.ttl or None,
        )  # fmt: skip
        if job.payload:
            reply.data.MergeFromString(job.payload)
        return reply

    async def delete_reminder(self, call: RpcCall, request: m.UnregisterActorReminderRequest) -> Message:
        parts = await self._access.hosting(request.actor_type)
        await done(faults.REMINDER_DELETE, parts.reminders.delete(request.actor_type, request.actor_id, request.name))
        return EMPTY

    async def delete_reminders(self, call: RpcCall, request: m.UnregisterActorRemindersByTypeRequest) -> Message:
        parts = await self._access.hosting(request.actor_type)
        actor_id = request.actor_id if request.HasField("actor_id") else None
        removing = parts.scheduler.delete_reminders(parts.namespace, request.actor_type, actor_id)
        await done(faults.REMINDER_DELETE, removing)
        return m.UnregisterActorRemindersByTypeResponse()

    async def list_reminders(self, call: RpcCall, request: m.ListActorRemindersRequest) -> Message:
        parts = await self._access.hosting(request.actor_type)
        actor_id = request.actor_id if request.HasField("actor_id") else None
        reply = m.ListActorRemindersResponse()
        for key, job in await parts.scheduler.list_reminders(parts.namespace, request.actor_type, actor_id):
            reply.reminders.append(_named(key.actor_type, key.actor_id, key.name, job))
        return reply

    # -- timers

    async def create_timer(self, call: RpcCall, request: m.RegisterActorTimerRequest) -> Message:
        parts = await self._access.parts(request.actor_type)
        check_name(request.name, "timer")
        setting = parts.timers.create(
            request.actor_type, request.actor_id, request.name, due_time=request.due_time, period=request.period,
            ttl=request.ttl, callback=request.callback, data=as_json_text(request.data),
        )  # fmt: skip
        await done(faults.TIMER_CREATE, setting)
        return EMPTY

    async def delete_timer(self, call: RpcCall, request: m.UnregisterActorTimerRequest) -> Message:
        parts = await self._access.parts(request.actor_type)
        await parts.timers.delete(request.actor_type, request.actor_id, request.name)
        return EMPTY


def _headers(request: m.InvokeActorRequest) -> tuple[bytes, Headers]:
    """Return content type and headers of the metadata of a call. Raises `RpcError` for what no header can be.

    Data without a type are called JSON: that is what SDKs send, and HTTP frameworks read no body without a type.
    """
    content_type = JSON if request.data else b""
    headers: Headers = []
    for name, text in request.metadata.items():
        key, value = name.lower().encode(), text.encode()
        if not sendable(key, value):
            raise RpcError(Code.INVALID_ARGUMENT, f"invalid request: the metadata {name[:64]!r} cannot be passed on")
        if key == b"content-type":
            content_type = value
        elif key not in OWN:
            headers.append((key, value))
    return content_type, headers


def _operation(item: m.TransactionalActorStateOperation, *, ttl: bool) -> Set | Delete:
    kind = item.operationType
    if kind not in ("upsert", "delete"):
        raise ApiError(faults.UNKNOWN_OPERATION, operation=kind)
    if not item.key:
        raise ApiError(faults.STATE_SAVE, error=f"the {kind} operation has no key")
    check_key(item.key)
    if kind == "delete":
        return Delete(item.key)
    metadata = dict(item.metadata)
    try:
        check_ttl(metadata, ttl=ttl)
    except ValueError as error:
        raise ApiError(faults.STATE_SAVE, error=error) from error
    return Set(item.key, item.value.value, metadata=metadata)


def _named(actor_type: str, actor_id: str, name: str, job: Job) -> m.NamedActorReminder:
    found = m.NamedActorReminder(name=name)
    reminder = found.reminder
    reminder.actor_type, reminder.actor_id = actor_type, actor_id
    if job.due_time:
        reminder.due_time = job.due_time
    if job.schedule:
        reminder.period = job.schedule
    if job.payload:
        reminder.data.MergeFromString(job.payload)
    return found
