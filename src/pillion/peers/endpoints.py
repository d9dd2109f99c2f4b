"""Calls to servers that have no sidecar: URLs given by callers and HTTPEndpoint resources (spec `runtime.md` 2.5).

Knows: base URLs, the headers and TLS settings of an endpoint, redirects. Never knows: the application, whose token is
deliberately not sent to third parties.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from pillion.errors import Code, ComponentError
from pillion.net.exchange import Request
from pillion.net.http_client import HttpClient
from pillion.net.http_connection import ConnectFailed
from pillion.net.tls import client_context
from pillion.records import record
from pillion.resiliency.builtin import BUILT_IN, BuiltIn
from pillion.resiliency.failures import Failure

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pillion.kinds.invocation import Headers
    from pillion.net.exchange import Response
    from pillion.net.middleware import Pipeline
    from pillion.resiliency.machine import Retry

log = logging.getLogger("pillion.peers")
DIAL_TIMEOUT_S = 15.0
MOST_REDIRECTS = 10
MOST_CLIENTS = 256
"""Servers to which connections are kept; the one unused for longest makes room."""
_REDIRECTS = (301, 302, 303, 307, 308)
_CREDENTIALS = frozenset((b"authorization", b"cookie", b"proxy-authorization", b"www-authenticate"))


@record
class Endpoint:
    """An HTTPEndpoint resource with its secrets filled in. PEM texts are empty when not given."""

    name: str
    base_url: str
    headers: tuple[tuple[str, str], ...] = ()
    root_ca: str = ""
    certificate: str = ""
    private_key: str = ""

    @property
    def has_tls(self) -> bool:
        return bool(self.root_ca or self.certificate or self.private_key)


@dataclass(slots=True)
class _Kept:
    client: HttpClient
    calls: int = 0
    closing: bool = False


@dataclass(slots=True)
class External:
    """The clients of servers outside. `endpoints` is the live registry of HTTPEndpoint resources."""

    endpoints: Mapping[str, Endpoint] = field(default_factory=dict)
    max_head: int = 65536
    pipeline: Pipeline | None = None
    """The middleware on the way out, None when there is none."""
    retry: Callable[[], Retry] = lambda: BUILT_IN[BuiltIn.SERVICE]
    """The built-in policy, which a Resiliency resource may change at any time."""
    _clients: OrderedDict[tuple[str, str, int, Endpoint | None], _Kept] = field(default_factory=OrderedDict)
    _closing: set[asyncio.Task[None]] = field(default_factory=set)

    async def request_url(self, base_url: str, request: Request, *, built_in: bool = False) -> Response:
        """Send `request` below a URL that the caller gave; redirects are the caller's to follow.

        With `built_in` a server that cannot be connected to is tried again, as the built-in policy says: nothing was
        sent then, so that nothing happens twice.
        """
        base = base_url.rstrip("/")
        if self.pipeline is None:
            return await self._send_at_last(base, request, None, built_in)
        return await self.pipeline.run(request, lambda changed: self._send_at_last(base, changed, None, built_in))

    async def request_endpoint(self, name: str, request: Request, *, built_in: bool = False) -> Response:
        """Send `request` below the base URL of a resource, whose headers overwrite the caller's; follows redirects.
        `built_in` as of `request_url`.
        """
        endpoint = self.endpoints.get(name)
        if endpoint is None:
            raise ComponentError(f"HTTPEndpoint {name} is not known any more")
        if self.pipeline is None:
            return await self._request_endpoint(endpoint, request, built_in)
        return await self.pipeline.run(request, lambda changed: self._request_endpoint(endpoint, changed, built_in))

    async def _request_endpoint(self, endpoint: Endpoint, request: Request, built_in: bool) -> Response:
        own = {key.lower().encode(): value.encode() for key, value in endpoint.headers}
        request.headers = [pair for pair in request.headers if pair[0] not in own] + list(own.items())
        base = endpoint.base_url.rstrip("/")
        response = await self._send_at_last(base, request, endpoint, built_in)
        url = base + request.target.decode("latin-1")
        for _ in range(MOST_REDIRECTS):
            location = next((value for key, value in response.headers if key == b"location"), b"")
            if response.status not in _REDIRECTS or not location:
                return response
            following = _follow(request, response.status)
            if following is None:
                return response
            await _close(response)
            there = urljoin(url, location.decode("latin-1"))
            if _origin(there) != _origin(url):
                following.headers = [pair for pair in following.headers if pair[0] not in own.keys() | _CREDENTIALS]
            url, request = there, following
            parts = urlsplit(url)
            request.target = (parts.path or "/").encode("latin-1") + (
                b"?" + parts.query.encode() if parts.query else b""
            )
            response = await self._send(f"{parts.scheme}://{parts.netloc}", request, endpoint, whole_target=True)
        await _close(response)
        raise ComponentError(f"stopped after {MOST_REDIRECTS} redirects")

    async def _send_at_last(self, base: str, request: Request, endpoint: Endpoint | None, built_in: bool) -> Response:
        loop = asyncio.get_running_loop()
        began, retries = loop.time(), 0
        while True:
            try:
                return await self._send(base, request, endpoint)
            except ConnectFailed as error:
                retry = self.retry()
                if not built_in or not retry.repeats(Failure(Code.UNAVAILABLE)):
                    raise
                wait_s = retry.wait(retries, loop.time() - began, random.random)
                if wait_s is None:
                    raise
                log.debug("trying %s again: %s", base, error)
            retries += 1
            await asyncio.sleep(wait_s)

    async def _send(
        self, base: str, request: Request, endpoint: Endpoint | None, *, whole_target: bool = False
    ) -> Response:
        scheme, host, port = _origin(base)
        prefix = "" if whole_target else urlsplit(base).path
        if prefix:
            request = Request(
                request.method, prefix.encode("ascii", "ignore") + request.target, request.headers, request.body
            )
        kept = self._client(scheme, host, port, endpoint)
        kept.calls += 1
        try:
            response = await kept.client.request(request)
        except BaseException:
            self._over(kept)
            raise
        if isinstance(response.body, bytes):
            self._over(kept)
        else:
            response.body = _Counted(response.body, self, kept)
        return response

    def _client(self, scheme: str, host: str, port: int, endpoint: Endpoint | None) -> _Kept:
        key = (scheme, host, port, endpoint if endpoint is not None and endpoint.has_tls else None)
        kept = self._clients.get(key)
        if kept is None:
            tls = _context(key[3]) if scheme == "https" else None
            client = HttpClient(host, port, tls=tls, connect_timeout_s=DIAL_TIMEOUT_S, max_head=self.max_head)
            kept = self._clients[key] = _Kept(client)
            if len(self._clients) > MOST_CLIENTS:
                _, oldest = self._clients.popitem(last=False)
                oldest.closing = True
                if oldest.calls == 0:
                    self._close_client(oldest)
        else:
            self._clients.move_to_end(key)
        return kept

    def _over(self, kept: _Kept) -> None:
        kept.calls -= 1
        if kept.closing and kept.calls == 0:
            self._close_client(kept)

    def _close_client(self, kept: _Kept) -> None:
        task = asyncio.get_running_loop().create_task(kept.client.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close every connection."""
        clients = [kept.client for kept in self._clients.values()]
        self._clients.clear()
        for client in clients:
            await client.close()
        if self._closing:
            await asyncio.wait(self._closing)


