"""HTTP/2 frames (RFC 9113 section 4 and 6): constants, and the few builders whose bytes are not on the hot path.

Knows: the nine bytes in front of every frame and what each type carries. Never knows: streams, windows, order.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first (RFC 9113 3.4)."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = 0x1
ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)

DEFAULT_WINDOW = 65_535
DEFAULT_FRAME_SIZE = 16_384
LARGEST_FRAME_SIZE = 16_777_215
LARGEST_WINDOW = 2**31 - 1
LARGEST_STREAM_ID = 2**31 - 1

FRAME_HEAD = Struct(">HBBBL")
"""Length (16 high bits, 8 low bits), type, flags, stream id."""

SETTING = Struct(">HL")


class ErrorCode(IntEnum):
    """RFC 9113 section 7."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


def error_name(code: int) -> str:
    """Return the name of an error code; an unknown one is a number (RFC 9113 section 7 forbids special treatment)."""
    try:
        return ErrorCode(code).name
    except ValueError:
        return f"error code {code}"


class H2Error(Exception):
    """A connection error (RFC 9113 5.4.1): GOAWAY with `code` and `text`, then the end."""

    def __init__(self, code: ErrorCode, text: str) -> None:
        self.code, self.text = code, text
        super().__init__(f"{code.name}: {text}")


class StreamError(Exception):
    """A stream error (RFC 9113 5.4.2): RST_STREAM with `code`; the connection lives on."""

    def __init__(self, stream_id: int, code: ErrorCode, text: str) -> None:
        self.stream_id, self.code, self.text = stream_id, code, text
        super().__init__(f"{code.name} on stream {stream_id}: {text}")


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return one whole frame."""
    size = len(payload)
    return FRAME_HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream_id) + payload


def settings_frame(values: Mapping[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(name, value) for name, value in values.items()))


SETTINGS_ACK = frame(SETTINGS, ACK, 0)

_RESET = Struct(">HBBBLL")


def reset_frame(stream_id: int, code: int) -> bytes:
    return _RESET.pack(0, 4, RST_STREAM, 0, stream_id, code)


def window_frame(stream_id: int, increment: int) -> bytes:
    return _RESET.pack(0, 4, WINDOW_UPDATE, 0, stream_id, increment)


def ping_frame(payload: bytes, *, ack: bool = False) -> bytes:
    return frame(PING, ACK if ack else 0, 0, payload)


def goaway_frame(last_id: int, code: int, text: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, last_id.to_bytes(4, "big") + code.to_bytes(4, "big") + text)


def head_frames(stream_id: int, block: bytes, *, end: bool, frame_size: int) -> bytes:
    """Return a header block as HEADERS and as many CONTINUATION frames as the peer's frame size asks for."""
    size = len(block)
    flags = END_STREAM if end else 0
    if size <= frame_size:
        return FRAME_HEAD.pack(size >> 8, size & 0xFF, HEADERS, flags | END_HEADERS, stream_id) + block
    parts = [frame(HEADERS, flags, stream_id, block[:frame_size])]
    for start in range(frame_size, size, frame_size):
        last = start + frame_size >= size
        parts.append(frame(CONTINUATION, END_HEADERS if last else 0, stream_id, block[start : start + frame_size]))
    return b"".join(parts)
