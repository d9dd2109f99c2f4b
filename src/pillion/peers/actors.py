"""Calls of actors that live beside another sidecar: `CallActor`, `CallActorReminder`, `CallActorStream` (spec
`actors-workflows-jobs.md` 1.4, `grpc-api.md` 8).

Satisfies `actors.host.Peers`. Knows: those messages, which answers mean that the actor has moved. Never knows: where
actors live, what is tried again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from pillion.errors import Code, code_name
from pillion.kinds.actors import (
    ActorReply,
    ConnectionLost,
    Moved,
    RemoteFailure,
    Tick,
)
from pillion.net.exchange import RpcError
from pillion.peers.call import SERVICE
from pillion.peers.resolve import Place, Target
from pillion.wire import envelope
from pillion.wire.messages import internals, wellknown
from pillion.wire.methods import VERB_NUMBERS
from pillion.wire.trace import to_binary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillion.kinds.actors import ActorCall, ActorError, Headers, Owner
    from pillion.net.exchange import Metadata
    from pillion.peers.pool import Pool

CALL_ACTOR = SERVICE + "CallActor"
CALL_ACTOR_REMINDER = SERVICE + "CallActorReminder"
CALL_ACTOR_STREAM = SERVICE + "CallActorStream"
MOVED = "error invoke actor method: remote actor moved"
"""How a sidecar says that it does not host the actor, or not any more; code INTERNAL."""
PLACING = ": placement is disseminating"
NO_CONNECTION = "connection error:"
"""How UNAVAILABLE begins where there was no connection at all: nothing can have run."""
CLOSED = frozenset({"actor runtime is closed", "placement service is not configured"})
"""UNAVAILABLE as the answer of a sidecar that ran nothing. All others come from a connection that broke."""
ERROR_MARK = b"x-daprerrorresponseheader"
"""The header of an error that the actor declared itself (1.6)."""
REMEMBERED = 256
CALLBACK = 1000
"""Our own field of `Reminder`: the method that a timer names."""
BYTES_URL = "type.googleapis.com/google.protobuf.BytesValue"
UNKNOWN_MESSAGE = "the peer's answer cannot be read"
_CALLBACK_TAG = envelope.varint(CALLBACK << 3 | 2)


class PeerActors:
    """Calls to other sidecars about actors, over the channels that service invocation uses too."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._targets: dict[tuple[str, str], Target] = {}

    async def invoke(self, owner: Owner, call: ActorCall) -> ActorReply:
        """Call a method of the actor at its owner. Raises `Moved`, `RemoteFailure`."""
        answer = await self._unary(owner, CALL_ACTOR, write_call(call), _trace(call.headers))
        try:
            return read_reply(answer)
        except envelope.BadEnvelope as error:
            raise RemoteFailure(f"{UNKNOWN_MESSAGE}: {error}", Code.INTERNAL) from error

    async def tick(self, owner: Owner, tick: Tick) -> None:
        """Let the owner run a reminder or timer. Raises `Moved`, `RemoteFailure`."""
        await self._unary(owner, CALL_ACTOR_REMINDER, write_tick(tick), [])

    async def stream(self, owner: Owner, call: ActorCall) -> AsyncIterator[bytes]:
        """Yield the data of each message, a serialised `google.protobuf.Any`. Raises `Moved`, `RemoteFailure`."""
        lease = self._pool.take(owner.address, self._target(owner))
        stream = lease.channel.stream(CALL_ACTOR_STREAM, metadata=_trace(call.headers))
        whole = False
        try:
            await stream.send_last(write_call(call))
            while (message := await stream.receive()) is not None:
                yield internals.InternalInvokeResponse.FromString(message).message.data.SerializeToString()
            whole = True
        except RpcError as error:
            whole = True
            if error.code == Code.UNAVAILABLE:
                self._pool.retire(lease)
            raise _failure(error) from error
        except DecodeError as error:
            raise RemoteFailure(f"{UNKNOWN_MESSAGE}: {error}", Code.INTERNAL) from error
        finally:
            if not whole:
                stream.cancel()
            self._pool.give_back(lease)

    async def _unary(self, owner: Owner, method: str, request: bytes, metadata: Metadata) -> bytes:
        pool = self._pool
        lease = pool.take(owner.address, self._target(owner))
        try:
            return (await lease.channel.unary(method, request, metadata=metadata)).message
        except RpcError as error:
            if error.code == Code.UNAVAILABLE:
                pool.retire(lease)
            raise _failure(error) from error
        finally:
            pool.give_back(lease)

    def _target(self, owner: Owner) -> Target:
        key = (owner.app_id, owner.namespace)
        target = self._targets.get(key)
        if target is None:
            if len(self._targets) >= REMEMBERED:
                self._targets.clear()
            target = self._targets[key] = Target(owner.app_id, Place.PEER, owner.app_id, owner.namespace)
        return target


