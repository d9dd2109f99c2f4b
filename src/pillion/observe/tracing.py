"""Spans: when they begin and end, which trace they belong to, whether they are recorded (spec `runtime.md` 6.2).

Knows: W3C trace contexts, sampling, identifiers. Never knows: what is traced (`observe/spans.py` names it), protocols,
where spans go (`observe/export.py`).

A span's context replaces that of the request as it came in: `traceparent` is rewritten where a request enters, and so
everything that goes on from there - to applications, other sidecars, brokers - carries the new span. A span that is
not sampled costs its identifiers and nothing else.
"""

from __future__ import annotations

import os
import time
from enum import IntEnum
from typing import TYPE_CHECKING

from pillion.wire.trace import split_parent

if TYPE_CHECKING:
    from collections.abc import Callable

    Attributes = tuple[tuple[str, str], ...]

_BATCH = 128
_ZERO = ("0" * 16, "0" * 32)
_BOUND = 1 << 63


class SpanKind(IntEnum):
    """Numbers as in OpenTelemetry's protocol."""

    SERVER = 2
    CLIENT = 3
    PRODUCER = 4


class Span:
    """One piece of work. Identifiers are hexadecimal, times nanoseconds since 1970; `parent_id` "" marks a root.

    `name`, `attributes` and `error` (None: it went well) are set before the end, and only where it is `sampled`.
    """

    __slots__ = (
        "attributes", "ended_ns", "error", "kind", "name", "parent_id", "sampled", "span_id", "started_ns", "trace_id",
        "traceparent", "tracestate",
    )  # fmt: skip

    def __init__(
        self, kind: SpanKind, trace_id: str, span_id: str, parent_id: str, state: str, *, sampled: bool, started_ns: int
    ) -> None:
        self.kind = kind
        self.trace_id = trace_id
        self.span_id = span_id
        self.parent_id = parent_id
        self.tracestate = state
        self.sampled = sampled
        self.traceparent = f"00-{trace_id}-{span_id}-01" if sampled else f"00-{trace_id}-{span_id}-00"
        self.started_ns = started_ns
        self.ended_ns = 0
        self.name = ""
        self.attributes: Attributes = ()
        self.error: str | None = None

    def __repr__(self) -> str:
        return f"<Span {self.name or '?'} {self.traceparent}{', ended' if self.ended_ns else ''}>"


class Tracer:
    """Begins and ends spans of one sidecar. `rate` is the share of new traces that are recorded; a trace that came in
    keeps the decision it came with. `sink` takes recorded spans, None throws them away.
    """

    def __init__(
        self,
        app_id: str,
        rate: float,
        sink: Callable[[Span], None] | None = None,
        *,
        random: Callable[[int], bytes] = os.urandom,
        now_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self.app_id = app_id
        self._threshold = int(rate * _BOUND)
        self._sink = sink
        self._random = random
        self._now_ns = now_ns
        self._text = ""
        self._at = 0

    def start(self, kind: SpanKind, parent: str = "", state: str = "") -> Span:
        """Begin a span below `parent`, a traceparent; without a usable one a new trace, which inherits no `state`."""
        came = split_parent(parent) if parent else None
        if came is None:
            trace_id = self._identifier(32)
            # The lower half of the trace id decides, as in OpenTelemetry's TraceIdRatioBased sampler.
            sampled = int(trace_id[16:], 16) >> 1 < self._threshold
            return Span(kind, trace_id, self._identifier(16), "", "", sampled=sampled, started_ns=self._now_ns())
        trace_id, parent_id, flags = came
        return Span(
            kind, trace_id, self._identifier(16), parent_id, state,
            sampled=int(flags, 16) & 1 == 1, started_ns=self._now_ns(),
        )  # fmt: skip

    def end(self, span: Span) -> None:
        """The work is over."""
        if span.sampled and self._sink is not None:
            span.ended_ns = self._now_ns()
            self._sink(span)

    def _identifier(self, digits: int) -> str:
        """Return random hexadecimal digits that are not all zero; randomness is fetched for many at once."""
        while True:
            at = self._at
            if at + digits > len(self._text):
                self._text, at = self._random(16 * _BATCH).hex(), 0
            self._at = at + digits
            found = self._text[at : at + digits]
            if found not in _ZERO:
                return found

    def __repr__(self) -> str:
        return f"<Tracer of {self.app_id}, {self._threshold / _BOUND:g} of new traces>"
