"""Service invocation as HTTP clients see it (spec `http-api.md` 4.1): whom a request means, how a reply is answered.

Knows: the three forms of a target, statuses, content types, event streams. Never knows: how a target is reached.
"""

from __future__ import annotations

import base64
import binascii
import re
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

import orjson
from google.protobuf.json_format import Error as JsonError
from google.protobuf.json_format import MessageToDict

from pillion.api.call import decode_component
from pillion.errors import GRPC_TO_HTTP, ComponentError
from pillion.kinds.invocation import EVENT_STREAM, gather
from pillion.net.exchange import Response
from pillion.wire.messages import pool, wellknown
from pillion.wire.methods import from_metadata_name, normalise

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillion.kinds.invocation import Headers, Reply

DEFAULT_TYPE = b"application/json"
PROTOBUF = b"application/x-protobuf"
MOST_BUFFERED = 4 << 20
"""An unsuccessful answer is collected up to this many bytes; a longer one is streamed."""
_PREFIX = re.compile(rb"/+v1\.0/+invoke/+")


def path_target(path: bytes) -> tuple[str, str] | None:
    """Return target and method of `/v1.0/invoke/<target>/method/<method>`, None when it is not that.

    The path is decoded first and then split at the first `/method/`; the target is decoded once more. The method is
    not normalised yet. Raises `ValueError` for what is not UTF-8 and for a target with a broken escape.
    """
    lead = _PREFIX.match(path)
    if lead is None:
        return None
    name, separator, method = _decoded(path[lead.end() :]).partition("/method/")
    if not separator:
        return None
    return decode_component(name), method


def named_target(path: bytes, headers: Headers) -> str:
    """Return whom a request is for, for the log: "" when nothing in it names anybody that can be read."""
    for name, value in headers:
        if name == b"dapr-app-id":
            return value.decode("utf-8", "backslashreplace")
        if name == b"authorization" and (target := login_target(value)):
            return target
    try:
        found = path_target(path)
    except ValueError:
        return ""
    return found[0] if found else ""


def whole_path(path: bytes) -> str:
    """Return the normalised method of a request whose target stands in a header. Raises `BadMethod`."""
    return normalise(_decoded(path).lstrip("/"))


def _decoded(path: bytes) -> str:
    raw = unquote_to_bytes(path) if b"%" in path else path
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise ValueError("the path is not UTF-8") from None


def login_target(authorization: bytes) -> str:
    """Return the target of `Basic base64("dapr-app-id:<target>")`, "" when the header is something else."""
    scheme, _, credentials = authorization.partition(b" ")
    if scheme.lower() != b"basic":
        return ""
    try:
        user, _, name = base64.b64decode(credentials.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return ""
    return name if user.lower() == "dapr-app-id" else ""


def success_response(reply: Reply) -> Response:
    """Return the answer of an HTTP client for a success that is here as a whole, or that passes as it comes."""
    headers = reply.headers
    if reply.content_type:
        headers.append((b"content-type", reply.content_type))
    return Response(reply.code, headers, reply.body)


async def http_response(reply: Reply, *, sse: bool, buffered: bool) -> Response:
    """Return the answer of an HTTP client. `buffered`: collect the body of one that is no success."""
    if reply.code < 100:
        return _from_status(await gather(reply.body), reply)
    headers = reply.headers
    body = reply.body
    if reply.code < 200:  # the connection would wait for the real one
        await close(body)
        raise ComponentError(f"the application answered with the interim status {reply.code}")
    if sse and 200 <= reply.code < 300:
        headers = [pair for pair in headers if pair[0] != b"cache-control"]
        headers += [
            (b"content-type", EVENT_STREAM), (b"cache-control", b"no-cache"), (b"connection", b"keep-alive"),
        ]  # fmt: skip
        return Response(reply.code, headers, one_piece(body) if isinstance(body, bytes) else body)
    content_type = reply.content_type
    if not 200 <= reply.code < 400 and buffered:
        if not isinstance(body, bytes):
            body = await collect(body)
        content_type = content_type or DEFAULT_TYPE
    if content_type:
        headers.append((b"content-type", content_type))
    return Response(reply.code, headers, body)


async def one_piece(body: bytes) -> AsyncIterator[bytes]:
    """A stream of one piece: what came at once is an event stream like those that last."""
    yield body


async def collect(body: AsyncIterator[bytes]) -> bytes | AsyncIterator[bytes]:
    """Return a body as one piece, or as the stream it was when it is too long to wait for."""
    pieces: list[bytes] = []
    size = 0
    async for piece in body:
        pieces.append(piece)
        size += len(piece)
        if size > MOST_BUFFERED:
            return Resumed(pieces, body)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Resumed:
    """A stream of which some pieces were already read."""

    def __init__(self, pieces: list[bytes], rest: AsyncIterator[bytes]) -> None:
        self._pieces = pieces[::-1]
        self._rest = rest

    def __aiter__(self) -> Resumed:
        return self

    async def __anext__(self) -> bytes:
        if self._pieces:
            return self._pieces.pop()
        return await self._rest.__anext__()

    async def aclose(self) -> None:
        """Stop reading the rest."""
        self._pieces.clear()
        await close(self._rest)


async def close(body: bytes | AsyncIterator[bytes]) -> None:
    """Stop reading a body."""
    closing = getattr(body, "aclose", None)
    if closing is not None:
        await closing()


def _from_status(body: bytes, reply: Reply) -> Response:
    """Return the answer for the status of a gRPC application: mapped, its text as JSON; trailers are not passed on."""
    status = GRPC_TO_HTTP.get(reply.code, HTTPStatus.INTERNAL_SERVER_ERROR)
    headers: Headers = [
        (from_metadata_name(name), value)
        for name, value in reply.headers
        if not name.endswith(b"-bin") and name != b"content-type"
    ]
    if reply.code == 0:
        content_type = PROTOBUF if reply.type_url else reply.content_type
        if content_type:
            headers.append((b"content-type", content_type))
        return Response(status, headers, body)
    shown: dict[str, object] = {"code": reply.code, "message": reply.message}
    details = [detail for packed in reply.details if (detail := _detail(packed)) is not None]
    if details:
        shown["details"] = details
    headers.append((b"content-type", DEFAULT_TYPE))
    return Response(status, headers, orjson.dumps(shown))


def _detail(packed: bytes) -> object:
    """Return a detail in JSON; one of a type that is not known here is shown as its bytes."""
    detail = wellknown.Any.FromString(packed)
    try:
        return MessageToDict(detail, descriptor_pool=pool)
    except (JsonError, TypeError, KeyError):
        return {"@type": detail.type_url, "value": base64.b64encode(detail.value).decode()}
