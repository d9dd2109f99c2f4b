"""The gRPC API: from a full method name to its row and back (spec `grpc-api.md` 1 and 2)."""

from __future__ import annotations

import asyncio
import hmac
import logging
import time
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from pillion.api.call import RpcCall
from pillion.api.render import http_failure, rpc_error
from pillion.errors import ApiError, Code, ComponentError
from pillion.net.exchange import Method, RpcError
from pillion.serve.tracing import traced_stream, traced_unary
from pillion.wire import baggage, trace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from pillion.api.operation import Operation, Rpc
    from pillion.net.exchange import Metadata, ServerCall, Streaming
    from pillion.observe.grpc_meters import ServerMeter
    from pillion.observe.logs import ApiLog
    from pillion.observe.tracing import Tracer

log = logging.getLogger("pillion.serve.grpc")
NAMING = frozenset(("dapr-app-id", "dapr-callee-app-id"))
UNTRACED = frozenset({"/dapr.proto.runtime.v1.Dapr/InvokeService"})


class GrpcApi:
    """The `GrpcService` of the API port. `proxy` serves every method that no row has (spec `grpc-api.md` 6).

    `extras` are further methods by full name; a call of one that names an application goes to that application.
    """

    def __init__(
        self,
        operations: Iterable[Operation],
        *,
        proxy: Streaming,
        api_token: str = "",
        tracing: bool = True,
        api_log: ApiLog | None = None,
        extras: dict[str, Method] | None = None,
        meter: ServerMeter | None = None,
        tracer: Tracer | None = None,
        count_error: Callable[[str, str], None] | None = None,
    ) -> None:
        self._methods: dict[str, Method] = {}
        self._extras = dict(extras or {})
        self._tracing = tracing and tracer is None
        self._tracer = tracer
        self._count_error = count_error
        for operation in operations:
            if operation.rpc is not None:
                for name in operation.rpc.methods:
                    full = f"/{operation.rpc.service}/{name}"
                    self._methods[full] = self._method(full, operation.rpc)
        if meter is not None:
            self._methods = {name: meter.method(name, method) for name, method in self._methods.items()}
            proxy = meter.proxied(proxy)
        self._proxy = Method(streaming=proxy)
        if api_log is not None:
            self._methods = {name: _logged(name, method, api_log) for name, method in self._methods.items()}
        self._token = api_token

    def find(self, method: str, metadata: Metadata) -> Method | None:
        if self._token and (refusal := _refusal(metadata, self._token)) is not None:
            return refusal
        found = self._methods.get(method)
        if found is not None:
            return found
        extra = self._extras.get(method)
        if extra is None or any(name in NAMING for name, _ in metadata):
            return self._proxy
        return extra

    def _method(self, full: str, row: Rpc) -> Method:
        if row.unary is not None:
            assert row.takes is not None
            parse, serve, traced = row.takes.FromString, row.unary, self._tracing and full not in UNTRACED
            if self._tracer is not None:
                serve = traced_unary(full, serve, self._tracer, answered=full not in UNTRACED)

            async def unary(call: ServerCall, request: bytes) -> bytes:
                try:
                    message = parse(request)
                except DecodeError as error:
                    raise RpcError(Code.INTERNAL, f"grpc: error unmarshalling request: {error}") from error
                try:
                    if traced:
                        _trace(call)
                    reply = await serve(RpcCall(full, call), message)
                except Exception as error:
                    raise self._failed(full, error) from error
                return reply.SerializeToString()

            if row.at_once is None or self._tracer is not None:
                return Method(unary=unary, oversized=row.oversized)
            at_once = row.at_once

            def now(call: ServerCall, request: bytes) -> bytes | None:
                try:
                    reply = at_once(parse(request))
                    if traced and reply is not None:
                        _trace(call)
                    return reply
                except DecodeError as error:
                    raise RpcError(Code.INTERNAL, f"grpc: error unmarshalling request: {error}") from error
                except Exception as error:
                    raise self._failed(full, error) from error

            return Method(unary=unary, at_once=now, oversized=row.oversized)
        assert row.stream is not None
        stream = row.stream
        if self._tracer is not None:
            stream = traced_stream(full, stream, self._tracer)

        async def streaming(call: ServerCall) -> None:
            try:
                await stream(RpcCall(full, call))
            except Exception as error:
                raise self._failed(full, error) from error

        return Method(streaming=streaming)

    def _failed(self, method: str, error: Exception) -> RpcError:
        """Return the status that is answered for what left a handler, and count it."""
        if isinstance(error, ApiError):
            if self._count_error is not None:
                self._count_error(error.fault.http_code or error.fault.grpc_reason, error.fault.category)
        elif not isinstance(error, (RpcError, ComponentError, asyncio.TimeoutError, ValueError)):
            log.error("%s failed", method, exc_info=error)
        return rpc_error(error)


def _trace(call: ServerCall) -> None:
    """Answer with the caller's trace context, and refuse a broken `baggage`."""
    for name, value in call.metadata:
        if name == "grpc-trace-bin":
            call.initial_metadata.append((name, value))
        elif name == "traceparent" and isinstance(value, str) and trace.valid_parent(value):
            call.initial_metadata.append(("grpc-trace-bin", trace.to_binary(value)))
        elif name == "baggage" and isinstance(value, str):
            try:
                baggage.check(value)
            except ValueError as error:
                raise RpcError(Code.INVALID_ARGUMENT, f"invalid baggage header: {error}") from error
            call.initial_metadata.append((name, value))


def _refusal(metadata: Metadata, token: str) -> Method | None:
    """Check and remove the API token; covers every method, proxied ones too (spec `grpc-api.md` 1)."""
    given = [value for name, value in metadata if name == "dapr-api-token"]
    if not metadata:
        text = "missing metadata in request"
    elif not given:
        text = "missing api token in request metadata"
    elif not isinstance(given[0], str) or not hmac.compare_digest(given[0].encode(), token.encode()):
        text = "authentication error: api token mismatch"
    else:
        metadata[:] = [pair for pair in metadata if pair[0] != "dapr-api-token"]
        return None

    async def refuse(call: ServerCall) -> None:
        raise http_failure(401, text.encode())

    return Method(streaming=refuse)


def _logged(name: str, method: Method, api_log: ApiLog) -> Method:
    """Log each call: method, user agent, numeric code, duration in milliseconds (spec `runtime.md` 1.6)."""

    async def watch(call: ServerCall, work: Awaitable[object]) -> object:
        started, code = time.perf_counter(), 0
        try:
            return await work
        except RpcError as error:
            code = error.code
            raise
        finally:
            agent = call.first("user-agent")
            api_log.grpc(
                name, agent=agent if isinstance(agent, str) else "", code=code, elapsed_s=time.perf_counter() - started
            )

    if method.unary is not None:
        inner = method.unary

        async def unary(call: ServerCall, request: bytes) -> bytes:
            return await watch(call, inner(call, request))  # type: ignore[return-value]

        # Without `at_once`: a call that is logged takes the way on which it can be watched.

        return Method(unary=unary, oversized=method.oversized)
    assert method.streaming is not None
    stream = method.streaming

    async def streaming(call: ServerCall) -> None:
        await watch(call, stream(call))

    return Method(streaming=streaming)
