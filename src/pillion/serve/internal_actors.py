"""Calls of actors that live here by other sidecars (spec `actors-workflows-jobs.md` 1.4, `grpc-api.md` 8).

What comes in was routed once and goes no further. The texts of some errors are what other sidecars go by when they
decide whether to look the actor up again. Knows: the three methods, the envelope. Never knows: turns, placement.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.errors import Code, ComponentError
from pillion.kinds.actors import (
    ActorCall,
    ActorClosed,
    LostPlace,
    Moved,
    NoHost,
    NoPlacement,
    RuntimeClosed,
    TooDeep,
)
from pillion.net.exchange import Method, RpcError
from pillion.observe.spans import actor_span, http_error
from pillion.observe.tracing import SpanKind
from pillion.peers.actors import read_tick
from pillion.peers.call import SERVICE
from pillion.wire import envelope, trace
from pillion.wire.http1 import HOP_BY_HOP
from pillion.wire.messages import internals
from pillion.wire.methods import VERBS, BadMethod, from_metadata_name, normalise

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.kinds.actors import ActorReply, Actors, Headers
    from pillion.net.exchange import ServerCall
    from pillion.observe.tracing import Tracer

    Admit = Callable[[ServerCall, str, str], None]
    """Called with the call, the type and the method; raises `RpcError` for a caller that may not."""

CALL_ACTOR, CALL_ACTOR_REMINDER, CALL_ACTOR_STREAM = (
    SERVICE + name for name in ("CallActor", "CallActorReminder", "CallActorStream")
)
MOVED = "error invoke actor method: remote actor moved"
"""By this very text a sidecar knows that it may look the actor up again: nothing has run."""
_LEFT_OUT = HOP_BY_HOP | {b"host", b"content-length", b"content-type", b"x-dapr-remote"}
_ERROR = (b"x-daprerrorresponseheader", b"true")
_CONTEXT = (b"traceparent", b"tracestate", b"grpc-trace-bin")


class InternalActors:
    """The methods, for `InternalService(further=...)`. `admit` None: every sidecar that can connect may call."""

    def __init__(self, actors: Actors, *, admit: Admit | None = None, tracer: Tracer | None = None) -> None:
        self._actors = actors
        self._admit = admit
        self._tracer = tracer

    def methods(self) -> dict[str, Method]:
        """The methods by full name."""
        return {
            CALL_ACTOR: Method(unary=self._call),
            CALL_ACTOR_REMINDER: Method(unary=self._tick),
            CALL_ACTOR_STREAM: Method(streaming=self._stream),
        }

    async def _call(self, call: ServerCall, request: bytes) -> bytes:
        asked = self._read(call, request)
        if self._tracer is not None:
            return _written(await self._traced(call, asked, self._tracer))
        return _written(await self._run(asked))

    async def _run(self, asked: ActorCall) -> ActorReply:
        try:
            return await self._actors.invoke(asked)
        except ComponentError as error:
            raise status(error) from error

    async def _traced(self, call: ServerCall, asked: ActorCall, tracer: Tracer) -> ActorReply:
        """Call under a span of its own, below the context of the call, or that of its headers."""
        found = {name: value for name, value in reversed(asked.headers) if name in _CONTEXT}
        parent = found.get(b"traceparent", b"").decode("latin-1")
        binary = call.first("grpc-trace-bin")
        if isinstance(binary, bytes):
            parent = trace.from_binary(binary) or parent
        span = tracer.start(SpanKind.SERVER, parent, found.get(b"tracestate", b"").decode("latin-1"))
        asked.headers = [pair for pair in asked.headers if pair[0] not in _CONTEXT]
        asked.headers.append((b"traceparent", span.traceparent.encode()))
        if span.tracestate:
            asked.headers.append((b"tracestate", span.tracestate.encode("latin-1")))
        try:
            reply = await self._run(asked)
            span.error = http_error(reply.status)
            return reply
        except BaseException as error:
            span.error = error.message if isinstance(error, RpcError) else type(error).__name__
            raise
        finally:
            if span.sampled:
                span.name, span.attributes = actor_span(asked.actor_type, asked.actor_id, asked.method)
                tracer.end(span)

    async def _tick(self, call: ServerCall, request: bytes) -> bytes:
        try:
            tick = read_tick(request)
        except envelope.BadEnvelope as error:
            raise _malformed(str(error)) from error
        self._check(call, tick.actor_type, tick.name)
        try:
            await self._actors.tick(tick, remote=True)
        except ComponentError as error:
            raise status(error) from error
        return b""

    async def _stream(self, call: ServerCall) -> None:
        request = await call.receive()
        if request is None:
            raise _malformed("there is none")
        asked = self._read(call, request)
        try:
            async for item in self._actors.stream(asked):
                answer = internals.InternalInvokeResponse()
                answer.status.code = 200
                answer.message.data.MergeFromString(item)
                await call.send(answer.SerializeToString())
        except ComponentError as error:
            raise status(error) from error

    def _read(self, call: ServerCall, request: bytes) -> ActorCall:
        """Return the call of a message. Raises `RpcError`."""
        try:
            head = envelope.read_request(request)
        except envelope.BadEnvelope as error:
            raise _malformed(str(error)) from error
        if head.method is None or head.actor is None or not head.actor[0]:
            raise _malformed("it names no actor or no method")
        try:
            method = normalise(head.method)
        except BadMethod as error:
            raise _malformed(str(error)) from error
        actor_type, actor_id = head.actor
        self._check(call, actor_type, method)
        headers: Headers = []
        content_type = head.content_type
        for pair in head.headers or ():
            name = pair[0]
            if name == b"content-type":
                content_type = content_type or pair[1]
            elif name not in _LEFT_OUT:
                headers.append(pair if name[:1] not in b":g" else (from_metadata_name(name), pair[1]))
        verb = VERBS[head.verb] if 0 < head.verb < len(VERBS) else ""
        return ActorCall(actor_type, actor_id, method, head.data, headers, content_type, verb, True, head.query)

    def _check(self, call: ServerCall, actor_type: str, method: str) -> None:
        if self._admit is not None:
            self._admit(call, actor_type, method)


def status(error: ComponentError) -> RpcError:
    """Return a failure as the calling sidecar understands it."""
    match error:
        case Moved() | NoHost() | ActorClosed() | LostPlace():
            return RpcError(Code.INTERNAL, MOVED)
        case RuntimeClosed():
            return RpcError(Code.UNAVAILABLE, "actor runtime is closed")
        case NoPlacement():
            return RpcError(Code.UNAVAILABLE, "placement service is not configured")
        case TooDeep():
            return RpcError(Code.RESOURCE_EXHAUSTED, "maximum stack depth exceeded")
        case _:
            return RpcError(Code.INTERNAL, f"error invoke actor method: {error}")


def _written(reply: ActorReply) -> bytes:
    headers = reply.headers
    if reply.is_error and all(name != _ERROR[0] for name, _ in headers):
        headers = [*headers, _ERROR]
    return envelope.response_head(reply.status, headers, reply.content_type, data=reply.body)


def _malformed(text: str) -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, f"parsing InternalInvokeRequest error: {text}")
