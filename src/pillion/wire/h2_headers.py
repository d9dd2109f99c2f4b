"""HTTP/2 header blocks (RFC 7541) and the meaning of their fields (RFC 9113 section 8).

Knows: how a block becomes checked fields and how fields become a block that is valid whatever the peer's table holds.
Never knows: frames, streams.

Speed: peers repeat identical header bytes, so a block that left the dynamic table as it was is remembered with its
checked meaning and found again by one dictionary look-up; every change of the table forgets them all. What is not
remembered is decoded here in one pass; the `hpack` library lends its static table and its Huffman decoder.
"""

from __future__ import annotations

from collections import deque
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from hpack.exceptions import HPACKError
from hpack.huffman_table import decode_huffman
from hpack.table import HeaderTable

from pillion.wire.h2_frames import ErrorCode, H2Error

if TYPE_CHECKING:
    from collections.abc import Iterable

Field = tuple[bytes, bytes]
Fields = list[Field]

_STATIC: tuple[Field, ...] = tuple((bytes(name), bytes(value)) for name, value in HeaderTable.STATIC_TABLE)
_STATIC_FIELDS = {field: index for index, field in reversed(list(enumerate(_STATIC, 1)))}
_STATIC_NAMES = {field[0]: index for index, field in reversed(list(enumerate(_STATIC, 1)))}

DEFAULT_TABLE_SIZE = 4096
_MEMO_BLOCKS = 256
_MEMO_BLOCK_BYTES = 2048
"""Longer blocks are not remembered: with 256 of them the memo stays below one megabyte."""

_TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_CONNECTION_SPECIFIC = frozenset((b"connection", b"proxy-connection", b"keep-alive", b"transfer-encoding", b"upgrade"))


VOLATILE = frozenset((b"grpc-timeout", b"traceparent", b"tracestate", b"grpc-trace-bin", b"x-request-id"))
"""Headers that differ from one request to the next where all others repeat."""


class Malformed(Exception):
    """The fields break RFC 9113 section 8: a stream error of type PROTOCOL_ERROR (8.1.1)."""


class TooLarge(Exception):
    """The list of fields is longer than the announced SETTINGS_MAX_HEADER_LIST_SIZE; the table is still in step."""


class RequestHead:
    """The checked head of a request. Shared by all requests with the same fields: nobody may change it.

    `headers` has no pseudo-header; `host` is added from `:authority` where the client left it out. `extra` are the
    `VOLATILE` headers, which are not in `headers`. `family` is the head that this one repeats but for them, usually
    itself; its `plan` is for the one who serves the request: what it worked out once for the whole family.
    """

    __slots__ = ("authority", "content_length", "extra", "family", "headers", "method", "path", "plan", "scheme")

    def __init__(self, fields: Fields) -> None:
        method = path = scheme = authority = None
        split = 0
        for name, value in fields:
            if name[:1] != b":":
                break
            split += 1
            if name == b":method" and method is None:
                method = value
            elif name == b":path" and path is None:
                path = value
            elif name == b":scheme" and scheme is None:
                scheme = value
            elif name == b":authority" and authority is None:
                authority = value
            else:
                raise Malformed(f"pseudo-header {name!r} is unknown or repeated")
        headers = fields[split:]
        self.content_length = _check_headers(headers)
        if not method:
            raise Malformed(":method is missing")
        if method == b"CONNECT":
            if path is not None or scheme is not None or not authority:
                raise Malformed("CONNECT carries :authority alone")
        elif not path or not scheme:
            raise Malformed(":path or :scheme is missing")
        elif path[:1] != b"/" and not (path == b"*" and method == b"OPTIONS"):
            raise Malformed(":path is not absolute")
        self.method = method.decode("latin-1")
        self.path = path or b""
        self.scheme = scheme or b""
        self.authority = authority
        self.headers = headers
        if authority is not None and not any(name == b"host" for name, _ in headers):
            headers.insert(0, (b"host", authority))
        self.extra: Fields = []
        self.family = self
        self.plan: Any = None

    def with_extra(self, extra: Fields) -> RequestHead:
        """Return a head of the same family with headers of its own."""
        head = RequestHead.__new__(RequestHead)
        head.method, head.path, head.scheme, head.authority = self.method, self.path, self.scheme, self.authority
        head.content_length, head.headers = self.content_length, self.headers
        head.extra = extra
        head.family = self
        return head

    def all_headers(self) -> Fields:
        """Return a list of one's own of all headers."""
        return [*self.headers, *self.extra]


