"""`bindings.http`: requests to one HTTP address (spec `components.md` 4).

Knows: which metadata become headers, what an answer's metadata are, redirects. Never knows: connections (`net`).
"""

from __future__ import annotations

import asyncio
import re
import ssl
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urljoin, urlsplit

from pillion.errors import ComponentError, ConfigError
from pillion.kinds.bindings import BindingError, Response
from pillion.kinds.component import seconds, setting, truthy
from pillion.kinds.quantity import quantity
from pillion.net.exchange import BodyIncomplete, BodyTooLarge
from pillion.net.exchange import Request as HttpRequest
from pillion.net.http_client import HttpClient, HttpError
from pillion.wire.http1 import FRAMING, HOP_BY_HOP, phrase

if TYPE_CHECKING:
    from pillion.kinds.bindings import Request
    from pillion.kinds.component import Context
    from pillion.net.exchange import Headers
    from pillion.net.exchange import Response as HttpResponse

MOST_REDIRECTS = 10
MOST_ORIGINS = 16
"""Addresses that redirects have led to, with connections kept; beyond it the oldest is closed."""
MAX_HEAD = 256 << 10
_JSON = b"application/json; charset=utf-8"
_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_TRACE = ("traceparent", "tracestate", "baggage")
_NOT_OURS = HOP_BY_HOP | FRAMING | {b"host"}
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_SAFE = "/?&=%:@!$'()*+,;~-._[]"


def _size(text: str) -> int:
    return int(quantity(text)) if text.strip() else 100 << 20


@dataclass(frozen=True)
class HttpSettings:
    """Metadata of `bindings.http`. Durations in seconds, sizes in bytes; 0 and less: no limit."""

    url: str = setting(help="what `path` of a request is appended to")
    response_timeout: float = setting(0.0, parse=seconds, help="longest wait for an answer; 0: no limit")
    max_response_body_size: int = setting(100 << 20, parse=_size, help="the rest of a longer body is cut off, 100Mi")
    mtls_root_ca: str = setting("", key="MTLSRootCA", help="PEM or path: authority of the server")
    mtls_client_cert: str = setting("", key="MTLSClientCert", help="PEM or path")
    mtls_client_key: str = setting("", key="MTLSClientKey", secret=True, help="PEM or path")
    mtls_renegotiation: str = setting(
        "RenegotiateNever",
        key="MTLSRenegotiation",
        choices=("RenegotiateNever", "RenegotiateOnceAsClient", "RenegotiateFreelyAsClient"),
        help="no effect: TLS 1.3 has no renegotiation",
    )
    security_token: str = setting("", secret=True, help="sent with every request in securityTokenHeader")
    security_token_header: str = setting("")
    error_if_not_2xx: bool = setting(True, key="errorIfNot2XX", help="other statuses are errors")


@dataclass(frozen=True, slots=True)
class Call:
    """One request to be made."""

    method: str
    url: str
    headers: Headers = field(repr=False)
    body: bytes = field(repr=False)


class HttpBinding:
    """The HTTP output binding."""

    Settings = HttpSettings
    operations = ("create", "get", "head", "post", "put", "patch", "delete", "options", "trace")

    def __init__(self, settings: HttpSettings, context: Context) -> None:
        self._settings = settings
        where = f"component {context.name}"
        try:
            _origin(settings.url)
        except ValueError as error:
            raise ConfigError(f"url: {error}", where=where) from error
        if bool(settings.security_token) != bool(settings.security_token_header):
            raise ConfigError("securityToken and securityTokenHeader are given together or not at all", where=where)
        if settings.security_token and not _TOKEN.fullmatch(settings.security_token_header):
            raise ConfigError("securityTokenHeader is not a header name", where=where)
        self._where = where
        self._tls: ssl.SSLContext | None = None
        self._clients: dict[tuple[str, str, int], HttpClient] = {}

    async def open(self) -> None:
        """Read certificates; the server is not asked for anything."""
        self._tls = await asyncio.to_thread(_tls, self._settings, self._where)

    async def ping(self) -> None:
        """Unknown servers are not called without need."""

    async def close(self) -> None:
        clients, self._clients = list(self._clients.values()), {}
        for client in clients:
            await client.close()

    async def invoke(self, request: Request) -> Response:
        call = call_of(request, self._settings)
        limit = self._settings.response_timeout
        try:
            async with asyncio.timeout(limit if limit > 0 else None):
                answer = await self._follow(call)
                body = await _read(answer, self._settings.max_response_body_size)
        except TimeoutError as error:
            raise ComponentError(f"http: no answer within {limit:g} s") from error
        except (HttpError, OSError, ValueError, BodyIncomplete, BodyTooLarge) as error:
            raise ComponentError(f"http: {error or type(error).__name__}") from error
        metadata = metadata_of(answer)
        strict = request.metadata.get("errorIfNot2XX")
        is_error = self._settings.error_if_not_2xx if strict is None else truthy(strict)
        if is_error and not 200 <= answer.status < 300:
            raise BindingError(f"received status code {answer.status}", metadata)
        return Response(body, metadata)

    async def _follow(self, call: Call) -> HttpResponse:
        """Send, and go where redirections lead, as Go's http.Client does. Raises as `HttpClient` does."""
        for _ in range(MOST_REDIRECTS + 1):
            answer = await self._send(call)
            location = next((value for name, value in answer.headers if name == b"location"), None)
            if answer.status not in (301, 302, 303, 307, 308) or not location:
                return answer
            await _drop(answer)
            call = redirected(call, answer.status, location.decode("latin-1"), self._settings.security_token_header)
        raise ComponentError(f"http: stopped after {MOST_REDIRECTS} redirects")

    async def _send(self, call: Call) -> HttpResponse:
        scheme, host, port = origin = _origin(call.url)
        client = self._clients.get(origin)
        if client is None:
            if len(self._clients) >= MOST_ORIGINS:
                home = _origin(self._settings.url)
                await self._clients.pop(next(known for known in self._clients if known != home)).close()
            tls = (self._tls or ssl.create_default_context()) if scheme == "https" else None
            client = self._clients[origin] = HttpClient(host, port, tls=tls, server_name=host, max_head=MAX_HEAD)
        return await client.request(HttpRequest(call.method, _target(call.url), call.headers, call.body))

    def __repr__(self) -> str:
        return f"<HttpBinding {self._settings.url}>"


