"""The envelope of calls between sidecars, `internals.v1` of spec `grpc-messages.md`, written and read by hand.

An envelope repeats itself: most headers of a call were the headers of the last one. Each map entry is therefore encoded
once and remembered, and each entry read once and remembered, within a bound; a call is then a `join` and a few slices,
and its payload is copied once. Knows: the protobuf encoding of these six messages. Never knows: what headers mean.
Malformed bytes raise `BadEnvelope`; so does a header that could not be written into a head of HTTP/1.1.
"""

from __future__ import annotations

from typing import NamedTuple

from pillion.wire.http1 import canonical
from pillion.wire.methods import safe_query, sendable

Header = tuple[bytes, bytes]

REMEMBERED = 4096
"""Entries kept by each of the two memories."""
MEMORABLE = 256
"""Longer entries are not remembered."""
MAX_HEADERS = 1000
"""Entries of one map; more is an attack."""


class BadEnvelope(ValueError):
    """Bytes that are no message of the internal protocol."""


class RequestHead(NamedTuple):
    """`InternalInvokeRequest`. `headers` None: the map was empty; `method` None: there was no message; `actor` is the
    type and the id of the actor that is called, None when none is.
    """

    headers: list[Header] | None
    method: str | None
    content_type: bytes
    verb: int
    query: bytes
    type_url: str
    data: bytes
    actor: tuple[str, str] | None = None


class ResponseHead(NamedTuple):
    """`InternalInvokeResponse`. `code` None: there was no status."""

    code: int | None
    message: str
    details: tuple[bytes, ...]
    headers: list[Header]
    trailers: list[Header]
    content_type: bytes
    type_url: str
    data: bytes


# --- writing -------------------------------------------------------------------------------------------------------


def varint(number: int) -> bytes:
    """Return the base-128 encoding of a number that is not negative."""
    if number < _SHORT:
        return _NUMBERS[number]
    return _long_varint(number)


def _long_varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


_SHORT = 2048
_NUMBERS = [_long_varint(number) for number in range(_SHORT)]


def field(number: int, value: bytes) -> bytes:
    """Return a length-delimited field, nothing for an empty value (proto3's default)."""
    return b"%c%b%b" % (number << 3 | 2, varint(len(value)), value) if value else b""


_written: dict[tuple[int, bytes, bytes], bytes] = {}


def _entry(number: int, name: bytes, values: list[bytes]) -> bytes:
    listed = b"".join([b"\x0a%b%b" % (varint(len(value)), value) for value in values])
    spelled = name if name.endswith(b"-bin") or name.startswith((b":", b"grpc-")) else canonical(name)
    return field(number, b"%b\x12%b%b" % (field(1, spelled), varint(len(listed)), listed))


def entries(number: int, headers: list[Header]) -> bytes:
    """Return headers as entries of the map in field `number`, names in their canonical case.

    Names that are gRPC's own keep their lower case, by which other sidecars know them.
    """
    if len({name for name, _ in headers}) < len(headers):
        grouped: dict[bytes, list[bytes]] = {}
        for name, value in headers:
            grouped.setdefault(name, []).append(value)
        return b"".join([_entry(number, name, values) for name, values in grouped.items()])
    out = []
    known = _written
    for name, value in headers:
        key = (number, name, value)
        entry = known.get(key)
        if entry is None:
            entry = _entry(number, name, [value])
            if len(entry) <= MEMORABLE:
                if len(known) >= REMEMBERED:
                    known.clear()
                known[key] = entry
        out.append(entry)
    return b"".join(out)


def invoke_request(
    method: str, verb: int, query: bytes, content_type: bytes, type_url: str = "", data: bytes = b""
) -> bytes:
    """Return a `common.v1.InvokeRequest`."""
    extension = (b"\x08%c" % verb if verb else b"") + field(2, query)
    carried = field(1, type_url.encode()) + field(2, data)
    return b"%b%b%b%b" % (field(1, method.encode()), field(2, carried), field(3, content_type), field(4, extension))


def request_head(headers: list[Header], message: bytes) -> bytes:
    """Return an `InternalInvokeRequest` of version V1 around an `InvokeRequest`, which is there even when empty."""
    return b"\x08\x01%b\x1a%b%b" % (entries(2, headers), varint(len(message)), message)


