"""gRPC over HTTP/2 as bytes (github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).

Knows: message framing, compression, time-outs, metadata and status in headers. Never knows: streams, tasks, services.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from functools import lru_cache
from struct import Struct
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes

from pillion.errors import Code
from pillion.wire.h2_frames import ErrorCode

if TYPE_CHECKING:
    from collections.abc import Iterable

Metadata = list[tuple[str, str | bytes]]
Fields = list[tuple[bytes, bytes]]

PREFIX = Struct(">BL")
"""Compressed flag and length, in front of every message."""

ACCEPT_ENCODING = b"identity,gzip"

DEFAULT_MAX_MESSAGE = 4 << 20
_LOOK = 2048


class StatusError(Exception):
    """The call ends with this status: a rule of the protocol was broken, or a limit was met."""

    def __init__(self, code: Code, message: str) -> None:
        self.code, self.message = code, message
        super().__init__(f"{code.name}: {message}")


def only_message(data: bytes, limit: int) -> bytes | None:
    """Return the message when `data` is exactly one, whole and uncompressed: the usual frame. Else a `Deframer` can."""
    size = len(data) - 5
    if size >= 0 and not data[0] and size <= limit and int.from_bytes(data[1:5], "big") == size:
        return data[5:]
    return None


def framed(message: bytes) -> bytes:
    """Return one uncompressed message as it travels."""
    return PREFIX.pack(0, len(message)) + message


def framed_gzip(message: bytes) -> bytes:
    """Return one message compressed, at the level that costs least."""
    packer = zlib.compressobj(1, zlib.DEFLATED, 31)
    packed = packer.compress(message) + packer.flush()
    return PREFIX.pack(1, len(packed)) + packed


class Deframer:
    """Cuts the bytes of one direction of a call into messages.

    `limit` bounds one message, compressed and not; `encoding` is the peer's `grpc-encoding` (empty: identity).
    """

    __slots__ = ("_buffer", "_need", "encoding", "limit")

    def __init__(self, limit: int, encoding: bytes = b"") -> None:
        self.limit = limit
        self.encoding = encoding
        self._buffer = bytearray()
        self._need = 5

    def feed(self, data: bytes) -> list[bytes]:
        """Return the messages that `data` completes. Raises `StatusError`."""
        buffer = self._buffer
        if buffer:
            buffer += data
            if len(buffer) < self._need:
                return []
            data = bytes(buffer)
            buffer.clear()
        messages = []
        position, end = 0, len(data)
        while end - position >= 5:
            flag, size = PREFIX.unpack_from(data, position)
            self._check(flag, size)
            stop = position + 5 + size
            if stop > end:
                self._need = stop - position
                break
            message = data[position + 5 : stop]
            messages.append(unpacked(message, self.limit) if flag else message)
            position = stop
        else:
            self._need = 5
        if position < end:
            buffer += data[position:]
        return messages

    def _check(self, flag: int, size: int) -> None:
        if size > self.limit:
            raise too_large(size, self.limit)
        if flag:
            if flag != 1:
                raise StatusError(Code.INTERNAL, f"grpc: received unexpected payload format {flag}")
            if self.encoding != b"gzip":
                raise StatusError(Code.INTERNAL, "grpc: compressed flag set with identity or empty encoding")

    @property
    def incomplete(self) -> bool:
        """Whether a message has begun and not ended."""
        return bool(self._buffer)


def too_large(size: int, limit: int) -> StatusError:
    return StatusError(Code.RESOURCE_EXHAUSTED, f"grpc: received message larger than max ({size} vs. {limit})")


def too_large_to_send(size: int, limit: int) -> StatusError:
    return StatusError(Code.RESOURCE_EXHAUSTED, f"grpc: trying to send message larger than max ({size} vs. {limit})")


def beginning(data: bytes) -> bytes:
    """Return the first bytes of the message that `data` begins with, uncompressed, `_LOOK` at the most; b"" when they
    cannot be read.
    """
    if data[:1] != b"\x01":
        return data[5 : 5 + _LOOK]
    try:
        return zlib.decompressobj(31).decompress(data[5:], _LOOK)
    except zlib.error:
        return b""


def unpacked(message: bytes, limit: int) -> bytes:
    """Return a gzip message decompressed; never makes more than `limit` bytes and one. Raises `StatusError`."""
    unpacker = zlib.decompressobj(31)
    try:
        out = unpacker.decompress(message, limit + 1)
    except zlib.error as error:
        raise StatusError(Code.INTERNAL, f"grpc: failed to decompress the received message: {error}") from error
    if len(out) > limit:
        raise StatusError(
            Code.RESOURCE_EXHAUSTED, f"grpc: received message after decompression larger than max {limit}"
        )
    if not unpacker.eof:
        raise StatusError(Code.INTERNAL, "grpc: failed to decompress the received message: unexpected EOF")
    return out


# -- time-outs --------------------------------------------------------------------------------------------------------

_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}


@lru_cache(maxsize=256)
def parse_timeout(value: bytes) -> float:
    """Return the seconds of a `grpc-timeout`. Raises `StatusError` INTERNAL, as grpc-go does."""
    digits, unit = value[:-1], value[-1:]
    if not 1 <= len(digits) <= 8 or not digits.isdigit() or unit not in _UNITS:
        raise StatusError(Code.INTERNAL, f"malformed grpc-timeout: {value[:32].decode('latin-1')!r}")
    return int(digits) * _UNITS[unit]


@lru_cache(maxsize=64)
def format_timeout(seconds: float) -> bytes:
    """Return a `grpc-timeout`, rounded up to the unit that needs at most eight digits."""
    if seconds <= 0:
        return b"0n"
    for unit, size in (("n", 1e-9), ("u", 1e-6), ("m", 1e-3), ("S", 1.0), ("M", 60.0)):
        count = -int(-seconds / size // 1)
        if count < 100_000_000:
            return f"{count}{unit}".encode()
    return f"{min(int(seconds / 3600) + 1, 99_999_999)}H".encode()


# -- status -----------------------------------------------------------------------------------------------------------


def percent_encode(text: str) -> bytes:
    """Return `grpc-message`: UTF-8 with everything but printable ASCII, and the percent sign, escaped."""
    raw = text.encode("utf-8", "replace")
    if raw.isascii() and text.isprintable() and b"%" not in raw:
        return _edges(raw)
    return _edges(b"".join([bytes((c,)) if 0x20 <= c <= 0x7E and c != 0x25 else b"%%%02X" % c for c in raw]))


def _edges(raw: bytes) -> bytes:
    """HTTP/2 forbids white space at the edges of a value (RFC 9113 8.2.1), so it is escaped there."""
    if raw[:1] == b" ":
        raw = b"%20" + raw[1:]
    return raw[:-1] + b"%20" if raw[-1:] == b" " else raw


def percent_decode(raw: bytes) -> str:
    """Return the text of `grpc-message`; broken escapes stand for themselves and broken UTF-8 is replaced."""
    return (unquote_to_bytes(raw) if b"%" in raw else raw).decode("utf-8", "replace")


def trailer_fields(code: int, message: str, details: bytes, metadata: Metadata) -> Fields:
    """Return the trailers that end a call. Raises `StatusError` for metadata that cannot be sent."""
    fields: Fields = [(b"grpc-status", b"%d" % code)]
    if message:
        fields.append((b"grpc-message", percent_encode(message)))
    if details:
        fields.append((b"grpc-status-details-bin", b64encode(details).rstrip(b"=")))
    if metadata:
        fields += metadata_fields(metadata)
    return fields


_HTTP_CODES = {400: Code.INTERNAL, 401: Code.UNAUTHENTICATED, 403: Code.PERMISSION_DENIED, 404: Code.UNIMPLEMENTED}
_HTTP_CODES |= dict.fromkeys((429, 502, 503, 504), Code.UNAVAILABLE)


def code_for_http(status: int) -> Code:
    """Return the status for an answer that is not gRPC (doc/http-grpc-status-mapping.md)."""
    return _HTTP_CODES.get(status, Code.UNKNOWN)


_RESET_CODES = {
    ErrorCode.REFUSED_STREAM: Code.UNAVAILABLE,
    ErrorCode.CANCEL: Code.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: Code.RESOURCE_EXHAUSTED,
    ErrorCode.FLOW_CONTROL_ERROR: Code.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: Code.PERMISSION_DENIED,
}


def code_for_reset(error_code: int) -> Code:
    """Return the status for a stream that ended with RST_STREAM, as grpc-go maps it."""
    return _RESET_CODES.get(error_code, Code.INTERNAL)  # type: ignore[call-overload, no-any-return]


# -- metadata ---------------------------------------------------------------------------------------------------------

RESERVED = frozenset((
    b"te", b"grpc-encoding", b"grpc-message", b"grpc-status", b"grpc-timeout", b"grpc-message-type",
    b"grpc-status-details-bin",
))  # fmt: skip
"""Headers that carry the protocol itself and are not metadata."""

_NOT_SENT = RESERVED | {b"content-type", b"user-agent", b"host", b"content-length", b"grpc-accept-encoding"}
_NAME = frozenset("0123456789abcdefghijklmnopqrstuvwxyz_-.")


def metadata_fields(metadata: Iterable[tuple[str, str | bytes]]) -> Fields:
    """Return metadata as header fields.

    Names that carry the protocol, and connection-specific ones, are left out: metadata is often passed on from
    another call. Raises `StatusError` INTERNAL for what no header can carry.
    """
    fields: Fields = []
    for name, value in metadata:
        raw_name = name.lower().encode("latin-1", "replace")
        if raw_name in _NOT_SENT or raw_name in _HOP or name[:1] == ":":
            continue
        if not name or not _NAME.issuperset(name.lower()):
            raise StatusError(Code.INTERNAL, f"metadata name {name[:64]!r} cannot be sent")
        if raw_name.endswith(b"-bin"):
            raw = b64encode(value.encode() if isinstance(value, str) else value).rstrip(b"=")
        else:
            raw = _text_value(name, value)
        fields.append((raw_name, raw))
    return fields


_HOP = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))


def _text_value(name: str, value: str | bytes) -> bytes:
    if isinstance(value, bytes):
        raw = value
    else:
        try:
            raw = value.encode("latin-1")
        except UnicodeEncodeError:
            raw = value.encode("utf-8", "replace")
    if b"\0" in raw or b"\r" in raw or b"\n" in raw:
        raise StatusError(Code.INTERNAL, f"value of metadata {name[:64]!r} cannot be sent")
    return raw.strip(b" \t")


def read_metadata(fields: Iterable[tuple[bytes, bytes]]) -> Metadata:
    """Return header fields as metadata. Values of `-bin` names are bytes, one entry for each part of a comma list.

    Raises `StatusError` INTERNAL for base64 that is not.
    """
    metadata: Metadata = []
    for name, value in fields:
        if name in RESERVED:
            continue
        if name.endswith(b"-bin"):
            text_name = name.decode("latin-1")
            metadata += [(text_name, read_binary(part)) for part in value.split(b",")]
        else:
            metadata.append((name.decode("latin-1"), value.decode("latin-1")))
    return metadata


def read_binary(value: bytes) -> bytes:
    """Return one base64 value, padded or not."""
    value = value.strip(b" \t=")
    try:
        return b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except Base64Error as error:
        raise StatusError(Code.INTERNAL, f"malformed binary metadata: {error}") from error
