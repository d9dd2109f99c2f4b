"""Spans around what this sidecar serves (spec `runtime.md` 6.2).

Each wrapper is composed once, when the sidecar is built, and only where spans are made. The request goes on under the
context of its span: `traceparent` is rewritten, so that whatever reads or forwards it continues from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.api.render import rpc_error, text_response
from pillion.errors import Code
from pillion.net.exchange import RpcError
from pillion.observe import spans
from pillion.observe.tracing import SpanKind
from pillion.wire import baggage
from pillion.wire.trace import carried as carried_by
from pillion.wire.trace import from_binary, to_binary

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from google.protobuf.message import Message

    from pillion.api.call import RpcCall
    from pillion.api.operation import ServeStream, ServeUnary
    from pillion.net.exchange import Request, Response, ServerCall, Streaming
    from pillion.observe.tracing import Attributes, Span, Tracer

    Handler = Callable[[Request], Awaitable[Response]]

CANCELLED = "context canceled"
TASK_HUB = "/TaskHubSidecarService/"
_CONTEXT = (b"traceparent", b"tracestate")


def traced_http(serve: Handler, tracer: Tracer) -> Handler:
    """Return the HTTP API with a span around each request, health probes excepted; refuses a broken `baggage`."""

    async def traced(request: Request) -> Response:
        parent, state, carried = carried_by(request.headers)
        if carried is not None:
            try:
                baggage.check(carried.decode("latin-1"))
            except ValueError as error:
                return text_response(400, f"invalid baggage header: {error}")
        if b"/healthz" in request.target:
            return await serve(request)
        span = tracer.start(
            SpanKind.CLIENT, parent.decode("latin-1") if parent else "", state.decode("latin-1") if state else ""
        )
        came = request.headers
        request.headers = [pair for pair in came if pair[0] not in _CONTEXT] if parent or state else came.copy()
        context = [(b"traceparent", span.traceparent.encode())]
        if span.tracestate:
            context.append((b"tracestate", span.tracestate.encode("latin-1")))
        request.headers += context
        try:
            response = await serve(request)
        except BaseException:
            span.error = CANCELLED  # a handler answers its errors; only its end leaves it
            _end_http(tracer, span, request, came, 499)
            raise
        for name, _ in response.headers:
            if name == b"traceparent":
                break
        else:
            response.headers += context
        if carried is not None:
            response.headers.append((b"baggage", carried))
        if span.sampled:
            span.error = spans.http_error(response.status)
            _end_http(tracer, span, request, came, response.status)
        return response

    return traced


def _end_http(tracer: Tracer, span: Span, request: Request, came: list[tuple[bytes, bytes]], status: int) -> None:
    if span.sampled:
        span.name, known = spans.http_span(request.method, request.target)
        span.attributes = known + spans.http_details(status, request.peer, came)
        tracer.end(span)


def _end_rpc(tracer: Tracer, span: Span, named: tuple[str, Attributes], call: ServerCall) -> None:
    span.name, known = named
    span.attributes = known + spans.rpc_details(call.metadata)
    tracer.end(span)


def traced_unary(method: str, serve: ServeUnary, tracer: Tracer, *, answered: bool) -> ServeUnary:
    """Return a unary handler with a span around each call. `answered`: the context goes back as a header."""

    async def traced(call: RpcCall, request: Message) -> Message:
        stream = call.stream
        span = _begin(tracer, stream, SpanKind.CLIENT, answered=answered)
        try:
            return await serve(call, request)
        except BaseException as error:
            span.error = _said(error)
            raise
        finally:
            if span.sampled:
                _end_rpc(tracer, span, spans.rpc_span(method, request), stream)

    return traced


def traced_stream(method: str, serve: ServeStream, tracer: Tracer) -> ServeStream:
    """Return a streaming handler with a span that lasts as long as the stream."""
    kind = SpanKind.SERVER if method.startswith(TASK_HUB) else SpanKind.CLIENT

    async def traced(call: RpcCall) -> None:
        span = _begin(tracer, call.stream, kind, answered=True)
        try:
            await serve(call)
        except BaseException as error:
            span.error = _said(error)
            raise
        finally:
            if span.sampled:
                _end_rpc(tracer, span, spans.rpc_span(method, None), call.stream)

    return traced


def traced_proxy(serve: Streaming, tracer: Tracer) -> Streaming:
    """Return a proxy with a span around each call: the server's side where the application here is meant."""

    async def traced(call: ServerCall) -> None:
        named = call.first("dapr-callee-app-id") or call.first("dapr-app-id")
        target = named if isinstance(named, str) else ""
        here = target.partition(".")[0] == tracer.app_id
        span = _begin(tracer, call, SpanKind.SERVER if here else SpanKind.CLIENT, answered=False)
        try:
            await serve(call)
        except BaseException as error:
            span.error = _said(error)
            raise
        finally:
            if span.sampled:
                _end_rpc(tracer, span, spans.proxied_span(call.method, target), call)

    return traced


def _begin(tracer: Tracer, call: ServerCall, kind: SpanKind, *, answered: bool) -> Span:
    """Begin the span of a gRPC call and rewrite its metadata; raises `RpcError` for a broken `baggage`."""
    parent = binary = state = ""
    kept = []
    for pair in call.metadata:
        name, value = pair
        if name == "grpc-trace-bin":
            if isinstance(value, bytes):
                binary = binary or from_binary(value)
        elif name == "traceparent":
            parent = parent or str(value)
        elif name == "tracestate":
            state = state or str(value)
        else:
            kept.append(pair)
            if name == "baggage" and isinstance(value, str):
                try:
                    baggage.check(value)
                except ValueError as error:
                    raise RpcError(Code.INVALID_ARGUMENT, f"invalid baggage header: {error}") from error
                call.initial_metadata.append(pair)
    span = tracer.start(kind, binary or parent, state)
    kept.append(("traceparent", span.traceparent))
    if span.tracestate:
        kept.append(("tracestate", span.tracestate))
    call.metadata[:] = kept
    if answered:
        call.initial_metadata.append(("grpc-trace-bin", to_binary(span.traceparent)))
    return span


def _said(error: BaseException) -> str:
    """Return the message of the status that a failure becomes."""
    return rpc_error(error).message if isinstance(error, Exception) else CANCELLED
