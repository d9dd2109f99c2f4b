"""Service invocation as gRPC clients see it (spec `grpc-api.md` 5): metadata in, status, metadata and message out.

Knows: the request message, form D of an HTTP application's failure. Never knows: how a target is reached.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

from pillion.api.render import http_failure
from pillion.kinds.invocation import Invocation, gather
from pillion.net.exchange import RpcError
from pillion.wire.messages import common, rpc, wellknown
from pillion.wire.methods import VERBS, normalise, safe_query, to_metadata_name

if TYPE_CHECKING:
    from pillion.api.call import RpcCall
    from pillion.kinds.invocation import Headers, Reply
    from pillion.net.exchange import Metadata
    from pillion.wire.messages import runtime as m


def invocation_of(call: RpcCall, request: m.InvokeServiceRequest) -> Invocation:
    """Return the invocation that a message asks for; its target is still open. Raises `BadMethod`."""
    message = request.message
    verb, query = "", b""
    if message.HasField("http_extension"):
        number = message.http_extension.verb
        verb = VERBS[number] if 0 <= number < len(VERBS) else "POST"
        query = safe_query(message.http_extension.querystring.encode())
    data = message.data.value
    invocation = Invocation("", "", normalise(message.method), verb, query, body=data)
    invocation.take(
        [
            (name.encode("latin-1"), base64.b64encode(value) if isinstance(value, bytes) else value.encode("latin-1"))
            for name, value in call.stream.metadata
        ]
    )
    invocation.length = len(data)
    invocation.content_type = message.content_type.encode()
    invocation.type_url = message.data.type_url
    if not invocation.traced and (parent := call.traceparent):
        invocation.traceparent = parent.encode()
    return invocation


async def rpc_reply(call: RpcCall, reply: Reply) -> common.InvokeResponse:
    """Return the response message, the headers set on `call`; raises `RpcError` for what was no success."""
    body = await gather(reply.body)
    metadata = call.stream.initial_metadata
    if reply.http:
        if reply.content_type:
            metadata.append(("dapr-content-type", reply.content_type.decode("latin-1")))
        metadata += metadata_of([(to_metadata_name(name), value) for name, value in reply.headers])
        metadata.append(("dapr-http-status", str(reply.code)))
        if not 200 <= reply.code < 300:
            await call.stream.send_headers()  # else they would be trailers, where clients do not look
            raise http_failure(reply.code, body)
    else:
        metadata += metadata_of(reply.headers)
        if reply.code:
            await call.stream.send_headers()
            raise grpc_failure(reply)
        call.stream.trailing_metadata += metadata_of(reply.trailers)
    data = wellknown.Any(type_url=reply.type_url, value=body)
    return common.InvokeResponse(data=data, content_type=reply.content_type.decode("latin-1"))


def metadata_of(headers: Headers) -> Metadata:
    """Return headers as gRPC metadata; base64 text of `-bin` names is decoded, what is none is left out."""
    found: Metadata = []
    for name, value in headers:
        if name.endswith(b"-bin"):
            try:
                found.append(
                    (name.decode("latin-1"), base64.b64decode(value + b"=" * (-len(value) % 4), validate=True))
                )
            except binascii.Error:
                continue
        elif name not in (b"content-type", b"traceparent", b"tracestate"):
            found.append((name.decode("latin-1"), value.decode("latin-1")))
    return found


def grpc_failure(reply: Reply) -> RpcError:
    """Return the status of a gRPC application, as it was."""
    packed = b""
    if reply.details:
        status = rpc.Status(code=reply.code, message=reply.message)
        for detail in reply.details:
            status.details.add().MergeFromString(detail)
        packed = status.SerializeToString()
    return RpcError(reply.code, reply.message, packed, metadata_of(reply.trailers))
