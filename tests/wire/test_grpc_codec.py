"""gRPC's own bytes: framing, time-outs, messages in percent escapes, metadata, statuses."""

from __future__ import annotations

import gzip
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.errors import Code
from pillion.wire import grpc as g


@given(st.lists(st.binary(max_size=300), max_size=6), st.lists(st.integers(1, 50), min_size=1, max_size=5))
def test_messages_survive_any_cut(messages: list[bytes], cuts: list[int]) -> None:
    raw = b"".join(g.framed_gzip(message) if len(message) % 2 else g.framed(message) for message in messages)
    deframer = g.Deframer(1000, b"gzip")
    out: list[bytes] = []
    position = 0
    while position < len(raw):
        size = cuts[position % len(cuts)]
        out += deframer.feed(raw[position : position + size])
        position += size
    assert out == messages
    assert not deframer.incomplete


def test_limits_of_one_message() -> None:
    """The text is grpc-go's; a bomb is not unpacked beyond the limit."""
    with pytest.raises(g.StatusError, match=r"grpc: received message larger than max \(11 vs. 10\)") as caught:
        g.Deframer(10).feed(g.framed(b"x" * 11))
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    with pytest.raises(g.StatusError) as caught:
        g.Deframer(2000, b"gzip").feed(g.framed_gzip(bytes(10_000)))
    assert caught.value.code is Code.RESOURCE_EXHAUSTED
    assert g.Deframer(10).feed(g.framed(b"x" * 10)) == [b"x" * 10]


@pytest.mark.parametrize("raw", [g.PREFIX.pack(2, 0), g.PREFIX.pack(1, 3) + b"abc"])
def test_flags_that_do_not_fit(raw: bytes) -> None:
    with pytest.raises(g.StatusError) as caught:
        g.Deframer(10).feed(raw)
    assert caught.value.code is Code.INTERNAL


@pytest.mark.parametrize("packed", [b"not gzip", gzip.compress(b"hello", mtime=0)[:-4]], ids=["not gzip", "cut short"])
def test_broken_gzip(packed: bytes) -> None:
    with pytest.raises(g.StatusError, match="decompress") as caught:
        g.unpacked(packed, 100)
    assert caught.value.code is Code.INTERNAL


@given(st.floats(1e-9, 1e7))
def test_timeouts_round_up_a_little(seconds: float) -> None:
    """Never shorter than asked, eight digits at most."""
    raw = g.format_timeout(seconds)
    assert len(raw) <= 9
    assert seconds * (1 - 1e-9) <= g.parse_timeout(raw) <= seconds * 1.001 + 2e-9


@pytest.mark.parametrize(
    ("raw", "seconds"), [(b"1H", 3600), (b"2M", 120), (b"3S", 3), (b"4m", 0.004), (b"99999999n", 0.1)]
)
def test_timeouts_read(raw: bytes, seconds: float) -> None:
    assert g.parse_timeout(raw) == pytest.approx(seconds)


@pytest.mark.parametrize("raw", [b"", b"1", b"S", b"123456789S", b"-1S", b"1x", b"1.5S"])
def test_timeouts_malformed(raw: bytes) -> None:
    with pytest.raises(g.StatusError):
        g.parse_timeout(raw)


def test_timeouts_at_the_ends() -> None:
    assert g.format_timeout(0) == b"0n"
    assert g.format_timeout(1e12) == b"99999999H"


@given(st.text())
def test_grpc_message_round_trip(text: str) -> None:
    """Printable ASCII without edges of white space, and readable by any percent decoder."""
    raw = g.percent_encode(text)
    assert all(0x20 <= byte <= 0x7E for byte in raw)
    assert raw == raw.strip()
    assert g.percent_decode(raw) == text.encode("utf-8", "replace").decode()
    assert unquote(raw.decode()) == text.encode("utf-8", "replace").decode()


def test_grpc_message_broken_escapes_stand_for_themselves() -> None:
    assert g.percent_decode(b"100% %zz %C3%A4") == "100% %zz ä"


@given(st.lists(st.tuples(st.sampled_from(["a", "b-bin", "x.y_z"]), st.binary(max_size=30))))
def test_binary_metadata_round_trip(pairs: list[tuple[str, bytes]]) -> None:
    metadata: g.Metadata = [(name, value if name.endswith("-bin") else value.hex()) for name, value in pairs]
    assert g.read_metadata(g.metadata_fields(metadata)) == metadata


@pytest.mark.parametrize("raw", [b"AAE", b"AAE=", b" AAE= "])
def test_binary_values_padded_or_not(raw: bytes) -> None:
    assert g.read_metadata([(b"k-bin", raw)]) == [("k-bin", b"\0\1")]


def test_binary_values_in_a_list() -> None:
    """PROTOCOL-HTTP2: a comma-joined value is several."""
    assert g.read_metadata([(b"k-bin", b"AAE,Ag==, Aw")]) == [("k-bin", b"\0\1"), ("k-bin", b"\2"), ("k-bin", b"\3")]


def test_bad_base64_is_internal() -> None:
    with pytest.raises(g.StatusError) as caught:
        g.read_metadata([(b"k-bin", b"!!!")])
    assert caught.value.code is Code.INTERNAL


def test_metadata_that_is_not_sent() -> None:
    """The protocol's own names are dropped, what no header can carry is refused."""
    assert g.metadata_fields(
        [("te", "x"), ("grpc-timeout", "1S"), (":path", "/"), ("Connection", "x"), ("A", "1")]
    ) == [(b"a", b"1")]
    for name, value in (("bad name", "1"), ("", "1"), ("ä", "1"), ("a", "1\r\nb: 2")):
        with pytest.raises(g.StatusError):
            g.metadata_fields([(name, value)])


def test_codes_of_resets_and_http() -> None:
    assert g.code_for_reset(7) == Code.UNAVAILABLE
    assert g.code_for_reset(8) == Code.CANCELLED
    assert g.code_for_reset(11) == Code.RESOURCE_EXHAUSTED
    assert g.code_for_reset(12345) == Code.INTERNAL
    assert g.code_for_http(503) == Code.UNAVAILABLE
    assert g.code_for_http(404) == Code.UNIMPLEMENTED
    assert g.code_for_http(418) == Code.UNKNOWN