def _failure(error: RpcError) -> ActorError:
    if error.code == Code.INTERNAL and (error.message == MOVED or error.message.endswith(PLACING)):
        return Moved("remote actor moved")
    text = f"rpc error: code = {code_name(error.code)} desc = {error.message}"
    if error.code != Code.UNAVAILABLE:
        return RemoteFailure(text, error.code)
    if error.message not in CLOSED and not error.message.startswith(NO_CONNECTION):
        return ConnectionLost(text, error.code)
    failure = RemoteFailure(text, error.code)
    failure.retryable = True
    return failure


def _trace(headers: Headers) -> Metadata:
    """Return the trace context of a call as gRPC metadata, in both forms; nothing without one."""
    for name, value in headers:
        if name == b"traceparent":
            parent = value.decode("latin-1")
            return [("traceparent", parent), ("grpc-trace-bin", to_binary(parent))]
    return []


# --- messages ------------------------------------------------------------------------------------------------------


def write_call(call: ActorCall) -> bytes:
    """Return the `InternalInvokeRequest` of a call."""
    headers = call.headers
    if call.content_type:
        headers = [*headers, (b"content-type", call.content_type)]
    verb = VERB_NUMBERS.get(call.verb, 0)
    message = envelope.invoke_request(call.method, verb, call.query, call.content_type, "", call.body)
    actor = envelope.field(1, call.actor_type.encode()) + envelope.field(2, call.actor_id.encode())
    return envelope.request_head(headers, message) + envelope.field(4, actor)


def read_reply(data: bytes) -> ActorReply:
    """Return the reply that an `InternalInvokeResponse` carries. Raises `BadEnvelope`."""
    head = envelope.read_response(data)
    content_type, is_error = head.content_type, False
    headers: Headers = []
    for pair in head.headers:
        name = pair[0]
        if name == b"content-type":
            content_type = content_type or pair[1]
        elif name != b"content-length":
            is_error = is_error or name == ERROR_MARK
            headers.append(pair)
    return ActorReply(head.data, head.code or 200, headers, content_type, is_error)


def write_tick(tick: Tick) -> bytes:
    """Return the `Reminder` of a tick. It has no field for what a timer calls; ours is one that others pass over."""
    message = internals.Reminder(
        actor_id=tick.actor_id, actor_type=tick.actor_type, name=tick.name, due_time=tick.due_time, period=tick.period,
        is_timer=tick.is_timer,
    )  # fmt: skip
    if tick.payload:
        message.data.MergeFromString(tick.payload)
    elif tick.data is not None:
        message.data.CopyFrom(any_of_json(tick.data))
    serialised: bytes = message.SerializeToString()
    callback = tick.callback.encode()
    return serialised + _CALLBACK_TAG + envelope.varint(len(callback)) + callback if callback else serialised


def read_tick(data: bytes) -> Tick:
    """Return the tick of a `Reminder`. Raises `BadEnvelope`."""
    try:
        message = internals.Reminder.FromString(data)
    except DecodeError as error:
        raise envelope.BadEnvelope(str(error)) from error
    if not message.actor_type or not message.actor_id or not message.name:
        raise envelope.BadEnvelope("a reminder without an actor, or without a name")
    callback = b""
    for number, value in envelope.fields(data):
        if number == CALLBACK and isinstance(value, bytes):
            callback = value
    payload = message.data.SerializeToString() if message.HasField("data") else b""
    return Tick(
        message.actor_type, message.actor_id, message.name, json_of_any(payload), message.due_time, message.period,
        callback.decode("utf-8", "replace"), message.is_timer, payload,
    )  # fmt: skip


def any_of_json(data: bytes) -> wellknown.Any:
    """Return JSON text as the `Any` in which reminders keep it: a `BytesValue` (1.11)."""
    return wellknown.Any(type_url=BYTES_URL, value=wellknown.BytesValue(value=data).SerializeToString())


def json_of_any(payload: bytes) -> bytes | None:
    """Return the JSON text in a serialised `Any`; None for none, and for what no reminder with data has."""
    if not payload:
        return None
    try:
        found = wellknown.Any.FromString(payload)
        if found.type_url.rsplit("/", 1)[-1] != "google.protobuf.BytesValue":
            return None
        value: bytes = wellknown.BytesValue.FromString(found.value).value
    except DecodeError:
        return None
    return value or None
