"""Actors over HTTP: methods, state, reminders and timers (spec `http-api.md` 4.6), and the rows of both protocols.

Knows: bodies, statuses and headers. Never knows: where an actor lives, how its turn comes, who keeps its reminders.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson

from pillion.api.operation import Http, Operation, Rpc
from pillion.api.render import JSON
from pillion.blocks import actors_faults as faults
from pillion.blocks.actor_access import check_key, check_name, check_ttl, done, failed
from pillion.blocks.actors_rpc import ActorsRpc
from pillion.errors import ApiError, ComponentError
from pillion.kinds.actors import ActorCall, NoHost
from pillion.kinds.jobs import JobExists
from pillion.kinds.state import Delete, Set
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Response
from pillion.wire import gojson
from pillion.wire.messages import runtime as m
from pillion.wire.messages import wellknown
from pillion.wire.methods import named_in_connection, safe_query

if TYPE_CHECKING:
    from pillion.api.call import HttpCall
    from pillion.blocks.actor_access import ActorAccess
    from pillion.kinds.jobs import Job

METHODS = ("GET", "POST", "PUT", "DELETE")
WRITE = ("POST", "PUT")
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")
_USUAL = (b"keep-alive", b"close", b"Keep-Alive")


class ActorsBlock:
    """The handlers over HTTP; those over gRPC are `ActorsRpc`'s."""

    def __init__(self, access: ActorAccess) -> None:
        self._access = access
        self._rpc = ActorsRpc(access)

    def operations(self) -> list[Operation]:
        """The rows of this block."""
        rpc, actor = self._rpc, "v1.0/actors/{type}/{id}"
        return [
            Operation(
                "InvokeActor", "actors", http=(Http(METHODS, actor + "/method/{method*}", self.invoke),),
                rpc=Rpc(("InvokeActor",), m.InvokeActorRequest, rpc.invoke),
            ),
            Operation(
                "GetActorState", "actors", http=(Http(("GET",), actor + "/state/{key}", self.get_state),),
                rpc=Rpc(("GetActorState",), m.GetActorStateRequest, rpc.get_state),
            ),
            Operation(
                "ExecuteActorStateTransaction", "actors", http=(Http(WRITE, actor + "/state", self.transact),),
                rpc=Rpc(("ExecuteActorStateTransaction",), m.ExecuteActorStateTransactionRequest, rpc.transact),
            ),
            Operation(
                "RegisterActorReminder", "actors",
                http=(Http(WRITE, actor + "/reminders/{name}", self.create_reminder),),
                rpc=Rpc(("RegisterActorReminder",), m.RegisterActorReminderRequest, rpc.create_reminder),
            ),
            Operation(
                "GetActorReminder", "actors",
                http=(Http(("GET",), actor + "/reminders/{name}", self.get_reminder),),
                rpc=Rpc(("GetActorReminder",), m.GetActorReminderRequest, rpc.get_reminder),
            ),
            Operation(
                "UnregisterActorReminder", "actors",
                http=(Http(("DELETE",), actor + "/reminders/{name}", self.delete_reminder),),
                rpc=Rpc(("UnregisterActorReminder",), m.UnregisterActorReminderRequest, rpc.delete_reminder),
            ),
            Operation(
                "UnregisterActorRemindersByType", "actors",
                rpc=Rpc(
                    ("UnregisterActorRemindersByType",), m.UnregisterActorRemindersByTypeRequest, rpc.delete_reminders
                ),
            ),
            Operation(
                "ListActorReminders", "actors",
                rpc=Rpc(("ListActorReminders",), m.ListActorRemindersRequest, rpc.list_reminders),
            ),
            Operation(
                "RegisterActorTimer", "actors", http=(Http(WRITE, actor + "/timers/{name}", self.create_timer),),
                rpc=Rpc(("RegisterActorTimer",), m.RegisterActorTimerRequest, rpc.create_timer),
            ),
            Operation(
                "UnregisterActorTimer", "actors",
                http=(Http(("DELETE",), actor + "/timers/{name}", self.delete_timer),),
                rpc=Rpc(("UnregisterActorTimer",), m.UnregisterActorTimerRequest, rpc.delete_timer),
            ),
        ]  # fmt: skip

    # -- methods

    async def invoke(self, call: HttpCall) -> Response:
        """Run a method; whatever the verb, the application sees PUT."""
        access, request = self._access, call.request
        actor_type, actor_id, method = call.params
        method = access.target(actor_type, actor_id, method)
        try:
            body = call.body()
        except (BodyTooLarge, BodyIncomplete) as error:
            raise ApiError(faults.BAD_REQUEST, text=str(error)) from error
        headers = access.sent(request.headers)
        options = request.header(b"connection")
        if options is not None and options not in _USUAL:
            named = named_in_connection(options)
            headers = [pair for pair in headers if pair[0] not in named]
        query = safe_query(call.query_text) if call.query_text else b""
        content_type = request.header(b"content-type") or b""
        asked = ActorCall(actor_type, actor_id, method, body, headers, content_type, request.method, False, query)
        try:
            reply = await access.invoke(asked)
        except NoHost as error:
            nowhere = ApiError(faults.NO_ADDRESS, type=actor_type, id=actor_id)
            raise ApiError(faults.INVOKE, error=f"failed to lookup actor: {nowhere}") from error
        if reply.content_type:
            reply.headers.append((b"content-type", reply.content_type))
        return Response(reply.status, reply.headers, reply.body)

    # -- state

    async def get_state(self, call: HttpCall) -> Response:
        actor_type, actor_id, key = call.params
        parts = await self._access.parts(actor_type)
        check_key(key)
        found = await done(faults.STATE_GET, parts.state.get(actor_type, actor_id, key))
        if not found.value:
            return Response(204)
        headers = [JSON]
        headers += [(b"metadata." + name.lower().encode(), value.encode()) for name, value in found.metadata.items()]
        return Response(200, headers, found.value)

    async def transact(self, call: HttpCall) -> Response:
        actor_type, actor_id = call.params
        parts = await self._access.parts(actor_type)
        try:
            rows = gojson.loads_spelled(call.body())
            if rows is None:
                rows = []
            if not isinstance(rows, list):
                raise ValueError("the operations must be a list")
        except (ValueError, BodyTooLarge, BodyIncomplete) as error:
            raise ApiError(faults.MALFORMED, text=error) from error
        try:
            operations = [_operation(row, ttl=parts.ttl) for row in rows]
        except ValueError as error:
            raise ApiError(faults.STATE_SAVE, error=error) from error
        await done(faults.STATE_SAVE, parts.state.transact(actor_type, actor_id, operations))
        return Response(204)

    # -- reminders

    async def create_reminder(self, call: HttpCall) -> Response:
        actor_type, actor_id, name = call.params
        parts = await self._access.parts(actor_type)
        check_name(name, "reminder")
        fields = _fields(call)
        overwrite = fields.get("overwrite")
        if overwrite is not None and not isinstance(overwrite, bool):
            raise ApiError(faults.MALFORMED, text="overwrite must be true or false")
        if not parts.actors.hosts(actor_type):
            raise ApiError(faults.NOT_HOSTED)
        try:
            await parts.reminders.create(
                actor_type, actor_id, name, due_time=_text(fields, "duetime"), period=_text(fields, "period"),
                ttl=_text(fields, "ttl"), data=_data(fields), overwrite=overwrite is not False,
            )  # fmt: skip
        except JobExists as error:
            raise ApiError(faults.REMINDER_EXISTS, name=name) from error
        except ComponentError as error:
            raise failed(faults.REMINDER_CREATE, error) from error
        return Response(204)

    async def get_reminder(self, call: HttpCall) -> Response:
        actor_type, actor_id, name = call.params
        parts = await self._access.hosting(actor_type)
        job = await done(faults.REMINDER_GET, parts.reminders.get(actor_type, actor_id, name))
        if job is None:
            raise ApiError(faults.REMINDER_NOT_FOUND, name=name)
        return Response(200, [JSON], gojson.escaped(orjson.dumps(_shown(actor_type, actor_id, job))) + b"\n")

    async def delete_reminder(self, call: HttpCall) -> Response:
        actor_type, actor_id, name = call.params
        parts = await self._access.hosting(actor_type)
        await done(faults.REMINDER_DELETE, parts.reminders.delete(actor_type, actor_id, name))
        return Response(204)

    # -- timers

    async def create_timer(self, call: HttpCall) -> Response:
        actor_type, actor_id, name = call.params
        parts = await self._access.parts(actor_type)
        check_name(name, "timer")
        fields = _fields(call)
        setting = parts.timers.create(
            actor_type, actor_id, name, due_time=_text(fields, "duetime"), period=_text(fields, "period"),
            ttl=_text(fields, "ttl"), callback=_text(fields, "callback"), data=_data(fields),
        )  # fmt: skip
        await done(faults.TIMER_CREATE, setting)
        return Response(204)

    async def delete_timer(self, call: HttpCall) -> Response:
        actor_type, actor_id, name = call.params
        parts = await self._access.parts(actor_type)
        await parts.timers.delete(actor_type, actor_id, name)
        return Response(204)


