"""Spans as OpenTelemetry's protocol has them: the part of `opentelemetry/proto/trace/v1` that is sent (version 1).

Written by hand, as `wire/envelope.py` is: with a span's attributes remembered as bytes this is several times faster
than building messages, and takes no message classes into the process that an application might bring as well. The
tests read what is written here with the official classes (docs/decisions/telemetry.md).
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING

from pillion.wire.envelope import field, fields, varint

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
PATH = b"/v1/traces"
CONTENT_TYPE = b"application/x-protobuf"
_ERROR = b"\x18\x02"
"""Status.code = STATUS_CODE_ERROR."""
_MEMORABLE = 256
"""Texts up to this many characters are remembered as bytes."""
_TIMES = struct.Struct("<BQBQ")
_START, _END = 7 << 3 | 1, 8 << 3 | 1
"""Tags of `start_time_unix_nano` and `end_time_unix_nano`, both fixed64."""


@lru_cache(maxsize=8192)
def _attribute(key: str, value: str) -> bytes:
    """Return one `KeyValue` of a span, with its tag."""
    text = field(1, value.encode("utf-8", "backslashreplace")) or b"\x0a\x00"  # an empty text is a text all the same
    return field(9, field(1, key.encode()) + field(2, text))


@lru_cache(maxsize=2048)
def _name(name: str) -> bytes:
    return field(5, name.encode("utf-8", "backslashreplace"))


def span(
    trace_id: str,
    span_id: str,
    parent_id: str,
    state: str,
    name: str,
    kind: int,
    started_ns: int,
    ended_ns: int,
    attributes: Iterable[tuple[str, str]],
    error: str | None,
) -> bytes:
    """Return one `Span` as an element of `ScopeSpans.spans`. Identifiers are hexadecimal, no `error` is success."""
    parts = [b"\x0a\x10", bytes.fromhex(trace_id), b"\x12\x08", bytes.fromhex(span_id)]
    if state:
        parts.append(field(3, state.encode("utf-8", "backslashreplace")))
    if parent_id:
        parts += (b"\x22\x08", bytes.fromhex(parent_id))
    parts += (
        _name(name) if len(name) <= _MEMORABLE else _name.__wrapped__(name),
        b"\x30%c" % kind,
        _TIMES.pack(_START, started_ns, _END, ended_ns),
    )
    parts += [
        _attribute(key, value) if len(value) <= _MEMORABLE else _attribute.__wrapped__(key, value)
        for key, value in attributes
    ]
    if error is not None:
        parts.append(field(15, field(2, error.encode("utf-8", "backslashreplace")) + _ERROR))
    whole = b"".join(parts)
    return b"\x12%b%b" % (varint(len(whole)), whole)


def resource(attributes: Iterable[tuple[str, str]]) -> bytes:
    """Return `ResourceSpans.resource`: who sends."""
    pairs = b"".join(
        field(1, field(1, key.encode()) + field(2, field(1, value.encode()) or b"\x0a\x00"))
        for key, value in attributes
    )
    return field(1, pairs)


def request(sender: bytes, scope: str, spans: Sequence[bytes]) -> bytes:
    """Return an `ExportTraceServiceRequest` of one resource and one scope."""
    scoped = field(1, field(1, scope.encode())) + b"".join(spans)
    return field(1, sender + field(2, scoped))


def rejected(reply: bytes) -> tuple[int, str]:
    """Return how many spans a receiver did not take, and why. Raises `ValueError` for what is no reply."""
    count, why = 0, ""
    for number, value in fields(reply):
        if number == 1 and isinstance(value, bytes):  # partial_success
            for inner, item in fields(value):
                if inner == 1 and isinstance(item, int):
                    count = item
                elif inner == 2 and isinstance(item, bytes):
                    why = item.decode("utf-8", "replace")
    return count, why
