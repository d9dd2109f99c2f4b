"""HTTP/1.1 heads, chunks and header rules as bytes (RFC 9110, RFC 9112).

Knows: how a response or request head is written, how a body is framed, which headers belong to one connection only.
Never knows: sockets, and how incoming bytes are read - that is `httptools`.

Header names are lower-case inside the house and canonical (`Content-Type`) on the wire. The framing headers
(`FRAMING`) are the writer's own: values that callers pass for them are left out.
"""

from __future__ import annotations

import re
from functools import lru_cache
from http import HTTPStatus
from time import gmtime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Headers = list[tuple[bytes, bytes]]


class Names(dict[bytes, bytes]):
    """Memo from a header name as peers spell it to its lower case: the same object each time, whose hash is known."""

    def __missing__(self, name: bytes) -> bytes:
        lower = name.lower()
        if len(name) <= _MEMO_NAME:
            if len(self) >= _MEMO_LIMIT:
                self.clear()
            self[name] = lower
        return lower


_NAMES = Names()
lower_name = _NAMES.__getitem__

HOP_BY_HOP = frozenset(
    (
        b"connection",
        b"http2-settings",
        b"keep-alive",
        b"proxy-authenticate",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
"""Headers that a proxy must not pass on (RFC 9110 7.6.1), besides those that `Connection` itself names."""

FRAMING = frozenset(
    (b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade")
)
"""Headers that only the writer of a message may set, because they say how its bytes are cut."""

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
SWITCH_TO_H2C = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
H2_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""The first bytes of an HTTP/2 client (RFC 9113 3.4)."""

LAST_CHUNK = b"0\r\n\r\n"
CHUNKED = b"\r\nTransfer-Encoding: chunked\r\n\r\n"
END = b"\r\n\r\n"
CLOSE = b"\r\nConnection: close"

JOIN_LIMIT = 32768
"""Up to this many bytes a body is copied to go out in one write with its head; longer ones are written beside it."""

_MEMO_LIMIT = 1024
_MEMO_LINE = 256
"""Bytes of a line that is worth remembering."""
_MEMO_NAME = 64
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_TARGET = re.compile(rb"[!-~\x80-\xff]+")
_UNSAFE = bytes.maketrans(b"\r\n\0", b"   ")


def is_token(name: bytes) -> bool:
    """Return whether `name` may be a header name or a method (RFC 9110 5.6.2)."""
    return _TOKEN.fullmatch(name) is not None


def canonical(name: bytes) -> bytes:
    """Return a header name in the case that HTTP applications are used to: `Content-Type`, `Www-Authenticate`."""
    return b"-".join([part.capitalize() for part in name.split(b"-")])


class _Leads(dict[bytes, bytes]):
    """Memo from a lower-case name to what stands before its value, `\\r\\nContent-Type: `. Empty: leave it out."""

    def __init__(self, left_out: Iterable[bytes], *, strict: bool) -> None:
        super().__init__((name, b"") for name in left_out)
        self._strict = strict

    def __missing__(self, name: bytes) -> bytes:
        if not is_token(name):
            if self._strict:
                raise ValueError(f"{name!r} cannot be a header name")
            return b""
        lead = b"\r\n" + canonical(name) + b": "
        if len(self) < _MEMO_LIMIT:
            self[name] = lead
        return lead


_RESPONSE_LEADS = _Leads(FRAMING, strict=False)
_REQUEST_LEADS = _Leads((*FRAMING, b"host", b"expect", b"http2-settings"), strict=True)


class _Lines(dict[tuple[bytes, bytes], bytes]):
    """Memo from a field to its line, checked: most headers of a message were headers of the last one."""

    def __init__(self, leads: _Leads, *, strict: bool) -> None:
        super().__init__()
        self._leads = leads
        self._strict = strict

    def __missing__(self, field: tuple[bytes, bytes]) -> bytes:
        name, value = field
        lead = self._leads[name]
        line = lead + self._clean(value) if lead else b""
        if len(line) <= _MEMO_LINE:
            if len(self) >= _MEMO_LIMIT:
                self.clear()
            self[field] = line
        return line

    def _clean(self, value: bytes) -> bytes:
        clean = value.translate(_UNSAFE)
        if self._strict and clean != value:
            raise ValueError("a header value must not contain line breaks or NUL")
        return clean


_RESPONSE_LINES = _Lines(_RESPONSE_LEADS, strict=False)
_REQUEST_LINES = _Lines(_REQUEST_LEADS, strict=True)
_response_line, _request_line = _RESPONSE_LINES.__getitem__, _REQUEST_LINES.__getitem__
_PHRASES = {status.value: status.phrase for status in HTTPStatus} | {
    413: "Request Entity Too Large",
    414: "Request URI Too Long",
    416: "Requested Range Not Satisfiable",
    418: "I'm a teapot",
    422: "Unprocessable Entity",
}
"""As clients of the reference know them (Go's net/http); Python's own change from one version to the next."""
_FINAL_LINES = {status: f"HTTP/1.1 {status} {phrase}".encode() for status, phrase in _PHRASES.items() if status >= 200}
_LENGTHS = [b"\r\nContent-Length: %d\r\n\r\n" % length for length in range(2048)]


def phrase(status: int) -> str:
    """Return the text of a status, empty for one that has none."""
    return _PHRASES.get(status, "")


def status_line(status: int) -> bytes:
    """Return `HTTP/1.1 200 OK` without its line end. Raises `ValueError` unless 200 <= status <= 999."""
    if not 200 <= status <= 999:
        raise ValueError(f"{status} cannot be the status of a response")
    return _FINAL_LINES.get(status) or b"HTTP/1.1 %d Status" % status


def content_length(length: int) -> bytes:
    """Return the end of a head whose body has `length` bytes."""
    return _LENGTHS[length] if length < 2048 else b"\r\nContent-Length: %d\r\n\r\n" % length


_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@lru_cache(maxsize=4)
def date(seconds: int) -> bytes:
    """Return a time as `Date` has it (RFC 9110 5.6.7); `seconds` since 1970."""
    at = gmtime(seconds)  # not strftime, which speaks the language of the locale
    day, month = _DAYS[at.tm_wday], _MONTHS[at.tm_mon - 1]
    return f"{day}, {at.tm_mday:02} {month} {at.tm_year} {at.tm_hour:02}:{at.tm_min:02}:{at.tm_sec:02} GMT".encode()


@lru_cache(maxsize=4)
def date_line(seconds: int) -> bytes:
    """Return the header `Date` of a response; part of its `tail`."""
    return b"\r\nDate: " + date(seconds)


def response_head(status: int, headers: Headers, tail: bytes) -> bytes:
    """Return the head of a response.

    `tail` is its framing: `content_length(n)`, `CHUNKED` or `END`, with or without `CLOSE` and `date_line` before it.
    Names that are no tokens are left out; CR, LF and NUL in values become spaces (RFC 9110 5.5).
    """
    first = _FINAL_LINES.get(status) or status_line(status)
    return b"".join((first, *map(_response_line, headers), tail))


def request_head(method: str, target: bytes, host: bytes, headers: Headers, tail: bytes) -> bytes:
    """Return the head of a request; `tail` as in `response_head`. A `host` among the headers wins over `host`.

    Raises `ValueError` for a method, target, name or value that could change the meaning of the bytes around it.
    """
    for name, value in headers:
        if name == b"host":
            host = value
    first = (_repeated_line if len(target) <= _MEMO_LINE else _first_lines)(method, target, host)
    return b"".join((first, *map(_request_line, headers), tail))


def _first_lines(method: str, target: bytes, host: bytes) -> bytes:
    """Return the request line and the `Host` of a request. Raises `ValueError`."""
    if _TARGET.fullmatch(target) is None:
        raise ValueError(f"{target!r} cannot be a request target")
    if not (method.isalpha() or is_token(method.encode())):
        raise ValueError(f"{method!r} cannot be a method")
    if host != host.translate(_UNSAFE):
        raise ValueError("a header value must not contain line breaks or NUL")
    return b"%b %b HTTP/1.1\r\nHost: %b" % (method.encode(), target, host)


_repeated_line = lru_cache(maxsize=_MEMO_LIMIT)(_first_lines)


def write_chunk(write: Callable[[bytes], object], data: bytes) -> None:
    """Write one chunk (RFC 9112 7.1). `data` must not be empty: an empty chunk would end the body."""
    write_joined(write, b"%x\r\n" % len(data), data, b"\r\n")


def write_joined(write: Callable[[bytes], object], *pieces: bytes) -> None:
    """Write pieces as one, or one by one where joining would copy much.

    Not `writelines`: before Python 3.12.9 and 3.13.2 asyncio's did not pause a protocol whose buffer is full
    (CVE-2024-12254).
    """
    if sum(map(len, pieces)) <= JOIN_LIMIT:
        write(b"".join(pieces))
    else:
        for piece in pieces:
            write(piece)


def last_chunk(trailers: Headers | None) -> bytes:
    """Return the end of a chunked body with its trailers; framing headers cannot be trailers (RFC 9110 6.5.1)."""
    if not trailers:
        return LAST_CHUNK
    fields = [
        lead[2:] + value.translate(_UNSAFE) + b"\r\n"
        for name, value in trailers
        if name != b"host" and (lead := _RESPONSE_LEADS[name])
    ]
    return b"0\r\n%b\r\n" % b"".join(fields)


def connection_options(headers: Headers) -> set[bytes]:
    """Return the lower-case options of all `Connection` headers: names of headers that belong to this hop."""
    options = (value.lower().split(b",") for name, value in headers if name == b"connection")
    return {option.strip() for some in options for option in some}


def end_to_end(headers: Headers) -> Headers:
    """Return the headers that a proxy passes on: without those that concern one connection (RFC 9110 7.6.1)."""
    named = connection_options(headers)
    return [field for field in headers if field[0] not in HOP_BY_HOP and field[0] not in named]


def origin_form(target: bytes) -> bytes | None:
    """Return the path and query of a request target; None when it is no target of an origin server.

    `http://host/path` is what clients send to proxies, and servers must accept it too (RFC 9112 3.2.2).
    """
    if target.startswith(b"/") or target == b"*":
        return target
    scheme, mark, rest = target.partition(b"://")
    if not mark or scheme.lower() not in (b"http", b"https") or not rest:
        return None
    cut = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
    tail = rest[cut:]
    return tail if tail.startswith(b"/") else b"/" + tail
