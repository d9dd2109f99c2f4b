"""DNS messages as multicast DNS uses them (RFC 1035, RFC 2782, RFC 6762): bytes to values and back, no I/O.

Knows: names with compression, PTR, SRV, TXT, A and AAAA records; other records pass as raw bytes. Everything that comes
in is hostile: a name cannot loop, nothing is read behind the end, and what does not fit is a `DnsError`.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass, field
from typing import TypeVar

MAX_MESSAGE = 9000
"""Bytes of one multicast message, headers of IP and UDP included (RFC 6762 section 17)."""
MAX_NAME = 255
MAX_LABEL = 63
MAX_JUMPS = 32
"""Compression pointers that one name may follow; writers need one, and many cost the reader time."""
RESPONSE = 0x8400
"""Flags of a response: QR and AA (RFC 6762 section 18)."""

A, PTR, TXT, AAAA, SRV, ANY = 1, 12, 16, 28, 33, 255
CLASS_IN = 1
_TOP_BIT = 0x8000
"""Of a class: "unicast answer wanted" in a question (RFC 6762 section 5.4), "forget the others" in a record (10.2)."""

Name = tuple[bytes, ...]
"""Labels without the root: `("printer", "local")` in bytes. Compare names by `folded`."""


class DnsError(ValueError):
    """The bytes are no DNS message, or the values do not fit into one."""


def name(text: str) -> Name:
    """Split a dotted name; a dot at the end is allowed. Raises `DnsError` when it is no name."""
    labels = tuple(label.encode() for label in text.removesuffix(".").split(".")) if text.rstrip(".") else ()
    _check(labels)
    return labels


def folded(labels: Name) -> Name:
    """The form in which names are compared: ASCII letters in lower case (RFC 1035 section 2.3.3)."""
    return tuple(label.lower() for label in labels)


@dataclass(frozen=True, slots=True)
class Srv:
    target: Name
    port: int
    priority: int = 0
    weight: int = 0


Data = Name | Srv | ipaddress.IPv4Address | ipaddress.IPv6Address | list[bytes] | bytes
"""Of PTR a name, of SRV a `Srv`, of A and AAAA an address, of TXT its strings, of others the bytes."""


@dataclass(slots=True)
class Question:
    name: Name
    type: int
    unicast: bool = False
    klass: int = CLASS_IN


@dataclass(slots=True)
class Record:
    """`ttl` in seconds; 0 says goodbye (RFC 6762 section 10.1)."""

    name: Name
    type: int
    ttl: int
    data: Data
    flush: bool = False
    klass: int = CLASS_IN


@dataclass(slots=True)
class Message:
    id: int = 0
    flags: int = 0
    questions: list[Question] = field(default_factory=list)
    answers: list[Record] = field(default_factory=list)
    authorities: list[Record] = field(default_factory=list)
    additional: list[Record] = field(default_factory=list)

    @property
    def is_response(self) -> bool:
        return bool(self.flags & 0x8000)

    @property
    def is_plain(self) -> bool:
        """Opcode and response code are zero; others are to be ignored (RFC 6762 section 18)."""
        return not self.flags & 0x780F

    @property
    def records(self) -> list[Record]:
        return self.answers + self.authorities + self.additional


def decode(data: bytes) -> Message:
    """Read one message; raises `DnsError`."""
    if len(data) > MAX_MESSAGE:
        raise DnsError(f"message of {len(data)} bytes")
    reader = _Reader(data)
    identity, flags, *counts = reader.unpack(_HEADER)
    message = Message(identity, flags)
    for _ in range(counts[0]):
        labels = reader.name()
        kind, klass = reader.unpack(_QUESTION)
        message.questions.append(Question(labels, kind, bool(klass & _TOP_BIT), klass & ~_TOP_BIT))
    for section, count in zip((message.answers, message.authorities, message.additional), counts[1:], strict=True):
        for _ in range(count):
            section.append(reader.record())
    return message


_HEADER = struct.Struct("!6H")
_QUESTION = struct.Struct("!2H")
_RECORD = struct.Struct("!2HIH")
_SRV = struct.Struct("!3H")


class _Reader:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def unpack(self, form: struct.Struct) -> tuple[int, ...]:
        try:
            values = form.unpack_from(self._data, self._at)
        except struct.error:
            raise DnsError("message ends too early") from None
        self._at += form.size
        return values

    def name(self) -> Name:
        labels, self._at = _read_name(self._data, self._at, len(self._data))
        return labels

    def record(self) -> Record:
        labels = self.name()
        kind, klass, ttl, length = self.unpack(_RECORD)
        start, end = self._at, self._at + length
        if end > len(self._data):
            raise DnsError("record ends behind the message")
        self._at = end
        flush, klass = bool(klass & _TOP_BIT), klass & ~_TOP_BIT
        content = self._content(kind, start, end) if klass == CLASS_IN else self._data[start:end]
        return Record(labels, kind, ttl if ttl < 1 << 31 else 0, content, flush, klass)

    def _content(self, kind: int, start: int, end: int) -> Data:
        data = self._data
        if kind == PTR:
            labels, after = _read_name(data, start, end)
            if after != end:
                raise DnsError("bytes behind the name of a PTR record")
            return labels
        if kind == SRV:
            if end - start < 7:
                raise DnsError("SRV record is too short")
            priority, weight, port = _SRV.unpack_from(data, start)
            labels, after = _read_name(data, start + 6, end)
            if after != end:
                raise DnsError("bytes behind the target of a SRV record")
            return Srv(labels, port, priority, weight)
        if kind == A and end - start == 4:
            return ipaddress.IPv4Address(data[start:end])
        if kind == AAAA and end - start == 16:
            return ipaddress.IPv6Address(data[start:end])
        if kind in (A, AAAA):
            raise DnsError("address of a wrong length")
        return _strings(data, start, end) if kind == TXT else data[start:end]


def _strings(data: bytes, at: int, end: int) -> list[bytes]:
    found = []
    while at < end:
        length = data[at]
        if at + 1 + length > end:
            raise DnsError("string ends behind its TXT record")
        found.append(data[at + 1 : at + 1 + length])
        at += 1 + length
    return found


def _read_name(data: bytes, at: int, end: int) -> tuple[Name, int]:
    """Return the labels from `at` and where the name ends. Pointers must lead backwards, so they cannot loop."""
    labels: list[bytes] = []
    size = 1
    after = -1
    limit = end
    floor = at
    jumps = 0
    while True:
        if at >= limit:
            raise DnsError("name ends too early")
        length = data[at]
        if length == 0:
            return tuple(labels), after if after >= 0 else at + 1
        if length >= 0xC0:
            if at + 2 > limit:
                raise DnsError("name ends too early")
            target = (length & 0x3F) << 8 | data[at + 1]
            if after < 0:
                after = at + 2
            if target >= floor:
                raise DnsError("compression pointer does not lead backwards")
            jumps += 1
            if jumps > MAX_JUMPS:
                raise DnsError("too many compression pointers")
            at = floor = target
            limit = len(data)
            continue
        if length > MAX_LABEL:
            raise DnsError("label of an unknown kind")
        if at + 1 + length > limit:
            raise DnsError("label ends too early")
        size += 1 + length
        if size > MAX_NAME:
            raise DnsError("name is longer than 255 bytes")
        labels.append(data[at + 1 : at + 1 + length])
        at += 1 + length


def encode(message: Message) -> bytes:
    """Write a message; raises `DnsError` when something does not fit."""
    writer = _Writer()
    sections = (message.answers, message.authorities, message.additional)
    counts = (len(message.questions), *map(len, sections))
    if max(counts) > 0xFFFF:
        raise DnsError("too many records")
    writer.out += _HEADER.pack(message.id, message.flags, *counts)
    for question in message.questions:
        writer.name(question.name)
        writer.out += _QUESTION.pack(question.type, question.klass | (_TOP_BIT if question.unicast else 0))
    for section in sections:
        for record in section:
            writer.record(record)
    if len(writer.out) > MAX_MESSAGE:
        raise DnsError(f"message of {len(writer.out)} bytes")
    return bytes(writer.out)


class _Writer:
    def __init__(self) -> None:
        self.out = bytearray()
        self._known: dict[Name, int] = {}

    def name(self, labels: Name) -> None:
        """Write a name, pointing to its longest end that was written before."""
        _check(labels)
        for start in range(len(labels)):
            rest = labels[start:]
            known = self._known.get(rest)
            if known is not None:
                self.out += struct.pack("!H", 0xC000 | known)
                return
            if len(self.out) < 0x4000:
                self._known[rest] = len(self.out)
            self.out.append(len(labels[start]))
            self.out += labels[start]
        self.out.append(0)

    def record(self, record: Record) -> None:
        self.name(record.name)
        klass = record.klass | (_TOP_BIT if record.flush else 0)
        self.out += _RECORD.pack(record.type, klass, record.ttl, 0)
        start = len(self.out)
        self._content(record.data)
        length = len(self.out) - start
        if length > 0xFFFF:
            raise DnsError("record is too long")
        self.out[start - 2 : start] = struct.pack("!H", length)

    def _content(self, data: Data) -> None:
        if isinstance(data, tuple):
            self.name(data)
        elif isinstance(data, Srv):
            self.out += _SRV.pack(data.priority, data.weight, data.port)
            self.name(data.target)
        elif isinstance(data, ipaddress.IPv4Address | ipaddress.IPv6Address):
            self.out += data.packed
        elif isinstance(data, list):
            for text in data or [b""]:  # at least one string (RFC 1035 section 3.3.14)
                if len(text) > 255:
                    raise DnsError("TXT string is longer than 255 bytes")
                self.out.append(len(text))
                self.out += text
        else:
            self.out += data


def _check(labels: Name) -> None:
    if any(not 0 < len(label) <= MAX_LABEL for label in labels):
        raise DnsError(f"a label is empty or longer than {MAX_LABEL} bytes")
    if sum(map(len, labels)) + len(labels) + 1 > MAX_NAME:
        raise DnsError(f"name is longer than {MAX_NAME} bytes")


T = TypeVar("T")


def of_type(records: list[Record], kind: int, wanted: type[T]) -> list[tuple[Record, T]]:
    """Return the records of one type with their data, leaving out those whose data is of another form."""
    return [(one, one.data) for one in records if one.type == kind and isinstance(one.data, wanted)]
