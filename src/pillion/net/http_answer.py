"""How an answer of the HTTP/1.1 server is framed: where its body ends, and what the client hears of the connection.

Knows: the rules of RFC 9110 and 9112 for the answer to a request. Never knows: sockets, how a body is come by.
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from pillion.records import record
from pillion.wire import http1

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from pillion.net.exchange import Headers, Request, Response

_KEEP = b"\r\nConnection: keep-alive"
"""What a client of HTTP/1.0 has to hear, or it expects the end of the connection; others when the service says it."""
_SAID = (b"connection", b"keep-alive")


@record
class Begun:
    """The beginning of a streamed answer: its `head`, and how the pieces of the body follow, if any (`has_body`).

    `length` is what the service announced; `chunked` frames the body where it did not. `keep`: whether the connection
    can be kept behind it.
    """

    head: bytes
    has_body: bool
    length: int | None
    chunked: bool
    keep: bool


def write_whole(
    write: Callable[[bytes], None], request: Request, response: Response, body: bytes, *, keep: bool
) -> None:
    """Write an answer whose body is there. Raises `ValueError` for headers that cannot be written."""
    status = response.status
    if status == 204 or status == 304 or request.method == "HEAD":
        tail = http1.END if status == 204 else _bodiless_tail(response, body)
        body = b""
    else:
        tail = http1.content_length(len(body))
    if not keep or request.version == "1.0":
        tail = _tail(request, tail, keep=keep)
    head = http1.response_head(status, response.headers, dated(response.headers, tail))
    if len(body) > http1.JOIN_LIMIT:
        write(head)
        write(body)
    else:
        write(head + body)


def begin(request: Request, response: Response, body: AsyncIterator[bytes], *, keep: bool) -> Begun:
    """Return how an answer begins whose body comes in pieces. Raises `ValueError` as `write_whole`.

    `Connection: keep-alive` among the service's headers is said where it is true.
    """
    status = response.status
    if status in (204, 304) or request.method == "HEAD":
        tail = http1.END if status == 204 else _bodiless_tail(response, body)
        tail = dated(response.headers, _tail(request, tail, keep=keep))
        head = http1.response_head(status, response.headers, tail)
        return Begun(head, has_body=False, length=None, chunked=False, keep=keep)
    length = _announced(response)
    chunked = length is None and request.version != "1.0"
    if length is not None:
        tail = http1.content_length(length)
    elif chunked:
        tail = http1.CHUNKED
    else:
        tail, keep = http1.END, False
    tail = _tail(request, tail, keep=keep, said=_SAID in response.headers)
    head = http1.response_head(status, response.headers, dated(response.headers, tail))
    return Begun(head, has_body=True, length=length, chunked=chunked, keep=keep)


def dated(headers: Headers, tail: bytes) -> bytes:
    """Put `Date` before the framing (RFC 9110 6.6.1), unless the service passes one on that is not ours."""
    for name, _ in headers:
        if name == b"date":
            return tail
    return http1.date_line(int(time())) + tail


def _tail(request: Request, tail: bytes, *, keep: bool, said: bool = False) -> bytes:
    if not keep:
        return http1.CLOSE + tail
    return _KEEP + tail if said or request.version == "1.0" else tail


def _bodiless_tail(response: Response, body: bytes | AsyncIterator[bytes]) -> bytes:
    """Framing of an answer to HEAD and of 304: the length the body would have, where it is known (RFC 9110 8.6)."""
    announced = _announced(response)
    if announced is not None:
        return http1.content_length(announced)
    if response.status == 304:
        return http1.END
    return http1.content_length(len(body)) if isinstance(body, bytes) else http1.CHUNKED


def _announced(response: Response) -> int | None:
    """Return the Content-Length that the service gave for a body it streams or leaves out."""
    for name, value in response.headers:
        if name == b"content-length":
            return int(value)
    return None