def response_head(
    code: int,
    headers: list[Header],
    content_type: bytes,
    message: str = "",
    details: tuple[bytes, ...] = (),
    trailers: list[Header] | None = None,
    type_url: str = "",
    data: bytes = b"",
) -> bytes:
    """Return an `InternalInvokeResponse`. A status of code 0 is present, with no field inside."""
    status = b"\x08" + varint(code) if code else b""
    if message or details:
        status += field(2, message.encode()) + b"".join(field(3, detail) for detail in details)
    carried = field(1, type_url.encode()) + field(2, data)
    answer = (field(1, carried) if carried else b"") + field(2, content_type)
    return b"\x0a%b%b%b%b\x22%b%b" % (
        varint(len(status)),
        status,
        entries(2, headers),
        entries(3, trailers) if trailers else b"",
        varint(len(answer)),
        answer,
    )


def stream_message(head: bytes | None, payload: bytes, sequence: int) -> bytes:
    """Return a message of the streaming form, in either direction: the head goes with the first, payload with any."""
    lead = b"" if head is None else b"\x0a%b%b" % (varint(len(head)), head)
    if not payload:
        return lead
    size = len(payload)
    if sequence == 0:  # proto3 leaves zero out
        length = varint(size)
        return b"%b\x12%b\x0a%b%b" % (lead, varint(1 + len(length) + size), length, payload)
    number = varint(sequence)
    length = varint(size)
    return b"%b\x12%b\x0a%b%b\x10%b" % (lead, varint(2 + len(length) + size + len(number)), length, payload, number)