def call_of(request: Request, settings: HttpSettings) -> Call:
    """Return the HTTP request that an invocation means; raises `ComponentError`."""
    method = "POST" if request.operation == "create" else request.operation.upper()
    url = settings.url
    if "path" in request.metadata:
        path = request.metadata["path"]
        url = f"{url.rstrip('/')}/{path.lstrip('/')}"
        if ".." in url:
            raise ComponentError(f"invalid path: {path}")
    body = request.data if method in _WITH_BODY else b""
    headers: dict[bytes, bytes] = {b"accept": _JSON}
    if method in _WITH_BODY:
        headers[b"content-type"] = _JSON
    if settings.security_token:
        headers[settings.security_token_header.lower().encode()] = _value(settings.security_token)
    for key, value in request.metadata.items():
        low = key.lower().encode()
        if (key[:1].isupper() or key in _TRACE) and _TOKEN.fullmatch(key) and low not in _NOT_OURS:
            headers[low] = _value(value)
    return Call(method, url, list(headers.items()), body)


def redirected(call: Call, status: int, location: str, token_header: str) -> Call:
    """Return the request that a redirection asks for (RFC 9110 15.4): a POST becomes a GET where clients have always
    done that, and credentials stay at the host they were meant for. Raises `ComponentError`.
    """
    url = urljoin(call.url, location)
    try:
        target, source = _origin(url), _origin(call.url)
    except ValueError as error:
        raise ComponentError(f"http: redirected to {url[:200]!r}: {error}") from error
    headers, method, body = call.headers, call.method, call.body
    if status == 303 or (status in (301, 302) and method == "POST"):
        if method not in ("GET", "HEAD"):
            method, body = "GET", b""
        headers = [pair for pair in headers if pair[0] != b"content-type"]
    if target != source:
        private = {b"authorization", b"cookie", b"www-authenticate", token_header.lower().encode()}
        headers = [pair for pair in headers if pair[0] not in private]
    return Call(method, url, headers, body)


def metadata_of(answer: HttpResponse) -> dict[str, str]:
    """Return status and headers as metadata; several headers of a name are joined."""
    status = f"{answer.status} {phrase(answer.status)}".rstrip()
    found = {"statusCode": str(answer.status), "status": status}
    for name, value in answer.headers:
        key = "-".join(part.capitalize() for part in name.decode("latin-1").split("-"))
        text = value.decode("utf-8", "replace")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


def _value(text: str) -> bytes:
    return _NOT_IN_VALUE.sub(" ", text).encode("utf-8", "replace")


def _origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port; raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url[:200]!r} is not http://… or https://…")
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


def _target(url: str) -> bytes:
    parts = urlsplit(url)
    target = quote(parts.path or "/", safe=_SAFE)
    if parts.query:
        target += "?" + quote(parts.query, safe=_SAFE)
    return target.encode()


async def _read(answer: HttpResponse, limit: int) -> bytes:
    """Return the body, cut off after `limit` bytes unless that is 0 or less."""
    body = answer.body
    if isinstance(body, bytes):
        return body[:limit] if limit > 0 else body
    parts, left = [], limit
    try:
        async for part in body:
            parts.append(part[:left] if limit > 0 else part)
            left -= len(part)
            if limit > 0 and left <= 0:
                break
    finally:
        await _drop(answer)
    return b"".join(parts)


async def _drop(answer: HttpResponse) -> None:
    closing = getattr(answer.body, "aclose", None)
    if closing is not None:
        await closing()


def _tls(settings: HttpSettings, where: str) -> ssl.SSLContext | None:
    """Return a context where certificates are given; raises `ConfigError`."""
    authority, certificate, key = settings.mtls_root_ca, settings.mtls_client_cert, settings.mtls_client_key
    if bool(certificate) != bool(key):
        raise ConfigError("MTLSClientCert and MTLSClientKey are given together or not at all", where=where)
    if not authority and not certificate:
        return None
    context = ssl.create_default_context()
    try:
        if authority:
            context.load_verify_locations(cadata=_pem(authority))
        if certificate:
            # Python's ssl reads keys from files only: a file of our own eyes (mode 0600), gone at once.
            with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
                file.write(_pem(certificate).rstrip() + "\n" + _pem(key))
                file.flush()
                context.load_cert_chain(file.name)
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise ConfigError(f"the certificates cannot be used: {error}", where=where) from error
    return context


def _pem(text: str) -> str:
    return text if "-----BEGIN" in text else Path(text).read_text(encoding="ascii")
