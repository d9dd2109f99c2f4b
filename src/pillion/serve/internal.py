"""The internal server: what other sidecars ask of this one (spec `grpc-api.md` 8).

Knows: `CallLocal` and `CallLocalStream`, access rules as one callable, where other methods go. Never knows: how calls
arrive, what the rules are, actors.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Protocol

from pillion.app.invoke import NO_APP, invoke_app
from pillion.blocks.invoke import quoted
from pillion.blocks.invoke_http import close
from pillion.errors import Code, ComponentError
from pillion.kinds.invocation import Invocation, gather
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Method, RpcError
from pillion.net.http_client import ConnectFailed, HttpError
from pillion.observe.spans import http_error, local_span
from pillion.observe.tracing import SpanKind
from pillion.peers.call import CALL_LOCAL, CALL_LOCAL_STREAM, CHUNK, SERVICE
from pillion.peers.heads import MANY_HEADERS, WITH_BODY
from pillion.wire import envelope, trace
from pillion.wire.methods import VERBS, BadMethod, guarded, normalise

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pillion.app.channel import AppChannel
    from pillion.kinds.invocation import Header, Headers, Reply
    from pillion.net.exchange import Metadata, ServerCall, Streaming
    from pillion.observe.tracing import Tracer

    Authorize = Callable[[str | None, str, str], None]
    """Called with the caller's SPIFFE id (None without mTLS), the decoded method without its `/`, and the verb, "NONE"
    for gRPC clients that give none; raises `RpcError`."""
    Identity = Callable[[ServerCall], str | None]

ACTOR_METHODS = tuple(SERVICE + name for name in ("CallActor", "CallActorReminder", "CallActorStream"))
REMEMBERED, MEMORABLE = 512, 4096
"""How many request heads are remembered, and up to how many bytes each: callers repeat themselves."""
NO_FIELDS = "request does not contain the required fields in the leading chunk"
NO_MESSAGE = "field Message is nil"
_TRACE = frozenset(("grpc-trace-bin", "traceparent", "tracestate"))
_APP_FAILURES = (RpcError, ComponentError, HttpError, BodyTooLarge, BodyIncomplete, OSError, ValueError)


class Meter(Protocol):
    """What is counted of calls by other sidecars (spec `runtime.md` 6.1)."""

    def caller(self, name: str) -> CallerMeter: ...


class CallerMeter(Protocol):
    """What is counted of calls by one application."""

    def received(self) -> None: ...

    def replied(self, status: int) -> None: ...


class InternalService:
    """The `GrpcService` of the internal port.

    `app` returns the channel to the application, None while there is none. `authorize` is absent when no rules are
    configured; `identity` tells who the peer of a call is by its certificate. `proxy` serves methods of applications.
    `further` are methods by full name that others serve here, actors above all.
    """

    def __init__(
        self,
        app: Callable[[], AppChannel | None],
        *,
        proxy: Streaming,
        authorize: Authorize | None = None,
        identity: Identity | None = None,
        further: Mapping[str, Method] | None = None,
        meter: Meter | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._meter = meter
        self._ask = self._counted if tracer is None else self._traced
        """Calls the application; what is counted and recorded of the call is around it."""
        self._app = app
        self._authorize = authorize
        self._identity = identity
        self._proxy = Method(streaming=proxy)
        self._seen: dict[bytes, Invocation] = {}
        self._methods = {name: Method(streaming=_unimplemented) for name in ACTOR_METHODS}
        self._methods[CALL_LOCAL] = Method(unary=self._call_local)
        self._methods[CALL_LOCAL_STREAM] = Method(streaming=self._call_local_stream)
        self._methods.update(further or {})

    def find(self, method: str, metadata: Metadata) -> Method | None:
        return self._methods.get(method, self._proxy)

    async def _call_local(self, call: ServerCall, request: bytes) -> bytes:
        """The unary form, for peers that know no other."""
        app = self._channel()
        try:
            head = envelope.read_request(request)
        except envelope.BadEnvelope as error:
            raise _malformed(str(error)) from error
        if head.method is None:
            raise _malformed(NO_MESSAGE)
        invocation = self._admit(call, _invocation(head, head.method))
        invocation.body = head.data
        invocation.length = len(head.data)
        reply = await self._ask(app, invocation)
        try:
            body = await gather(reply.body)
        except _APP_FAILURES as error:
            raise _failure(error) from error
        if reply.http:
            return _http_head(reply.code, reply.content_type, len(body), tuple(reply.headers), body)
        return _grpc_head(reply, body)

    async def _call_local_stream(self, call: ServerCall) -> None:
        """The streaming form: head and body in pieces, both ways."""
        app = self._channel()
        message = await call.receive()
        if message is None:
            raise _malformed(NO_FIELDS)
        try:
            lead, payload, sequence = envelope.read_stream_message(message)
        except envelope.BadEnvelope as error:
            raise _malformed(str(error)) from error
        if lead is None:
            raise _malformed(NO_FIELDS)
        if payload is not None and sequence:
            raise _out_of_order(sequence, 0)
        known = self._seen.get(lead)
        if known is None:
            known = _read(lead)
            if len(lead) <= MEMORABLE:
                if len(self._seen) >= REMEMBERED:
                    self._seen.clear()
                self._seen[lead] = known
        invocation = self._admit(call, known.copy())
        if payload is not None and invocation.length == len(payload):
            invocation.body = payload
        else:
            await _set_body(call, invocation, payload)
        reply = await self._ask(app, invocation)
        if invocation.sse and reply.http:
            await _not_an_error(reply)
            code = 0
        else:
            code = reply.code
        await _answer(call, reply, code)

    async def _traced(self, app: AppChannel, invocation: Invocation) -> Reply:
        assert self._tracer is not None
        span = self._tracer.start(
            SpanKind.SERVER, invocation.traceparent.decode("latin-1"), invocation.tracestate.decode("latin-1")
        )
        invocation.traceparent, invocation.tracestate = span.traceparent.encode(), span.tracestate.encode("latin-1")
        try:
            reply = await self._counted(app, invocation)
            span.error = http_error(reply.code) if reply.http else reply.message if reply.code else None
            return reply
        except BaseException as error:
            span.error = error.message if isinstance(error, RpcError) else type(error).__name__
            raise
        finally:
            if span.sampled:
                span.name, span.attributes = local_span(self._tracer.app_id, invocation.method)
                self._tracer.end(span)

    async def _counted(self, app: AppChannel, invocation: Invocation) -> Reply:
        if self._meter is None:
            return await _ask(app, invocation)
        meter = self._meter.caller(_caller(invocation))
        meter.received()
        try:
            reply = await _ask(app, invocation)
        except RpcError as failure:
            meter.replied(failure.code)
            raise
        meter.replied(reply.code)
        return reply

    def _channel(self) -> AppChannel:
        app = self._app()
        if app is None:
            raise RpcError(Code.INTERNAL, NO_APP)
        return app

    def _admit(self, call: ServerCall, invocation: Invocation) -> Invocation:
        """Ask the rules, and take the trace from the call itself, which is nearer than that of the caller's client."""
        if self._authorize is not None:
            who = self._identity(call) if self._identity is not None else None
            try:
                self._authorize(who, guarded(invocation.method).lstrip("/"), invocation.verb)
            except BadMethod as error:
                raise RpcError(Code.INVALID_ARGUMENT, str(error)) from error
        binary = ""
        for name, value in call.metadata:
            if name not in _TRACE:
                continue
            if name == "grpc-trace-bin" and isinstance(value, bytes):
                binary = trace.from_binary(value)
                invocation.traceparent = binary.encode() or invocation.traceparent
            elif name == "traceparent" and isinstance(value, str) and not binary and trace.valid_parent(value):
                invocation.traceparent = value.encode()
            elif isinstance(value, str) and len(value) <= trace.MAX_STATE:
                invocation.tracestate = value.encode("latin-1")
        return invocation


