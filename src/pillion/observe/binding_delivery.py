"""A span around every event that an input binding hands to the application (spec `runtime.md` 6.2).

Knows: the trace context among an event's metadata, and what takes its place. Never knows: the application's protocol.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pillion.observe.spans import binding_span
from pillion.observe.tracing import SpanKind

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.kinds.bindings import Answer, AppOfBindings, Event
    from pillion.observe.tracing import Tracer


class TracedBindings:
    """An `AppOfBindings` whose deliveries are spans, one for each attempt."""

    def __init__(self, app: AppOfBindings, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def wanted(self, routes: Mapping[str, str]) -> frozenset[str]:
        return await self._app.wanted(routes)

    async def deliver(self, name: str, route: str, event: Event) -> Answer:
        given = event.metadata
        span = self._tracer.start(SpanKind.CLIENT, given.get("traceparent", ""), given.get("tracestate", ""))
        metadata = {key: value for key, value in given.items() if key != "tracestate"}
        metadata["traceparent"] = span.traceparent
        if span.tracestate:
            metadata["tracestate"] = span.tracestate
        try:
            return await self._app.deliver(name, route, replace(event, metadata=metadata))
        except BaseException as error:
            span.error = str(error) or type(error).__name__
            raise
        finally:
            if span.sampled:
                span.name, span.attributes = binding_span(name)
                self._tracer.end(span)

    def __repr__(self) -> str:
        return f"<traced {self._app!r}>"
