"""Jobs on their way to the application (spec `actors-workflows-jobs.md` 2.6, `http-api.md` 5.2, `grpc-api.md` 7).

Knows: `POST /job/<name>`, OnJobEvent and its older name, what an answer means. Never knows: schedules, schedulers.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

from google.protobuf.message import DecodeError

from pillion.app.channel import AppUnhealthy
from pillion.app.topic_headers import read_all
from pillion.app.topics import UNREACHABLE
from pillion.errors import Code
from pillion.kinds.jobs import Outcome
from pillion.net.exchange import Request, RpcError
from pillion.observe.spans import job_span
from pillion.observe.tracing import SpanKind
from pillion.wire import gojson, trace
from pillion.wire.messages import common, wellknown
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from pillion.app.channel import AppChannel
    from pillion.kinds.jobs import Trigger
    from pillion.net.exchange import Headers, Metadata
    from pillion.observe.tracing import Span, Tracer

log = logging.getLogger("pillion.app.jobs")
_JSON = (b"content-type", b"application/json")
_VALUE = "/google.protobuf.Value"
_METHODS = (
    "/dapr.proto.runtime.v1.AppCallback/OnJobEvent",
    "/dapr.proto.runtime.v1.AppCallbackAlpha/OnJobEventAlpha1",
)
_SAFE = "~@:!$&'()*+,;="
_DEEPEST = 200


class Meter(Protocol):
    """What is counted of jobs: whether the application carried one out, and its milliseconds."""

    def job(self, success: bool, elapsed_ms: float) -> None: ...


class AppJobs:
    """The application as the one who carries jobs out; `deliver` is a consumer of triggers and never raises."""

    def __init__(self, channel: AppChannel, *, meter: Meter | None = None, tracer: Tracer | None = None) -> None:
        self._deliver = _Http(channel).deliver if channel.http is not None else _Grpc(channel).deliver
        self._meter = meter
        self._tracer = tracer

    async def deliver(self, trigger: Trigger) -> Outcome:
        """Hand one job over. An application that has no route for it has had its chance: it is not asked again."""
        name = trigger.key.name
        span = _span(self._tracer, name)
        started = time.perf_counter()
        success = False
        try:
            data = wellknown.Any.FromString(trigger.payload)
            await self._deliver(name, data, span)
            success = True
            return Outcome.SUCCESS
        except AppUnhealthy as error:
            # It turned unhealthy between the trigger and here: the tick waits until it is well.
            _fail(span, str(error))
            return Outcome.UNDELIVERABLE
        except _Missing as error:
            _fail(span, str(error))
            log.warning("job %s is given up: %s", name, error)
            return Outcome.SUCCESS
        except (*UNREACHABLE, DecodeError) as error:
            reason = str(error) or type(error).__name__
            _fail(span, reason)
            log.warning("job %s failed: %s", name, reason)
            return Outcome.FAILED
        finally:
            if self._meter is not None:
                self._meter.job(success, (time.perf_counter() - started) * 1000)
            if span is not None and self._tracer is not None:
                self._tracer.end(span)


class _Missing(Exception):
    """The application does not know the job."""


class _Http:
    """`POST /job/<name>` with the job's data as JSON."""

    def __init__(self, channel: AppChannel) -> None:
        self._channel = channel

    async def deliver(self, name: str, data: wellknown.Any, span: Span | None) -> None:
        headers: Headers = [_JSON]
        if span is not None:
            headers.append((b"traceparent", span.traceparent.encode()))
        target = b"/job/" + quote(name, safe=_SAFE).encode()
        response = await self._channel.request(Request("POST", target, headers, body_of(data)))
        answer = await read_all(response)
        if response.status == 404:
            raise _Missing("the application has no route for it (status 404)")
        if not 200 <= response.status < 300:
            detail = answer[:200].decode("utf-8", "replace")
            raise ValueError(f"the application answered with status {response.status}" + (f": {detail}" * bool(detail)))


class _Grpc:
    """OnJobEvent; applications of older SDKs know its older name alone, and what worked is tried first."""

    def __init__(self, channel: AppChannel) -> None:
        self._channel = channel
        self._methods = list(_METHODS)

    async def deliver(self, name: str, data: wellknown.Any, span: Span | None) -> None:
        event = m.JobEventRequest(name=name, method=f"job/{name}", content_type=data.type_url)
        event.data.CopyFrom(data)
        event.http_extension.verb = common.HTTPExtension.POST
        message = event.SerializeToString()
        try:
            try:
                await self._call(self._methods[0], message, span)
            except RpcError as error:
                if error.code != Code.UNIMPLEMENTED:
                    raise
                await self._call(self._methods[1], message, span)
                self._methods.reverse()
        except RpcError as error:
            if error.code == Code.NOT_FOUND:
                raise _Missing(f"the application does not know it: {error.message}") from error
            raise

    async def _call(self, method: str, message: bytes, span: Span | None) -> None:
        metadata: Metadata = []
        if span is not None:
            metadata = [("traceparent", span.traceparent), ("grpc-trace-bin", trace.to_binary(span.traceparent))]
        await self._channel.unary(method, message, metadata=metadata, limited=True)


def body_of(data: wellknown.Any) -> bytes:
    """Return the body of a request: a Value as JSON, the bytes of any other type as they are, trimmed."""
    if not data.type_url.endswith(_VALUE):
        return data.value.strip()
    return gojson.dumps_canonical(_plain(wellknown.Value.FromString(data.value), _DEEPEST))


def _plain(value: Any, depth: int) -> Any:
    """Return a `google.protobuf.Value` as what JSON makes of it. Raises ValueError beyond `depth` levels."""
    if not depth:
        raise ValueError("the data of the job are nested too deeply")
    match value.WhichOneof("kind"):
        case "struct_value":
            return {name: _plain(field, depth - 1) for name, field in value.struct_value.fields.items()}
        case "list_value":
            return [_plain(item, depth - 1) for item in value.list_value.values]
        case "string_value":
            return value.string_value
        case "number_value":
            return value.number_value
        case "bool_value":
            return value.bool_value
        case _:
            return None


def _span(tracer: Tracer | None, name: str) -> Span | None:
    if tracer is None:
        return None
    span = tracer.start(SpanKind.CLIENT, "", "")
    if span.sampled:
        span.name, span.attributes = job_span(name)
    return span


def _fail(span: Span | None, reason: str) -> None:
    if span is not None:
        span.error = reason
