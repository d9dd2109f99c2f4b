"""`middleware.http.uppercase`: bodies in capitals, to see a pipeline at work. Bodies stream through it."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.kinds.component import setting
from pillion.net.middleware import set_request_body, set_response_body

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillion.kinds.component import Context
    from pillion.net.exchange import BodyStream, Headers, Request, Response
    from pillion.net.middleware import Next


@dataclass(frozen=True)
class UppercaseSettings:
    direction: str = setting("request", choices=("request", "response", "both"), help="whose bodies")


class Uppercase:
    """The middleware. Letters whose capital is one character change, so `ß` stays."""

    Settings = UppercaseSettings

    def __init__(self, settings: UppercaseSettings, context: Context) -> None:
        self._request = settings.direction != "response"
        self._response = settings.direction != "request"

    async def open(self) -> None: ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...

    async def __call__(self, request: Request, next: Next) -> Response:
        if self._request:
            body = request.body
            if isinstance(body, bytes):
                set_request_body(request, upper(body))
            else:
                request.headers = [pair for pair in request.headers if pair[0] != b"content-length"]
                request.body = _Upper(body)
        response = await next(request)
        if self._response:
            if isinstance(response.body, bytes):
                set_response_body(response, upper(response.body))
            else:
                response.headers = [pair for pair in response.headers if pair[0] != b"content-length"]
                response.body = _pieces(response.body)
        return response


def upper(data: bytes) -> bytes:
    """Return UTF-8 text in capitals; bytes that are no text stay as they are."""
    if data.isascii():
        return data.upper()
    return _capitals(data.decode("utf-8", "surrogateescape"))


def _capitals(text: str) -> bytes:
    return "".join(one if len(one := char.upper()) == 1 else char for char in text).encode("utf-8", "surrogateescape")


async def _pieces(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
    try:
        async for piece in body:
            if data := _capitals(decoder.decode(piece)):
                yield data
        if data := _capitals(decoder.decode(b"", True)):
            yield data
    finally:
        closing = getattr(body, "aclose", None)
        if closing is not None:
            await closing()


class _Upper:
    """A request body in capitals. Its length is not known before its end: a capital may be shorter or longer."""

    def __init__(self, body: BodyStream) -> None:
        self.length: int | None = None
        self.trailers: Headers = body.trailers
        self._body = body

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _pieces(self._body.__aiter__())

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self])