class ResponseHead:
    """The checked head of a response, or of an interim one (status 1xx)."""

    __slots__ = ("content_length", "headers", "plan", "status")

    def __init__(self, fields: Fields) -> None:
        if not fields or fields[0][0] != b":status":
            raise Malformed(":status is missing")
        status = fields[0][1]
        if len(status) != 3 or not status.isdigit():
            raise Malformed(":status is not three digits")
        self.headers = fields[1:]
        self.content_length = _check_headers(self.headers)
        self.status = int(status)
        if self.status == 101:
            raise Malformed("101 does not exist in HTTP/2")  # RFC 9113 8.6
        self.plan: Any = None


class Trailers:
    """Checked trailers: fields without pseudo-headers (RFC 9113 8.1)."""

    __slots__ = ("headers", "plan")

    def __init__(self, fields: Fields) -> None:
        _check_headers(fields)
        self.headers = fields
        self.plan: Any = None


def _check_headers(headers: Fields) -> int | None:
    """Check what concerns the list as a whole (RFC 9113 8.2.2, 8.3); return the content length."""
    length = None
    cookies = 0
    for name, value in headers:
        if name[:1] == b":":
            raise Malformed("pseudo-header after an ordinary one, or in trailers")
        if name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers"):
            raise Malformed(f"connection-specific header {name!r}")
        if name == b"content-length":
            if not value.isdigit() or len(value) > 18 or length not in (None, int(value)):
                raise Malformed("bad content-length")
            length = int(value)
        elif name == b"cookie":
            cookies += 1
    if cookies > 1:  # RFC 9113 8.2.3: one field again before it meets software that knows no crumbs
        joined = b"; ".join(value for name, value in headers if name == b"cookie")
        headers[:] = [*(field for field in headers if field[0] != b"cookie"), (b"cookie", joined)]
    return length


def _check_field(field: Field) -> None:
    """Check the bytes of one field (RFC 9113 8.2.1)."""
    name, value = field
    if not _TOKEN.issuperset(name[1:] if name[:1] == b":" else name) or not name or name == b":":
        raise Malformed(f"header name {name[:64]!r} is not a lower-case token")
    if b"\0" in value or b"\r" in value or b"\n" in value:
        raise Malformed(f"value of {name[:64]!r} has a forbidden byte")
    if value and (value[0] in b" \t" or value[-1] in b" \t"):
        raise Malformed(f"value of {name[:64]!r} begins or ends with white space")


class FieldCheck:
    """Remembers which fields have been found well-formed, so that repeated ones cost one hash."""

    __slots__ = ("_good", "_limit")

    def __init__(self, limit: int = 2048) -> None:
        self._good: set[Field] = set(_STATIC)
        self._limit = limit

    def __call__(self, fields: Fields) -> None:
        good = self._good
        if good.issuperset(fields):
            return
        for field in fields:
            if field not in good:
                _check_field(field)
                if len(good) >= self._limit:
                    good.clear()
                if len(field[1]) <= 256 and field[0] not in VOLATILE:
                    good.add(field)


Meaning = TypeVar("Meaning", RequestHead, ResponseHead, Trailers)


