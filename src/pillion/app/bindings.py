"""Input bindings of an application: which it wants, and how an event reaches it.

Spec `http-api.md` 5.2, `grpc-api.md` 7. Knows: OPTIONS and POST of a route, ListInputBindings and OnBindingEvent. Never
knows: bindings, policies, where an answer goes.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from pillion.app.topic_headers import add_metadata, header_value, read_all, target_of
from pillion.app.topics import UNREACHABLE, unreachable
from pillion.kinds.bindings import Answer
from pillion.kinds.topics import Unprocessed
from pillion.net.exchange import Request, RpcError
from pillion.wire import trace
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.app.channel import AppChannel
    from pillion.kinds.bindings import AppOfBindings, Event
    from pillion.net.exchange import Headers, Metadata

log = logging.getLogger("pillion.app.bindings")
_CALLBACK = "/dapr.proto.runtime.v1.AppCallback/"
_JSON = (b"content-type", b"application/json")


def bindings_of(channel: AppChannel | None, *, timeout_s: float) -> AppOfBindings | None:
    """Return the application as input bindings see it; `timeout_s` bounds the question which it wants."""
    if channel is None:
        return None
    return HttpBindings(channel, timeout_s) if channel.http is not None else GrpcBindings(channel, timeout_s)


class HttpBindings:
    """An application that speaks HTTP."""

    def __init__(self, channel: AppChannel, timeout_s: float = 3.0) -> None:
        self._channel = channel
        self._timeout_s = timeout_s

    async def wanted(self, routes: Mapping[str, str]) -> frozenset[str]:
        """Ask for each route by OPTIONS, all at once; a success or 405 means yes."""

        async def ask(name: str, route: str) -> str:
            return name if await self._takes(name, route) else ""

        found = await asyncio.gather(*(ask(name, route) for name, route in routes.items()))
        return frozenset(filter(None, found))

    async def _takes(self, name: str, route: str) -> bool:
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await self._channel.request(Request("OPTIONS", target_of(route), [_JSON]))
                await read_all(response)
        except UNREACHABLE as error:  # TimeoutError is an OSError
            reason = str(error) or type(error).__name__
            log.warning("the application could not be asked whether it takes binding %s: %s", name, reason)
            return False
        log.debug("OPTIONS for binding %s: status %d", name, response.status)
        return 200 <= response.status < 300 or response.status == 405

    async def deliver(self, name: str, route: str, event: Event) -> Answer:
        parent = event.metadata.get("traceparent", "")
        headers: Headers = [_JSON, (b"traceparent", (parent if trace.valid_parent(parent) else trace.NONE).encode())]
        state = event.metadata.get("tracestate", "")
        if state and trace.valid_parent(parent) and len(state) <= trace.MAX_STATE:
            headers.append((b"tracestate", header_value(state)))
        add_metadata(headers, event.metadata)
        try:
            response = await self._channel.request(Request("POST", target_of(route), headers, event.data))
            body = await read_all(response)
        except UNREACHABLE as error:
            raise unreachable(error) from error
        if 200 <= response.status < 300:
            return Answer(body)
        detail = body[:200].decode("utf-8", "replace")
        raise Unprocessed(
            f"fails to send binding event to http app channel, status code: {response.status} body: {detail}",
            http_status=response.status,
        )


class GrpcBindings:
    """An application that speaks gRPC."""

    def __init__(self, channel: AppChannel, timeout_s: float = 3.0) -> None:
        self._channel = channel
        self._timeout_s = timeout_s

    async def wanted(self, routes: Mapping[str, str]) -> frozenset[str]:
        """Ask for the list; any failure is an empty one. Routes mean nothing over gRPC."""
        if not routes:
            return frozenset()
        try:
            reply = await self._channel.unary(
                _CALLBACK + "ListInputBindings", b"", timeout_s=self._timeout_s, with_token=False
            )
            listed = m.ListInputBindingsResponse.FromString(reply.message).bindings
        except (*UNREACHABLE, DecodeError) as error:
            log.warning("the application did not list its input bindings: %s", error)
            return frozenset()
        return frozenset(listed) & frozenset(routes)

    async def deliver(self, name: str, route: str, event: Event) -> Answer:
        message = m.BindingEventRequest(name=name, data=event.data, metadata=dict(event.metadata))
        parent = event.metadata.get("traceparent", "")
        metadata: Metadata = []
        if trace.valid_parent(parent):
            metadata = [("traceparent", parent), ("grpc-trace-bin", trace.to_binary(parent))]
        try:
            reply = await self._channel.unary(
                _CALLBACK + "OnBindingEvent", message.SerializeToString(), metadata=metadata
            )
            answer = m.BindingEventResponse.FromString(reply.message)
        except RpcError as error:
            raise Unprocessed(f"error invoking app: {error}", grpc_code=error.code) from error
        except (*UNREACHABLE, DecodeError) as error:
            failed = unreachable(error)
            raise Unprocessed(f"error invoking app: {failed}", held=failed.held) from error
        if answer.store_name or answer.states:
            log.warning("the answer to binding %s names a state store: states in answers are ignored", name)
        return Answer(answer.data, tuple(answer.to), parallel=answer.concurrency == m.BindingEventResponse.PARALLEL)