class _Counted:
    """A streamed answer that keeps its client open until it was read or closed."""

    def __init__(self, body: object, owner: External, kept: _Kept) -> None:
        self._body = body
        self._owner: External | None = owner
        self._kept = kept

    def __aiter__(self) -> _Counted:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece: bytes = await self._body.__anext__()  # type: ignore[attr-defined]
        except BaseException:
            self._end()
            raise
        return piece

    async def aclose(self) -> None:
        self._end()
        await self._body.aclose()  # type: ignore[attr-defined]

    def _end(self) -> None:
        owner, self._owner = self._owner, None
        if owner is not None:
            owner._over(self._kept)


def _origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port of a URL. Raises `ComponentError` for what is no URL of a server."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme.lower(), parts.hostname or "", parts.port
    except ValueError as error:
        raise ComponentError(f"invalid URL {url!r}: {error}") from error
    if scheme not in ("http", "https") or not host or any(c <= " " or c == "\x7f" for c in url):
        raise ComponentError(f"invalid URL {url!r}")
    return scheme, host, port if port is not None else 443 if scheme == "https" else 80


def _follow(request: Request, status: int) -> Request | None:
    """Return the request to send after a redirect, None when a streamed body cannot be sent again (RFC 9110 15.4)."""
    if status in (307, 308):
        if not isinstance(request.body, bytes):
            return None
        return Request(request.method, b"", list(request.headers), request.body)
    method = request.method if request.method in ("GET", "HEAD") else "GET"
    headers: Headers = [pair for pair in request.headers if not pair[0].startswith(b"content-")]
    return Request(method, b"", headers)


async def _close(response: Response) -> None:
    if not isinstance(response.body, bytes):
        await response.body.aclose()  # type: ignore[attr-defined]


def _context(endpoint: Endpoint | None) -> ssl.SSLContext:
    try:
        if endpoint is None:
            return client_context()
        return client_context(
            ca_pem=endpoint.root_ca or None,
            certificate_pem=endpoint.certificate or None,
            key_pem=endpoint.private_key or None,
        )
    except (ssl.SSLError, ValueError) as error:
        where = f"HTTPEndpoint {endpoint.name}" if endpoint is not None else "TLS"
        raise ComponentError(f"{where}: {error}") from error