class HeaderDecoder:
    """The decoding half of a connection's header compression.

    Connection errors are raised as `H2Error` COMPRESSION_ERROR. `Malformed` and `TooLarge` concern one stream: the
    table has taken in the whole block before they are raised.
    """

    __slots__ = (
        "_check",
        "_entries",
        "_families",
        "_limit",
        "_memo",
        "_memo_table",
        "_size",
        "_strings",
        "allowed",
        "max_list",
    )

    def __init__(self, max_list: int, table_size: int = DEFAULT_TABLE_SIZE) -> None:
        self.max_list = max_list
        self.allowed = table_size
        """What our acknowledged SETTINGS_HEADER_TABLE_SIZE lets the peer use, bytes."""
        self._entries: deque[Field] = deque()
        self._size = 0
        self._limit = table_size
        self._check = FieldCheck()
        self._strings: dict[bytes, bytes] = {}
        self._memo: dict[type, dict[bytes, Any]] = {RequestHead: {}, ResponseHead: {}, Trailers: {}}
        self._memo_table = self._memo.values()
        self._families: dict[tuple[Field, ...], RequestHead] = {}

    def memo(self, meaning: type[Meaning]) -> dict[bytes, Meaning]:
        """Return the memo itself: it stays the same object, so a reader may keep it."""
        return self._memo[meaning]

    def decode(self, block: bytes, meaning: type[Meaning]) -> Meaning:
        """Return what the block means; `meaning` is the class that checks it."""
        fields, changed, size = self.fields(block)
        if changed:
            for known in self._memo_table:
                known.clear()
        if size > self.max_list:
            raise TooLarge
        self._check(fields)
        head = self._request(fields) if meaning is RequestHead else meaning(fields)
        if not changed and len(block) <= _MEMO_BLOCK_BYTES:
            memo = self._memo[meaning]
            if len(memo) >= _MEMO_BLOCKS:
                memo.clear()
            memo[block] = head
        return head

    def _request(self, fields: Fields) -> RequestHead:
        """Find or found the family of a request: what is costly to work out from a head survives every table change."""
        stable = [field for field in fields if field[0] not in VOLATILE]
        key = tuple(stable)
        family = self._families.get(key)
        if family is None:
            family = RequestHead(stable)
            if len(self._families) >= _MEMO_BLOCKS:
                self._families.clear()
            if sum(len(name) + len(value) for name, value in key) <= _MEMO_BLOCK_BYTES:
                self._families[key] = family
        if len(stable) == len(fields):
            return family
        return family.with_extra([field for field in fields if field[0] in VOLATILE])

    def skip(self, block: bytes) -> None:
        """Take in a block for the sake of the table only: its stream is gone."""
        if self.fields(block)[1]:
            for known in self._memo_table:
                known.clear()

    def fields(self, block: bytes) -> tuple[Fields, bool, int]:
        """Return the fields, whether the dynamic table changed, and the size of the list as RFC 9113 6.5.2 counts it.

        Fields beyond `max_list` bytes are left out of the list, though not out of the table.
        """
        try:
            return self._decode(block)
        except IndexError:
            raise H2Error(ErrorCode.COMPRESSION_ERROR, "header block is cut short or has a bad index") from None
        except HPACKError as error:
            raise H2Error(ErrorCode.COMPRESSION_ERROR, str(error)) from error

    def _decode(self, block: bytes) -> tuple[Fields, bool, int]:
        fields: Fields = []
        add = fields.append
        entries = self._entries
        changed = False
        size = 0
        position, end = 0, len(block)
        while position < end:
            byte = block[position]
            position += 1
            if byte & 0x80:  # indexed field (RFC 7541 6.1)
                index = byte & 0x7F
                if index == 0x7F:
                    index, position = _integer(block, position, 0x7F)
                if index > 61:
                    field = entries[index - 62]
                elif index:
                    field = _STATIC[index - 1]
                else:
                    raise H2Error(ErrorCode.COMPRESSION_ERROR, "index 0")
            elif byte & 0xE0 == 0x20:  # table size update (6.3), only in front
                if fields:
                    raise H2Error(ErrorCode.COMPRESSION_ERROR, "table size update after a field")
                limit = byte & 0x1F
                if limit == 0x1F:
                    limit, position = _integer(block, position, 0x1F)
                if limit > self.allowed:
                    raise H2Error(ErrorCode.COMPRESSION_ERROR, "table size update above what was allowed")
                self._limit = limit
                changed = True
                self._evict(0)
                continue
            else:  # literal (6.2), with incremental indexing when 0x40 is set
                keep = byte & 0x40
                mask = 0x3F if keep else 0x0F
                index = byte & mask
                if index == mask:
                    index, position = _integer(block, position, mask)
                if not index:
                    name, position = self._string(block, position)
                elif index > 61:
                    name = entries[index - 62][0]
                else:
                    name = _STATIC[index - 1][0]
                value, position = self._string(block, position)
                field = (name, value)
                if keep:
                    changed = True
                    weight = len(name) + len(value) + 32
                    self._evict(weight)
                    if weight <= self._limit:
                        entries.appendleft(field)
                        self._size += weight
            size += len(field[0]) + len(field[1]) + 32
            if size <= self.max_list:
                add(field)
        if self._limit > self.allowed:
            raise H2Error(ErrorCode.COMPRESSION_ERROR, "the table was not shrunk as our settings ask")
        return fields, changed, size

    def _evict(self, room: int) -> None:
        entries = self._entries
        while entries and self._size + room > self._limit:
            name, value = entries.pop()
            self._size -= len(name) + len(value) + 32

    def _string(self, block: bytes, position: int) -> tuple[bytes, int]:
        """RFC 7541 5.2."""
        byte = block[position]
        position += 1
        length = byte & 0x7F
        if length == 0x7F:
            length, position = _integer(block, position, 0x7F)
        end = position + length
        raw = block[position:end]
        if len(raw) != length:
            raise H2Error(ErrorCode.COMPRESSION_ERROR, "string is cut short")
        if not byte & 0x80:
            return raw, end
        strings = self._strings
        text = strings.get(raw)
        if text is None:
            text = bytes(decode_huffman(raw))
            if len(raw) <= 128:  # short strings return; decoding them costs a step for each half byte
                if len(strings) >= 1024:
                    strings.clear()
                strings[raw] = text
        return text, end

    def __repr__(self) -> str:
        return f"<HeaderDecoder {len(self._entries)} entries, {self._size} of {self._limit} bytes>"


