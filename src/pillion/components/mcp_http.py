"""The HTTP client under the library's transports: headers, tokens, bounds, and what a bad status means.

Spec `crypto-conversation-mcp.md` 5.2. Knows: requests and answers as they pass. Never knows: tools.
"""

from __future__ import annotations

import asyncio
import contextlib
import http
import json
import time
from typing import TYPE_CHECKING, Any

import httpx2

from pillion.components.tokens import Endpoint, Token
from pillion.errors import ComponentError
from pillion.kinds.mcp import McpError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping

    from pillion.kinds.mcp import OAuth2

MOST = 16 << 20
"""Bytes of one answer."""
PASSING = frozenset({429, 500, 502, 503, 504})
"""Statuses that fail the call alone; other bad ones end the connection."""
MARGIN_S = 5.0
"""A request that was given up is let go of so much later: the server has been told, and may still say how it ended."""
KEPT = 64
"""Connections that are kept open for the next calls."""
JSON = "application/json"


class SessionLost(McpError):
    """The connection was lost, or the server does not know our session any more: it may have been started again."""


class Tokens(httpx2.Auth):
    """Client credentials (RFC 6749 4.4). One token serves until shortly before its end, or until it is refused."""

    def __init__(self, settings: OAuth2, secret: str) -> None:
        self._endpoint = Endpoint(settings.issuer, settings.client_id, secret)
        self._form = [("grant_type", "client_credentials")]
        if settings.scopes:
            self._form.append(("scope", " ".join(settings.scopes)))
        if settings.audience:
            self._form.append(("audience", settings.audience))
        self._token: Token | None = None
        self._lock = asyncio.Lock()

    async def _current(self, refused: Token | None = None) -> Token:
        async with self._lock:
            token = self._token
            if token is None or token is refused or not token.valid(time.monotonic()):
                token = self._token = await self._endpoint.ask(self._form)
            return token

    async def async_auth_flow(self, request: httpx2.Request) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        token = await self._current()
        request.headers["authorization"] = token.header.decode()
        answer = yield request
        if answer.status_code == http.HTTPStatus.UNAUTHORIZED:
            token = await self._current(token)
            request.headers["authorization"] = token.header.decode()
            yield request


class Client(httpx2.AsyncClient):
    """The client of one connection. `broken` is called with the reason before an error that ends the connection."""

    def __init__(
        self,
        headers: Mapping[str, str],
        *,
        timeout_s: float | None,
        tokens: Tokens | None,
        streaming: bool,
        broken: Callable[[Exception], None],
    ) -> None:
        """`streaming`: a GET opens a stream that lasts (SSE); else there is none, and only POST is sent."""
        patience = None if timeout_s is None else timeout_s + MARGIN_S
        # How many calls there are is bounded elsewhere: a ping must not wait for a place behind calls that take long.
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=KEPT)
        super().__init__(headers=dict(headers), timeout=httpx2.Timeout(patience), auth=tokens, limits=limits)
        self._streaming = streaming
        self._broken = broken

    async def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        where = request.url.copy_with(userinfo=b"", query=None)  # sessions and passwords are nobody else's
        if request.method == "GET":
            if not self._streaming and "last-event-id" not in request.headers:
                return httpx2.Response(http.HTTPStatus.METHOD_NOT_ALLOWED, request=request)
            request.extensions["timeout"]["read"] = None
        try:
            answer = await super().send(request, **options)
        except httpx2.ReadTimeout:
            return _failed(request, "the server did not answer in time")
        except httpx2.TransportError as error:
            raise self._ends(SessionLost(f"{where}: {str(error) or type(error).__name__}")) from error
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise self._ends(McpError(f"{where}: {str(error) or type(error).__name__}")) from error
        except ComponentError as error:
            raise self._ends(McpError(f"no token: {error}")) from error
        if request.method == "DELETE" or answer.status_code < 400:
            if isinstance(answer.stream, httpx2.AsyncByteStream) and not self._lasts(answer):
                answer.stream = _Bounded(answer.stream)
            return answer
        status = _status(answer.status_code)
        await answer.aclose()
        if answer.status_code in PASSING and not self._streaming:
            return _failed(request, f"the server answered {status}")
        in_session = "mcp-session-id" in request.headers or (self._streaming and request.method == "POST")
        if answer.status_code == http.HTTPStatus.NOT_FOUND and in_session:
            raise self._ends(SessionLost(f"{where} answered {status}: it does not know the session any more"))
        raise self._ends(McpError(f"{where} answered {status}"))

    def _lasts(self, answer: httpx2.Response) -> bool:
        """Whether the answer is a stream of events, each of which the library bounds."""
        return answer.headers.get("content-type", "").lower().startswith("text/event-stream")

    def _ends(self, error: McpError) -> McpError:
        self._broken(error)
        return error


class _Bounded(httpx2.AsyncByteStream):
    """A body of `MOST` bytes at most."""

    def __init__(self, inner: httpx2.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for part in self._inner:
            size += len(part)
            if size > MOST:
                raise httpx2.StreamError(f"the answer is longer than {MOST >> 20} MiB")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()


def _status(code: int) -> str:
    try:
        return f"{code} {http.HTTPStatus(code).phrase}"
    except ValueError:
        return str(code)


def _failed(request: httpx2.Request, what: str) -> httpx2.Response:
    """An answer in the server's place, which fails the call that `request` carries and nothing else."""
    number = None
    with contextlib.suppress(ValueError, AttributeError, httpx2.RequestNotRead):
        number = json.loads(request.content).get("id")
    if number is None:
        return httpx2.Response(http.HTTPStatus.ACCEPTED, request=request)
    said = {"jsonrpc": "2.0", "id": number, "error": {"code": -32603, "message": what}}
    return httpx2.Response(
        http.HTTPStatus.OK, headers={"content-type": JSON}, content=json.dumps(said).encode(), request=request
    )