def _read(lead: bytes) -> Invocation:
    """Return the call that a request head describes, without its body. Raises `RpcError`."""
    try:
        head = envelope.read_request(lead)
    except envelope.BadEnvelope as error:
        raise _malformed(str(error)) from error
    if head.headers is None or head.method is None:
        raise _malformed(NO_FIELDS)
    return _invocation(head, head.method)


def _invocation(head: envelope.RequestHead, method: str) -> Invocation:
    try:
        method = normalise(method)
    except BadMethod as error:
        raise RpcError(Code.INVALID_ARGUMENT, str(error)) from error
    verb = VERBS[head.verb] if head.verb < len(VERBS) else "NONE"
    invocation = Invocation("", "", method, verb, head.query, length=None)
    invocation.take(head.headers or [])
    if head.content_type:
        invocation.content_type = head.content_type
    invocation.type_url = head.type_url
    return invocation


async def _unimplemented(call: ServerCall) -> None:
    raise RpcError(Code.UNIMPLEMENTED, f"this sidecar hosts no actors: {call.method}")


def _malformed(text: str) -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, f"parsing InternalInvokeRequest error: {text}")


def _out_of_order(sequence: int, expected: int) -> RpcError:
    return RpcError(Code.INVALID_ARGUMENT, f"invalid sequence number received: {sequence} (expected: {expected})")


# --- bodies --------------------------------------------------------------------------------------------------------