def _fields(call: HttpCall) -> dict[str, Any]:
    """Return the fields of a reminder or timer, names in lower case; data keep their order and spelling."""
    try:
        body = call.body()
        try:
            value = gojson.loads_exact(body)
        except ValueError:
            value = gojson.loads(body)  # tells what is wrong, or that only what follows the document is
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise ValueError("the body must be a JSON object")
    except (ValueError, BodyTooLarge, BodyIncomplete) as error:
        raise ApiError(faults.MALFORMED, text=error) from error
    return {key.lower(): item for key, item in value.items()}


def _text(fields: dict[str, Any], name: str) -> str:
    value = fields.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ApiError(faults.MALFORMED, text=f"{name} must be a string")
    return value


def _data(fields: dict[str, Any]) -> bytes | None:
    try:
        return orjson.dumps(fields["data"]) if "data" in fields else None
    except orjson.JSONEncodeError as error:
        raise ApiError(faults.MALFORMED, text="exceeded max depth") from error


def _shown(actor_type: str, actor_id: str, job: Job) -> dict[str, object]:
    """Return a reminder as it is told: what it has not got is left out."""
    shown: dict[str, object] = {"actorID": actor_id, "actorType": actor_type}
    data = _kept(job.payload)
    if data is not None:
        shown["data"] = data
    ttl = job.ttl if _RFC3339.fullmatch(job.ttl) else ""
    texts = {"dueTime": job.due_time, "period": job.schedule, "ttl": ttl}
    return shown | {name: text for name, text in texts.items() if text}