# --- reading -------------------------------------------------------------------------------------------------------


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Read a varint: its value and where it ends."""
    value = shift = 0
    while True:
        try:
            byte = data[at]
        except IndexError:
            raise BadEnvelope("the message ends inside a number") from None
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift > 63:
            raise BadEnvelope("a number is too long")


def fields(data: bytes) -> list[tuple[int, bytes | int]]:
    """Split a message into its fields; fixed-width ones, which these messages do not have, are skipped."""
    found: list[tuple[int, bytes | int]] = []
    at, end = 0, len(data)
    while at < end:
        tag = data[at]
        at += 1
        if tag > 127:
            tag, at = _number(data, at - 1)
        kind = tag & 7
        if kind == 2:
            size = data[at] if at < end else 128
            if size > 127:
                size, at = _number(data, at)
            else:
                at += 1
            stop = at + size
            if stop > end:
                raise BadEnvelope("the message ends inside a field")
            found.append((tag >> 3, data[at:stop]))
            at = stop
        elif kind == 0:
            value, at = _number(data, at)
            found.append((tag >> 3, value))
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
            if at > end:
                raise BadEnvelope("the message ends inside a field")
        else:
            raise BadEnvelope("a field has an unknown type")
    return found


def _bytes(value: bytes | int) -> bytes:
    if isinstance(value, int):
        raise BadEnvelope("a field has the wrong type")
    return value


def _integer(value: bytes | int) -> int:
    if isinstance(value, bytes):
        raise BadEnvelope("a field has the wrong type")
    return value


def _text(value: bytes | int) -> str:
    try:
        return _bytes(value).decode()
    except UnicodeDecodeError:
        raise BadEnvelope("a text is not UTF-8") from None


def _value(part: bytes | int) -> bytes:
    value = _bytes(part)
    if not sendable(b"content-type", value):
        raise BadEnvelope("the content type cannot be passed on")
    return value


_read: dict[bytes, tuple[Header, ...]] = {}


def _headers(entry: bytes | int) -> tuple[Header, ...]:
    known = _read.get(entry)  # type: ignore[arg-type]
    if known is not None:
        return known
    name, values = b"", []
    for number, value in fields(_bytes(entry)):
        if number == 1:
            name = _bytes(value).lower()
        elif number == 2:
            values = [_bytes(text) for inner, text in fields(_bytes(value)) if inner == 1]
    found = tuple((name, value) for value in values)
    for _, value in found:
        if not sendable(name.removeprefix(b":"), value):  # `:authority` and its like lose the colon before HTTP
            raise BadEnvelope(f"the header {name!r} cannot be passed on")
    assert isinstance(entry, bytes)
    if len(entry) <= MEMORABLE:
        if len(_read) >= REMEMBERED:
            _read.clear()
        _read[entry] = found
    return found


def _any(data: bytes | int) -> tuple[str, bytes]:
    type_url, value = "", b""
    for number, part in fields(_bytes(data)):
        if number == 1:
            type_url = _text(part)
        elif number == 2:
            value = _bytes(part)
    return type_url, value


def read_stream_message(data: bytes) -> tuple[bytes | None, bytes | None, int]:
    """Return head, payload and sequence number of a streamed message; None for a part that is absent."""
    size = len(data)
    if size > 3 and data[0] == 0x0A:  # the usual one has a head, and behind it nothing or one payload
        length, at = (data[1], 2) if data[1] < 128 else _number(data, 1)
        stop = at + length
        if stop == size:
            return data[at:], None, 0
        if stop + 1 < size and data[stop] == 0x12:
            length, start = (data[stop + 1], stop + 2) if data[stop + 1] < 128 else _number(data, stop + 1)
            if start + length == size:
                return data[at:stop], *_payload(data[start:])
    head = payload = None
    sequence = 0
    for number, value in fields(data):
        if number == 1:
            head = _bytes(value)
        elif number == 2:
            payload, sequence = _payload(_bytes(value))
    return head, payload, sequence


def _payload(data: bytes) -> tuple[bytes, int]:
    """Read a `StreamPayload`. The usual one, first of its stream, has nothing but data."""
    size = len(data)
    if size > 1 and data[0] == 10:
        length, at = (data[1], 2) if data[1] < 128 else _number(data, 1)
        if at + length == size:
            return data[at:], 0
    payload, sequence = b"", 0
    for number, value in fields(data):
        if number == 1:
            payload = _bytes(value)
        elif number == 2:
            sequence = _integer(value)
    return payload, sequence


def read_request(data: bytes) -> RequestHead:
    """Read an `InternalInvokeRequest`."""
    headers: list[Header] | None = None
    method: str | None = None
    content_type = query = content = b""
    type_url, verb = "", 0
    actor: tuple[str, str] | None = None
    for number, value in fields(data):
        if number == 2:
            if headers is None:
                headers = []
            headers += _headers(value)
            if len(headers) > MAX_HEADERS:
                raise BadEnvelope("too many headers")
        elif number == 3:
            method = ""
            for inner, part in fields(_bytes(value)):
                if inner == 1:
                    method = _text(part)
                elif inner == 2:
                    type_url, content = _any(part)
                elif inner == 3:
                    content_type = _value(part)
                elif inner == 4:
                    for extra, piece in fields(_bytes(part)):
                        if extra == 1:
                            verb = _integer(piece)
                        elif extra == 2:
                            query = safe_query(_bytes(piece))
        elif number == 4:
            actor_type, actor_id = actor or ("", "")
            for inner, part in fields(_bytes(value)):
                if inner == 1:
                    actor_type = _text(part)
                elif inner == 2:
                    actor_id = _text(part)
            actor = actor_type, actor_id
    return RequestHead(headers, method, content_type, verb, query, type_url, content, actor)


def read_response(data: bytes) -> ResponseHead:
    """Read an `InternalInvokeResponse`."""
    code: int | None = None
    message, type_url, content_type, content = "", "", b"", b""
    details: list[bytes] = []
    headers: list[Header] = []
    trailers: list[Header] = []
    for number, value in fields(data):
        if number == 2:
            headers += _headers(value)
            if len(headers) > MAX_HEADERS:
                raise BadEnvelope("too many headers")
        elif number == 1:
            code = 0
            for inner, part in fields(_bytes(value)):
                if inner == 1:
                    code = _integer(part)
                    if code > 999:
                        raise BadEnvelope("the status is neither one of HTTP nor of gRPC")
                elif inner == 2:
                    message = _text(part)
                elif inner == 3:
                    details.append(_bytes(part))
        elif number == 3:
            trailers += _headers(value)
        elif number == 4:
            for inner, part in fields(_bytes(value)):
                if inner == 1:
                    type_url, content = _any(part)
                elif inner == 2:
                    content_type = _value(part)
    return ResponseHead(code, message, tuple(details), headers, trailers, content_type, type_url, content)