class _Arriving:
    """The body of a call that is still arriving in messages. What breaks the protocol breaks off the request."""

    def __init__(self, call: ServerCall, length: int | None, payload: bytes | None) -> None:
        self.length = length
        self.trailers: Headers = []
        self._call = call
        self._payload = payload or b""
        self._sequence = 0 if payload is None else 1

    def __aiter__(self) -> _Arriving:
        return self

    async def __anext__(self) -> bytes:
        piece, self._payload = self._payload, b""
        while not piece:
            message = await self._call.receive()
            if message is None:
                raise StopAsyncIteration
            try:
                lead, payload, sequence = envelope.read_stream_message(message)
            except envelope.BadEnvelope as error:
                raise _malformed(str(error)) from error
            if lead:
                raise RpcError(Code.INVALID_ARGUMENT, "request metadata found in non-leading chunk")
            if payload is not None:
                if sequence != self._sequence:
                    raise _out_of_order(sequence, self._sequence)
                self._sequence += 1
                piece = payload
        return piece

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self])


async def _set_body(call: ServerCall, invocation: Invocation, payload: bytes | None) -> None:
    """Give the invocation its body as it comes; none when it turns out that there is none."""
    if payload is None and (invocation.length == 0 or (invocation.length is None and invocation.verb not in WITH_BODY)):
        # Verbs that seldom have a body: an application must not be told of one that is empty.
        if call.exhausted:
            invocation.length = 0
            return
        arriving = _Arriving(call, None, None)
        async for piece in arriving:
            arriving._payload = piece
            invocation.body = arriving
            invocation.length = None
            return
        invocation.length = 0
        return
    invocation.body = _Arriving(call, invocation.length, payload)


async def _ask(app: AppChannel, invocation: Invocation) -> Reply:
    """Ask the application. While it has not opened its port the call is UNAVAILABLE, not a failed reply: the caller
    takes another instance, or tries again.
    """
    try:
        reply = await invoke_app(app, invocation)
    except _APP_FAILURES as error:
        if app.starting and isinstance(error, ConnectFailed):
            raise RpcError(Code.UNAVAILABLE, _told(error)) from error
        raise _failure(error) from error
    if app.starting and not reply.http and reply.code == Code.UNAVAILABLE:
        raise RpcError(Code.UNAVAILABLE, reply.message)
    return reply


def _failure(error: Exception) -> RpcError:
    return RpcError(Code.INTERNAL, _told(error))


def _told(error: Exception) -> str:
    return f"error invoking app channel: {quoted(error)}"


def _caller(invocation: Invocation) -> str:
    """Return the application that calls, as its sidecar names it."""
    for name, value in invocation.headers:
        if name == b"dapr-caller-app-id":
            return value.decode("latin-1")
    return "unknown"


async def _not_an_error(reply: Reply) -> None:
    """An event stream has no room for another status than 200 (spec `http-api.md` 4.1)."""
    if not 200 <= reply.code < 300:
        await close(reply.body)
        text = f"received non-successful status code in response: {reply.code}"
        raise RpcError(Code.INTERNAL, f"error invoking app channel: {text}")


def _http_head(
    code: int, content_type: bytes, length: int | None, headers: tuple[Header, ...], body: bytes = b""
) -> bytes:
    """Return the head of an HTTP application's reply, with the type and, where it is known, the length of its body."""
    shown = [*headers]
    if content_type:
        shown.append((b"content-type", content_type))
    if length is not None:
        shown.append((b"content-length", b"%d" % length))
    return envelope.response_head(code, shown, content_type, data=body)


_repeated_http_head = functools.lru_cache(maxsize=512)(_http_head)


def _grpc_head(reply: Reply, body: bytes = b"") -> bytes:
    return envelope.response_head(
        reply.code,
        reply.headers,
        reply.content_type,
        reply.message,
        reply.details,
        reply.trailers,
        reply.type_url,
        body,
    )


async def _answer(call: ServerCall, reply: Reply, code: int) -> None:
    body = reply.body
    whole = isinstance(body, bytes)
    if not reply.http:
        head = _grpc_head(reply)
    elif len(reply.headers) > MANY_HEADERS:
        head = _http_head(code, reply.content_type, reply.length, tuple(reply.headers))
    else:
        head = _repeated_http_head(code, reply.content_type, reply.length, tuple(reply.headers))
    if isinstance(body, bytes):
        if len(body) <= CHUNK:
            await call.send_last(envelope.stream_message(head, body, 0))
            return
        await call.send(envelope.stream_message(head, body[:CHUNK], 0))
        for sequence, at in enumerate(range(CHUNK, len(body), CHUNK), 1):
            await call.send(envelope.stream_message(None, body[at : at + CHUNK], sequence))
        return
    try:
        await call.send(envelope.stream_message(head, b"", 0))
        sequence = 0
        async for piece in body:
            for at in range(0, len(piece), CHUNK):
                part = piece if len(piece) <= CHUNK else piece[at : at + CHUNK]
                await call.send(envelope.stream_message(None, part, sequence))
                sequence += 1
        whole = True
    except (HttpError, BodyIncomplete) as error:
        raise _failure(error) from error
    finally:
        if not whole:
            await close(body)