def _kept(payload: bytes) -> object:
    """Return the data of a reminder: JSON as it was registered, what is none as base64; None for nothing."""
    if not payload:
        return None
    packed = wellknown.Any.FromString(payload)
    kept = wellknown.BytesValue()
    raw = kept.value if packed.Unpack(kept) else packed.value
    try:
        orjson.loads(raw)
    except ValueError:
        return raw.decode("latin-1")
    return orjson.Fragment(raw)


def _operation(row: object, *, ttl: bool) -> Set | Delete:
    """Return one operation of a transaction. Raises ValueError with a text for the client."""
    fields = _object(row)
    kind = fields.get("operation")
    if kind not in ("upsert", "delete"):
        raise ValueError(f"operation type {kind} not supported")
    request = _object(fields.get("request"))
    key = request.get("key")
    if not isinstance(key, str) or not key:
        raise ValueError(f"the {kind} operation has no key")
    check_key(key)
    etag = request.get("etag")
    if etag is not None and not isinstance(etag, str):
        raise ValueError("etag must be a string")
    if kind == "delete":
        return Delete(key, etag or None)
    metadata = request.get("metadata") or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata must be an object of strings")
    check_ttl(metadata, ttl=ttl)
    value = gojson.sorted_bytes(request.get("value"))
    return Set(key, value, etag or None, metadata=metadata, is_json=True)


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        raise ValueError("an operation and its request must be objects that are not empty")
    return {key.lower(): item for key, item in value.items()}
