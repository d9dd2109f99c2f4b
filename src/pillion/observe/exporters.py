"""The receivers of spans: OTLP over gRPC and HTTP, Zipkin, the log (spec `runtime.md` 3.2).

Knows: formats, addresses, which failures may be repeated. Never knows: batches and queues (`observe/export.py`).
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from pillion import __version__
from pillion.errors import Code, ConfigError
from pillion.net import tls
from pillion.net.exchange import BodyIncomplete, Request, RpcError
from pillion.net.grpc_client import Channel
from pillion.net.http_client import HttpClient, HttpError
from pillion.observe.export import NotTaken
from pillion.wire import otlp, zipkin

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillion.kinds.config import Otel, Tracing
    from pillion.net.exchange import Headers, Metadata
    from pillion.observe.export import Exporter
    from pillion.observe.tracing import Span

log = logging.getLogger("pillion.observe.trace")
SCOPE = "pillion"
_AGAIN_RPC = frozenset(
    (
        Code.CANCELLED, Code.DEADLINE_EXCEEDED, Code.RESOURCE_EXHAUSTED, Code.ABORTED, Code.OUT_OF_RANGE,
        Code.UNAVAILABLE, Code.DATA_LOSS,
    )
)  # fmt: skip
"""Codes after which a batch is sent again (opentelemetry.io/docs/specs/otlp, OTLP/gRPC response)."""
_AGAIN_HTTP = frozenset((429, 502, 503, 504))
_LARGEST_ANSWER = 65536


def resource(app_id: str, variables: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes of the sender: the app id as `service.name`, or what OpenTelemetry's variables say.

    `OTEL_SERVICE_NAME` wins over `OTEL_RESOURCE_ATTRIBUTES`; pairs of the latter without `=` are left out.
    """
    found = {"service.name": app_id, "telemetry.sdk.language": "python", "telemetry.sdk.name": SCOPE}
    found["telemetry.sdk.version"] = __version__
    for pair in variables.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, equals, value = pair.partition("=")
        if equals and key.strip():
            found[key.strip()] = value.strip()
    if name := variables.get("OTEL_SERVICE_NAME"):
        found["service.name"] = name
    return found


def exporters(tracing: Tracing, sender: Mapping[str, str]) -> list[Exporter]:
    """Return what the configuration names. Raises `ConfigError` for an address that is none."""
    found: list[Exporter] = []
    if tracing.stdout:
        found.append(LogExporter())
    if tracing.zipkin:
        found.append(ZipkinExporter(tracing.zipkin, sender["service.name"]))
    if tracing.otel.endpoint and tracing.otel.protocol == "grpc":
        found.append(OtlpGrpcExporter(tracing.otel, sender))
    elif tracing.otel.endpoint and tracing.otel.protocol == "http":
        found.append(OtlpHttpExporter(tracing.otel, sender))
    return found


def _otlp_request(sender: bytes, spans: Sequence[Span]) -> bytes:
    return otlp.request(
        sender,
        SCOPE,
        [
            otlp.span(
                span.trace_id, span.span_id, span.parent_id, span.tracestate, span.name, span.kind, span.started_ns,
                span.ended_ns, span.attributes, span.error,
            )
            for span in spans
        ],
    )  # fmt: skip


def _taken(reply: bytes, sent: int) -> int:
    """Return how many spans a receiver took; those that it refused are lost, and that is said."""
    try:
        refused, why = otlp.rejected(reply)
    except ValueError as error:
        log.debug("the receiver's answer is not understood: %s", error)
        return sent
    if refused or why:
        log.warning("the receiver of spans refused %d of %d: %s", refused, sent, why)
    return max(sent - refused, 0)


class OtlpGrpcExporter:
    """OTLP over gRPC, over our own channel."""

    name = "otlp-grpc"

    def __init__(self, otel: Otel, sender: Mapping[str, str]) -> None:
        host = otel.endpoint.partition("/")[0]
        address = host if _has_port(host) else f"{host}:4317"
        context = tls.client_context(alpn=tls.HTTP2) if otel.secure else None
        self._channel = Channel(address, tls=context, server_name=_host(address) if otel.secure else None)
        self._metadata: Metadata = [(name.lower(), value) for name, value in otel.headers]
        self._sender = otlp.resource(sender.items())

    async def send(self, spans: Sequence[Span]) -> int:
        request = _otlp_request(self._sender, spans)
        try:
            reply = await self._channel.unary(otlp.EXPORT, request, metadata=list(self._metadata))
        except RpcError as error:
            raise NotTaken(str(error), again=error.code in _AGAIN_RPC) from error
        return _taken(reply.message, len(spans))

    async def close(self) -> None:
        await self._channel.close()