def _integer(block: bytes, position: int, value: int) -> tuple[int, int]:
    """RFC 7541 5.1, after the prefix; four further bytes are as many as anything here can need."""
    shift = 0
    while True:
        byte = block[position]
        position += 1
        value += (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
        shift += 7
        if shift > 28:
            raise H2Error(ErrorCode.COMPRESSION_ERROR, "integer too long")


def _length(value: int, mask: int, mark: int) -> bytes:
    """RFC 7541 5.1, encoding."""
    if value < mask:
        return bytes((mark | value,))
    out = bytearray((mark | mask,))
    value -= mask
    while value >= 128:
        out.append(0x80 | (value & 0x7F))
        value >>= 7
    out.append(value)
    return bytes(out)


def literal(name: bytes, value: bytes, *, secret: bool = False) -> bytes:
    """Return one field in a form that no table state can spoil: static index, or literal without indexing.

    `secret` marks it never-indexed (RFC 7541 7.1.3), so that hops re-encode it the same way.
    """
    if not secret and (index := _STATIC_FIELDS.get((name, value))):
        return bytes((0x80 | index,))
    mark = 0x10 if secret else 0
    index = _STATIC_NAMES.get(name, 0)
    head = _length(index, 0x0F, mark)
    if not index:
        head += _length(len(name), 0x7F, 0) + name
    return head + _length(len(value), 0x7F, 0) + value


_SECRET = frozenset((b"authorization", b"proxy-authorization", b"cookie", b"set-cookie", b"dapr-api-token"))


@lru_cache(maxsize=1024)
def _known(name: bytes, value: bytes) -> bytes:
    return literal(name, value, secret=name in _SECRET)


def encode(fields: Iterable[Field]) -> bytes:
    """Return a block of literals; it leaves the peer's dynamic table alone."""
    return b"".join(
        [
            _known(name, value) if len(value) <= 64 else literal(name, value, secret=name in _SECRET)
            for name, value in fields
        ]
    )
