"""The HTTP API: from a request to its row and back (spec `http-api.md` 1).

What is configured - token, CORS, API log - wraps the dispatch once, when the sidecar is built; what is off is absent.
"""

from __future__ import annotations

import hmac
import logging
import time
from typing import TYPE_CHECKING

from pillion.api.call import HttpCall
from pillion.api.render import http_error, text_response
from pillion.api.table import BadEscape, Routes
from pillion.blocks.invoke_http import named_target
from pillion.errors import ApiError, ComponentError
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Response, RpcError
from pillion.net.http_client import HttpError
from pillion.records import record
from pillion.serve.pipeline import through
from pillion.serve.tracing import traced_http
from pillion.wire import baggage, trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from pillion.api.operation import Operation
    from pillion.net.exchange import Headers, Request
    from pillion.net.middleware import Pipeline
    from pillion.observe.logs import ApiLog
    from pillion.observe.tracing import Tracer

    Handler = Callable[[Request], Awaitable[Response]]

log = logging.getLogger("pillion.serve.http")
_EXPECTED = (ComponentError, RpcError, HttpError, BodyTooLarge, BodyIncomplete, OSError, ValueError)
HEALTH = (b"/v1.0/healthz", b"/v1.0/healthz/outbound")
_NO_TRACE = (b"traceparent", trace.NONE.encode())
ACTOR_METHOD = "v1.0/actors/{type}/{id}/method/"
METHODS = "HEAD, GET, POST, PUT, PATCH, DELETE"


@record
class HttpSettings:
    """What surrounds the dispatch. `origins` None: no CORS; `tracing` False: samplingRate is exactly 0."""

    api_token: str = ""
    origins: tuple[str, ...] | None = None
    tracing: bool = True
    api_log: ApiLog | None = None
    pipeline: Pipeline | None = None
    metered: Callable[[Handler], Handler] | None = None
    """Wraps what is counted as a request of the API."""
    tracer: Tracer | None = None
    """Makes a span of each request; None: the caller's context is answered as it came."""
    count_error: Callable[[str, str], None] | None = None
    """Told the code and the category of each error that is answered."""


class HttpApi:
    """The `HttpService` of the API port. `fallback` takes every request that no row matches (service invocation)."""

    def __init__(
        self,
        operations: Iterable[Operation],
        settings: HttpSettings,
        fallback: Callable[[HttpCall], Awaitable[Response]],
    ) -> None:
        operations = tuple(operations)
        self._routes = Routes(operations)
        self._fallback = fallback
        self._count_error = settings.count_error
        serve: Handler = self._dispatch
        if settings.api_log is not None:
            serve = _logged(serve, settings.api_log, self._routes, _names(operations))
        if settings.pipeline is not None:
            serve = through(settings.pipeline, serve, self.streams)
        if settings.api_token:
            serve = _authenticated(serve, settings.api_token)
        if settings.origins is not None:
            serve = _cross_origin(serve, settings.origins)
        if settings.metered is not None:
            serve = settings.metered(serve)
        if settings.tracing:
            serve = _traced(serve) if settings.tracer is None else traced_http(serve, settings.tracer)
        self.serve = serve

    def streams(self, method: str, target: bytes, headers: Headers) -> bool:
        """The invocation routes and the fallback take bodies as they arrive; all others are collected first."""
        try:
            match = self._routes.find(method, target.partition(b"?")[0])
        except BadEscape:
            return False
        return match is None or match[0].streams

    async def _dispatch(self, request: Request) -> Response:
        path, _, query = request.target.partition(b"?")
        try:
            match = self._routes.find(request.method, path)
        except BadEscape as error:
            return text_response(400, str(error))
        try:
            if match is None:
                return await self._fallback(HttpCall(request, path, query, (), ""))
            row, params, _ = match
            return await row.serve(HttpCall(request, path, query, params, row.path))
        except ApiError as error:
            if error.__cause__ is not None and error.http_status >= 500 and not _expected(error.__cause__):
                log.error("%s %s failed", request.method, _shown(path), exc_info=error)
            if self._count_error is not None:
                self._count_error(error.fault.http_code or error.fault.grpc_reason, error.fault.category)
            return http_error(error)
        except Exception as error:
            log.exception("%s %s failed", request.method, _shown(path))
            return http_error(error)


def _expected(cause: BaseException) -> bool:
    """A dependency's or the caller's failure is told to the caller; only ours fills the log with a traceback."""
    return isinstance(cause, _EXPECTED)


