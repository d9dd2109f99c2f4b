"""DNS messages: what we write can be read, and nothing that comes in does harm."""

from __future__ import annotations

import ipaddress
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.wire import dns

_LABELS = st.binary(min_size=1, max_size=20)
_NAMES = st.lists(_LABELS, max_size=6).map(tuple)
_U16 = st.integers(0, 0xFFFF)
_DATA = st.one_of(
    st.tuples(st.just(dns.PTR), _NAMES),
    st.tuples(st.just(dns.SRV), st.builds(dns.Srv, _NAMES, _U16, _U16, _U16)),
    st.tuples(st.just(dns.TXT), st.lists(st.binary(max_size=40), min_size=1, max_size=5)),
    st.tuples(st.just(dns.A), st.builds(ipaddress.IPv4Address, st.integers(0, 2**32 - 1))),
    st.tuples(st.just(dns.AAAA), st.builds(ipaddress.IPv6Address, st.integers(0, 2**128 - 1))),
    st.tuples(st.sampled_from([2, 47, 65]), st.binary(max_size=50)),
)
_RECORDS = st.builds(
    lambda name, data, ttl, flush: dns.Record(name, data[0], ttl, data[1], flush),
    _NAMES,
    _DATA,
    st.integers(0, 2**31 - 1),
    st.booleans(),
)
_MESSAGES = st.builds(
    dns.Message,
    _U16,
    _U16,
    st.lists(st.builds(dns.Question, _NAMES, _U16, st.booleans()), max_size=4),
    *[st.lists(_RECORDS, max_size=4)] * 3,
)


@given(_MESSAGES)
def test_what_is_written_is_read(message: dns.Message) -> None:
    assert dns.decode(dns.encode(message)) == message


@given(st.binary(max_size=300))
def test_noise_is_refused_or_read(data: bytes) -> None:
    """Nothing but `DnsError` comes of any bytes."""
    with suppress(dns.DnsError):
        dns.decode(data)


@given(_MESSAGES, st.integers(0, 2000), st.integers(0, 255))
def test_damaged_messages_are_refused_or_read(message: dns.Message, at: int, value: int) -> None:
    data = bytearray(dns.encode(message))
    data[at % len(data)] = value
    for cut in (len(data), at % len(data)):
        with suppress(dns.DnsError):
            dns.decode(bytes(data[:cut]))


def test_a_known_message() -> None:
    """A PTR question as RFC 1035 section 4.1 lays it out, byte for byte."""
    question = dns.Message(questions=[dns.Question(dns.name("app.local."), dns.PTR)])
    data = bytes.fromhex("000000000001000000000000 03617070 056c6f63616c 00 000c 0001")
    assert dns.encode(question) == data
    assert dns.decode(data) == question


def test_names_are_compressed() -> None:
    """The second `app.local` is two bytes (RFC 1035 section 4.1.4)."""
    owner, instance = dns.name("app.local"), dns.name("host:1.app.local")
    data = dns.encode(dns.Message(answers=[dns.Record(owner, dns.PTR, 3200, instance)]))
    assert data.count(b"local") == 1
    assert data.endswith(b"\x06host:1\xc0\x0c")


_HEAD = struct.pack("!6H", 0, 0, 1, 0, 0, 0)


@pytest.mark.parametrize(
    "name",
    [
        b"\xc0\x0c",  # to itself
        b"\xc0\x0e\xc0\x0c",  # to each other
        b"\x01a\xc0\x0c",  # to its own beginning
        b"\xc0\xff",  # forwards
        b"\x40" + b"a" * 64 + b"\x00",  # an extended label
        (b"\x3f" + b"a" * 63) * 4 + b"\x00",  # 257 bytes
        b"\x05abc",  # cut
        b"\xc0",  # half a pointer
    ],
)
def test_hostile_names(name: bytes) -> None:
    with pytest.raises(dns.DnsError):
        dns.decode(_HEAD + name + b"\x00\x0c\x00\x01")


def test_limits() -> None:
    with pytest.raises(dns.DnsError):
        dns.decode(bytes(9001))
    with pytest.raises(dns.DnsError):
        dns.name("a" * 64 + ".local")
    with pytest.raises(dns.DnsError):
        dns.name("a..b")
    with pytest.raises(dns.DnsError):
        dns.encode(dns.Message(answers=[dns.Record((b"a",), dns.TXT, 1, [b"x" * 256])]))
    with pytest.raises(dns.DnsError):
        dns.encode(dns.Message(answers=[dns.Record((b"a",), 99, 1, b"x" * 8999)]))
    assert dns.name(".") == ()
