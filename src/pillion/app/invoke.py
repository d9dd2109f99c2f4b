"""An invocation as a request to the application beside this sidecar, and its answer as a reply.

Knows: how a call looks to an HTTP and to a gRPC application (spec `http-api.md` 4.1, `grpc-api.md` 5 and 7). Never
knows: who calls, from where, and what becomes of the reply.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from pillion.errors import Code
from pillion.kinds.invocation import Reply
from pillion.net.exchange import Request, RpcError
from pillion.wire.envelope import invoke_request
from pillion.wire.http1 import HOP_BY_HOP
from pillion.wire.messages import common, rpc
from pillion.wire.methods import VERB_NUMBERS, BadMethod, app_path, from_metadata_name, to_metadata_name
from pillion.wire.trace import to_binary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillion.app.channel import AppChannel
    from pillion.kinds.invocation import Headers, Invocation
    from pillion.net.exchange import Body, BodyStream, Metadata, Response

ON_INVOKE = "/dapr.proto.runtime.v1.AppCallback/OnInvoke"
PROTOBUF = b"application/x-protobuf"
NO_APP = "app channel is not initialized"

_KEEP, _LEAVE, _TYPE, _LENGTH = range(4)
_RESPONSE_RULES = dict.fromkeys(HOP_BY_HOP, _LEAVE) | {b"content-type": _TYPE, b"content-length": _LENGTH}


class Unbuffered:
    """A body that arrived whole but was sent in chunks: it stays chunked on its way to the application."""

    def __init__(self, data: bytes) -> None:
        self.length: int | None = None
        self.trailers: Headers = []
        self._data = data

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._data

    async def read(self) -> bytes:
        return self._data


async def invoke_app(app: AppChannel, invocation: Invocation) -> Reply:
    """Call the application. Raises what its channel raises, and `RpcError` for what HTTP cannot carry."""
    if app.http is not None:
        return read_response(await app.request(app_request(invocation)))
    return await _invoke_grpc(app, invocation)


# --- HTTP applications ---------------------------------------------------------------------------------------------


def app_request(invocation: Invocation) -> Request:
    """Return the HTTP request of an invocation; its headers are a new list.

    Raises `RpcError` for a verb that is missing or CONNECT, and for a method that no URL can have.
    """
    verb = invocation.verb
    if verb in ("", "NONE", "CONNECT"):
        text = "invalid HTTP verb" if verb else "missing HTTP extension field"
        raise RpcError(Code.INVALID_ARGUMENT, text)
    try:
        target = app_path(invocation.method)
    except BadMethod as error:
        raise RpcError(Code.INVALID_ARGUMENT, str(error)) from error
    if invocation.query:
        target += b"?" + invocation.query
    if invocation.odd:
        headers = [
            (from_metadata_name(name), value) for name, value in invocation.headers if not name.endswith(b"-bin")
        ]
    else:
        headers = invocation.headers.copy()
    if invocation.type_url:
        headers.append((b"content-type", PROTOBUF))
    elif invocation.content_type:
        headers.append((b"content-type", invocation.content_type))
    headers.append((b"traceparent", invocation.traceparent))
    if invocation.tracestate and invocation.traced:
        headers.append((b"tracestate", invocation.tracestate))
    if invocation.baggage:
        headers.append((b"baggage", invocation.baggage))
    return Request(verb, target, headers, _body(invocation))


def _body(invocation: Invocation) -> Body:
    body = invocation.body
    if isinstance(body, bytes):
        return body if invocation.length is not None or not body else Unbuffered(body)
    stream: BodyStream = body  # type: ignore[assignment]
    return stream


def read_response(response: Response) -> Reply:
    """Return the reply of an HTTP application: hop-by-hop headers and the length are not passed on."""
    kept: Headers = []
    content_type = b""
    length: int | None = None
    rules = _RESPONSE_RULES
    for pair in response.headers:
        rule = rules.get(pair[0], _KEEP)
        if rule == _KEEP:
            kept.append(pair)
        elif rule == _TYPE:
            content_type = pair[1]
        elif rule == _LENGTH and pair[1].isdigit():
            length = int(pair[1])
    reply = Reply(response.status, kept, content_type, response.body)
    if not isinstance(response.body, bytes):
        reply.length = length
    return reply


# --- gRPC applications ---------------------------------------------------------------------------------------------


async def _invoke_grpc(app: AppChannel, invocation: Invocation) -> Reply:
    data = await invocation.settle()
    metadata = app_metadata(invocation)
    message = invoke_request(
        invocation.method,
        VERB_NUMBERS.get(invocation.verb, 0),
        invocation.query,
        invocation.content_type,
        invocation.type_url,
        data,
    )
    try:
        answer = await app.unary(ON_INVOKE, message, metadata=metadata, limited=True)
    except RpcError as error:
        return Reply(
            error.code,
            [],
            message=error.message,
            details=_details(error.details),
            trailers=headers_of(error.trailers),
        )
    response = common.InvokeResponse.FromString(answer.message)
    return Reply(
        0,
        headers_of(answer.initial_metadata),
        response.content_type.encode(),
        response.data.value,
        trailers=headers_of(answer.trailing_metadata),
        type_url=response.data.type_url,
    )


def _details(packed: bytes) -> tuple[bytes, ...]:
    if not packed:
        return ()
    status = rpc.Status.FromString(packed)
    return tuple(detail.SerializeToString() for detail in status.details)


def app_metadata(invocation: Invocation) -> Metadata:
    """Return the gRPC metadata of an invocation: reserved names prefixed, binary values decoded, both trace forms."""
    found: Metadata = []
    for name, value in invocation.headers:
        if invocation.odd:
            if name.endswith(b"-bin"):
                try:
                    decoded = base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
                except binascii.Error:
                    continue  # as the reference: a value that is no base64 is not passed on
                found.append((name.decode("latin-1"), decoded))
                continue
            name = from_metadata_name(name)
        found.append((to_metadata_name(name).decode("latin-1"), value.decode("latin-1")))
    parent = invocation.traceparent.decode("latin-1")
    found.append(("traceparent", parent))
    if invocation.traced:
        found.append(("grpc-trace-bin", to_binary(parent)))
        if invocation.tracestate:
            found.append(("tracestate", invocation.tracestate.decode("latin-1")))
    if invocation.baggage:
        found.append(("baggage", invocation.baggage.decode("latin-1")))
    return found


def headers_of(metadata: Metadata) -> Headers:
    """Return gRPC metadata as headers; binary values become base64 text."""
    return [
        (name.encode("latin-1"), base64.b64encode(value) if isinstance(value, bytes) else value.encode("latin-1"))
        for name, value in metadata
    ]