def _shown(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace")


def _traced(serve: Handler) -> Handler:
    """Answer with the trace context of the request, as the reference does; a broken `baggage` header is refused."""

    async def traced(request: Request) -> Response:
        parent, state, carried = trace.carried(request.headers)
        if carried is not None:
            try:
                baggage.check(carried.decode("latin-1"))
            except ValueError as error:
                return text_response(400, f"invalid baggage header: {error}")
        response = await serve(request)
        if b"/healthz" in request.target:
            return response
        for name, _ in response.headers:
            if name == b"traceparent":
                break
        else:
            if parent is not None and trace.valid_parent(parent.decode("latin-1")):
                response.headers.append((b"traceparent", parent))
                if state is not None:
                    response.headers.append((b"tracestate", state))
            else:
                response.headers.append(_NO_TRACE)
        if carried is not None:
            response.headers.append((b"baggage", carried))
        return response

    return traced


def _authenticated(serve: Handler, token: str) -> Handler:
    """Demand the API token; health probes are exempt and the header goes no further (spec `http-api.md` 1)."""
    expected = token.encode()

    async def authenticated(request: Request) -> Response:
        if request.method == "GET" and request.target.partition(b"?")[0] in HEALTH:
            return await serve(request)
        given = request.header(b"dapr-api-token")
        if given is None or not hmac.compare_digest(given, expected):
            response = text_response(401, "invalid api token\n")
            response.headers.append((b"x-content-type-options", b"nosniff"))
            return response
        request.headers = [pair for pair in request.headers if pair[0] != b"dapr-api-token"]
        return await serve(request)

    return authenticated


def _cross_origin(serve: Handler, origins: tuple[str, ...]) -> Handler:
    """CORS (spec `http-api.md` 1): preflights are answered here, before the token is asked for."""
    everyone = "*" in origins
    known = {origin.encode().lower() for origin in origins}

    def allowed(origin: bytes | None) -> bytes | None:
        if origin is None:
            return None
        if everyone:
            return b"*"
        return origin if origin.lower() in known else None

    async def cross_origin(request: Request) -> Response:
        origin = allowed(request.header(b"origin"))
        asked = request.header(b"access-control-request-method")
        if request.method == "OPTIONS" and asked is not None:
            headers = [
                (b"vary", b"Origin"),
                (b"vary", b"Access-Control-Request-Method"),
                (b"vary", b"Access-Control-Request-Headers"),
            ]
            if origin is not None and asked.decode("latin-1").upper() in METHODS.split(", "):
                headers.append((b"access-control-allow-origin", origin))
                headers.append((b"access-control-allow-methods", asked))
                wanted = request.header(b"access-control-request-headers")
                if wanted:
                    headers.append((b"access-control-allow-headers", wanted))
            return Response(200, headers)
        response = await serve(request)
        response.headers.append((b"vary", b"Origin"))
        if origin is not None:
            response.headers.append((b"access-control-allow-origin", origin))
        return response

    return cross_origin


def _names(operations: Iterable[Operation]) -> dict[tuple[str, str], str]:
    """The operations' names by verb and path of their routes."""
    return {(verb, row.path): each.name for each in operations for row in each.http for verb in row.verbs}


def _logged(serve: Handler, api_log: ApiLog, routes: Routes, names: dict[tuple[str, str], str]) -> Handler:
    def endpoint(request: Request, path: bytes) -> str:
        """What is called, without its path (spec `http-api.md` 1): a name, and the target of an invocation."""
        try:
            match = routes.find(request.method, path)
        except BadEscape:
            return "InvokeService"
        name = names[request.method, match[0].path] if match else "InvokeService"
        if name == "InvokeService":
            target = named_target(path, request.headers)
            return f"{name}/{target}" if target else name
        if match and match[0].path.startswith(ACTOR_METHOD):
            return f"InvokeActor/{match[1][0]}.{match[1][1]}"
        return name

    async def logged(request: Request) -> Response:
        started = time.perf_counter()
        path = request.target.partition(b"?")[0]
        called = endpoint(request, path) if api_log.obfuscates else ""  # before others take the headers away
        response = await serve(request)
        agent = (request.header(b"user-agent") or b"").decode("latin-1")
        size = len(response.body) if isinstance(response.body, bytes) else 0
        api_log.http(
            request.method, _shown(path), called,
            agent=agent, code=response.status, size=size, elapsed_s=time.perf_counter() - started,
        )  # fmt: skip
        return response

    return logged