class _HttpExporter:
    """What the exporters over HTTP share: one POST for each batch."""

    name = ""

    def __init__(self, host: str, port: int, target: bytes, headers: Headers, *, secure: bool) -> None:
        context = tls.client_context() if secure else None
        self._client = HttpClient(host, port, tls=context, server_name=host if secure else None, max_connections=2)
        self._target, self._headers = target, headers

    async def _post(self, body: bytes) -> bytes:
        """Return the answer's body, up to a bound; raises `NotTaken`."""
        request = Request("POST", self._target, self._headers.copy(), body)
        try:
            response = await self._client.request(request)
            answer = await _read(response.body)
        except (HttpError, BodyIncomplete, OSError) as error:
            raise NotTaken(str(error) or type(error).__name__, again=True) from error
        if not 200 <= response.status < 300:
            shown = answer[:200].decode("utf-8", "replace")
            raise NotTaken(f"status {response.status}: {shown}", again=response.status in _AGAIN_HTTP)
        return answer

    async def close(self) -> None:
        await self._client.close()


async def _read(body: object) -> bytes:
    if isinstance(body, bytes):
        return body
    pieces = bytearray()
    try:
        async for piece in body:  # type: ignore[attr-defined]
            pieces += piece
            if len(pieces) > _LARGEST_ANSWER:
                break
    finally:
        closing = getattr(body, "aclose", None)
        if closing is not None:
            await closing()
    return bytes(pieces)


class OtlpHttpExporter(_HttpExporter):
    """OTLP over HTTP with protobuf bodies; an address may name a path, else it is `/v1/traces`."""

    name = "otlp-http"

    def __init__(self, otel: Otel, sender: Mapping[str, str]) -> None:
        host, port, target = _address(f"//{otel.endpoint}", "tracing.otel.endpointAddress", 4318)
        headers: Headers = [(b"content-type", otlp.CONTENT_TYPE)]
        headers += [(name.lower().encode(), value.encode()) for name, value in otel.headers]
        super().__init__(host, port, target if target != b"/" else otlp.PATH, headers, secure=otel.secure)
        self._sender = otlp.resource(sender.items())

    async def send(self, spans: Sequence[Span]) -> int:
        return _taken(await self._post(_otlp_request(self._sender, spans)), len(spans))


class ZipkinExporter(_HttpExporter):
    """Zipkin's JSON of version 2."""

    name = "zipkin"

    def __init__(self, url: str, service: str) -> None:
        where = "tracing.zipkin.endpointAddress"
        scheme = urlsplit(url).scheme
        if scheme not in ("http", "https"):
            raise ConfigError(f"{url!r} is no HTTP address", where=where, mend="write http://host:9411/api/v2/spans")
        host, port, target = _address(url, where, 443 if scheme == "https" else 80)
        super().__init__(host, port, target, [(b"content-type", b"application/json")], secure=scheme == "https")
        self._service = service

    async def send(self, spans: Sequence[Span]) -> int:
        rows = [
            zipkin.span(
                span.trace_id, span.span_id, span.parent_id, span.name, span.kind, span.started_ns, span.ended_ns,
                span.attributes, span.error, self._service,
            )
            for span in spans
        ]  # fmt: skip
        await self._post(zipkin.body(rows))
        return len(spans)


class LogExporter:
    """One line of the log for each span: `tracing.stdout`."""

    name = "stdout"

    async def send(self, spans: Sequence[Span]) -> int:
        for span in spans:
            log.info(
                "span %s kind=%s trace_id=%s span_id=%s parent_id=%s duration_us=%d status=%s %s",
                span.name, span.kind.name.lower(), span.trace_id, span.span_id, span.parent_id or "none",
                (span.ended_ns - span.started_ns) // 1000, span.error or "ok",
                " ".join(f"{key}={value}" for key, value in span.attributes),
            )  # fmt: skip
        return len(spans)

    async def close(self) -> None:
        """There is nothing to end."""


def _has_port(host: str) -> bool:
    return host.rpartition(":")[2].isdigit() and not host.endswith("]")


def _host(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


def _address(url: str, where: str, port: int) -> tuple[str, int, bytes]:
    """Return host, port and target of an address; raises `ConfigError`."""
    try:
        parts = urlsplit(url)
        host, found = parts.hostname, parts.port
    except ValueError as error:
        raise ConfigError(f"{url!r} is no address: {error}", where=where) from error
    if not host:
        raise ConfigError(f"{url!r} names no host", where=where)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return host, port if found is None else found, target.encode()
