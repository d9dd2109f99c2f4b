"""W3C trace context and its binary gRPC form, as values (spec `runtime.md` 6.2, w3.org/TR/trace-context)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

NONE = "00-00000000000000000000000000000000-0000000000000000-00"
"""What the reference sends when there is no trace at all; applications and tests rely on the header's presence."""

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE, _NO_SPAN = "0" * 32, "0" * 16
MAX_STATE = 512
"""A tracestate longer than this many characters is not passed on."""


def carried(headers: Iterable[tuple[bytes, bytes]]) -> tuple[bytes | None, bytes | None, bytes | None]:
    """Return the first `traceparent`, `tracestate` and `baggage` that say anything; names are in lower case."""
    parent = state = baggage = None
    for name, value in headers:
        if name == b"traceparent":
            parent = parent or value
        elif name == b"tracestate":
            state = state or value
        elif name == b"baggage":
            baggage = baggage or value
    return parent, state, baggage


def valid_parent(text: str) -> bool:
    """Whether `text` is a usable traceparent: known version, non-zero ids; version 00 has exactly four parts."""
    return split_parent(text) is not None


def to_binary(parent: str) -> bytes:
    """Return the 29 bytes of `grpc-trace-bin` for a traceparent: version 0, then fields 0, 1 and 2."""
    _, trace, span, flags = parent.split("-")[:4]
    return b"\x00\x00" + bytes.fromhex(trace) + b"\x01" + bytes.fromhex(span) + b"\x02" + bytes.fromhex(flags)


def from_binary(data: bytes) -> str:
    """Return the traceparent of a `grpc-trace-bin` value, or "" when it is not one."""
    if len(data) != 29 or data[0] != 0 or data[1] != 0 or data[18] != 1 or data[27] != 2:
        return ""
    parent = f"00-{data[2:18].hex()}-{data[19:27].hex()}-{data[28]:02x}"
    return parent if valid_parent(parent) else ""


def split_parent(text: str) -> tuple[str, str, str] | None:
    """Return trace id, span id and flags of a traceparent, None when it is not usable."""
    match = _PARENT.fullmatch(text)
    if match is None:
        return None
    version, trace, span, flags, more = match.groups()
    if version == "ff" or (more and version == "00") or trace == _NO_TRACE or span == _NO_SPAN:
        return None
    return trace, span, flags
