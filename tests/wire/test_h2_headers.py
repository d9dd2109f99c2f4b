"""HPACK and header semantics: our decoder against the `hpack` library, the memo, the rules of RFC 9113 section 8."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.wire.h2_frames import ErrorCode, H2Error
from pillion.wire.h2_headers import (
    HeaderDecoder,
    Malformed,
    RequestHead,
    ResponseHead,
    TooLarge,
    Trailers,
    encode,
    literal,
)

Fields = list[tuple[bytes, bytes]]

names = st.sampled_from([b":path", b"accept", b"x-a", b"x-b", b"grpc-timeout", b"content-type"]) | st.binary(
    min_size=1, max_size=20
)
values = st.sampled_from([b"", b"/", b"text/plain", b"100m"]) | st.binary(max_size=200)
lists = st.lists(st.tuples(names, values), max_size=12)


@given(st.lists(st.tuples(lists, st.booleans(), st.none() | st.sampled_from([0, 50, 300, 4096])), max_size=8))
def test_decoder_agrees_with_hpack(blocks: list[tuple[Fields, bool, int | None]]) -> None:
    """Blocks of a stateful encoder, with table size changes in between, mean the same to us as they meant to it."""
    encoder = hpack.Encoder()
    ours = HeaderDecoder(1 << 20)
    for fields, huffman, size in blocks:
        if size is not None:
            encoder.header_table_size = size
        block = encoder.encode(fields, huffman=huffman)
        assert ours.fields(block)[0] == fields


@given(lists)
def test_encoder_is_understood_by_hpack_and_stateless(fields: Fields) -> None:
    """Our blocks mean the same whatever the peer's table holds, and leave it alone."""
    decoder = hpack.Decoder(1 << 20)
    decoder.header_table.add(b"x-a", b"other")
    for _ in range(2):
        assert [tuple(field) for field in decoder.decode(encode(fields), raw=True)] == fields
    assert len(decoder.header_table.dynamic_entries) == 1


@given(st.binary(max_size=200))
def test_garbage_is_a_compression_error_or_fields(block: bytes) -> None:
    decoder = HeaderDecoder(4096)
    code = ErrorCode.COMPRESSION_ERROR
    try:
        decoder.fields(block)
    except H2Error as error:
        code = error.code
    assert code is ErrorCode.COMPRESSION_ERROR


@given(st.binary(max_size=100))
def test_garbage_is_refused_when_hpack_refuses_it(block: bytes) -> None:
    """What we accept, the `hpack` library accepts with the same meaning."""
    try:
        fields = HeaderDecoder(1 << 20).fields(block)[0]
    except H2Error:
        return
    assert [tuple(field) for field in hpack.Decoder(1 << 20).decode(block, raw=True)] == fields


REQUEST = [(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/s/m"), (b":authority", b"a")]


def test_memo_returns_the_same_head_and_forgets_when_the_table_changes() -> None:
    decoder = HeaderDecoder(4096)
    memo = decoder.memo(RequestHead)
    block = encode(REQUEST)
    head = decoder.decode(block, RequestHead)
    assert memo[block] is head
    indexed = hpack.Encoder().encode([*REQUEST, (b"x-new", b"1")], huffman=False)
    decoder.decode(indexed, RequestHead)
    assert not memo
    assert decoder.decode(block, RequestHead).headers == head.headers
    assert block in memo


def test_a_block_that_refers_to_the_table_is_remembered_only_as_long_as_it_holds() -> None:
    """The same bytes mean something else after the table has moved on."""
    encoder, decoder = hpack.Encoder(), HeaderDecoder(4096)
    decoder.decode(encoder.encode([*REQUEST, (b"x-a", b"1")]), RequestHead)
    again = encoder.encode([*REQUEST, (b"x-a", b"1")])
    assert decoder.decode(again, RequestHead).headers[-1] == (b"x-a", b"1")
    assert again in decoder.memo(RequestHead)
    decoder.decode(encoder.encode([*REQUEST, (b"x-a", b"2")]), RequestHead)
    assert again not in decoder.memo(RequestHead)


def test_memo_and_string_cache_are_bounded() -> None:
    decoder = HeaderDecoder(4096)
    for number in range(2000):
        decoder.decode(encode([*REQUEST, (b"x", b"%d" % number)]), RequestHead)
    assert len(decoder.memo(RequestHead)) <= 256


def test_oversized_list_leaves_the_table_in_step() -> None:
    encoder, decoder = hpack.Encoder(), HeaderDecoder(300)
    with pytest.raises(TooLarge):
        decoder.decode(encoder.encode([*REQUEST, (b"x-big", b"v" * 400), (b"x-small", b"1")]), RequestHead)
    assert decoder.decode(encoder.encode([*REQUEST, (b"x-small", b"1")]), RequestHead).headers[-1] == (b"x-small", b"1")


@pytest.mark.parametrize(
    "block",
    [
        b"\x80",
        b"\xff\xff\xff\xff\xff\xff\x0f",
        b"\xbe",
        b"\x40\x05ab",
        b"\x40\x01a\x7f\xff\xff\xff\xff\xff\x01",
        b"\x3f\xe2\x1f",
        b"\x82\x20",
        b"\x40\x81\xff\x00",
    ],
    ids=["index 0", "endless integer", "index beyond the table", "short name", "endless length", "table too large",
         "late table update", "bad Huffman padding"],
)  # fmt: skip
def test_compression_errors(block: bytes) -> None:
    """RFC 7541: each of these is a connection error COMPRESSION_ERROR."""
    with pytest.raises(H2Error) as caught:
        HeaderDecoder(4096).fields(block)
    assert caught.value.code is ErrorCode.COMPRESSION_ERROR


def test_decoder_insists_on_the_shrinking_of_its_table() -> None:
    """RFC 7541 4.2."""
    decoder = HeaderDecoder(4096)
    decoder.allowed = 100
    with pytest.raises(H2Error):
        decoder.fields(encode(REQUEST))


def test_requests_that_differ_in_a_deadline_are_one_family() -> None:
    """What is worked out from a head survives a changing time-out, which changes the table with every request."""
    encoder, decoder = hpack.Encoder(), HeaderDecoder(4096)
    heads = [
        decoder.decode(encoder.encode([*REQUEST, (b"grpc-timeout", b"%dm" % number), (b"x", b"1")]), RequestHead)
        for number in range(3)
    ]
    assert len({id(head.family) for head in heads}) == 1
    assert [head.extra for head in heads] == [[(b"grpc-timeout", b"%dm" % number)] for number in range(3)]
    assert heads[2].all_headers() == [(b"host", b"a"), (b"x", b"1"), (b"grpc-timeout", b"2m")]
    assert decoder.decode(encoder.encode([*REQUEST, (b"x", b"2")]), RequestHead).family is not heads[0].family


def test_secrets_are_never_indexed() -> None:
    """RFC 7541 7.1.3."""
    assert literal(b"x-secret", b"v", secret=True)[0] & 0xF0 == 0x10
    (field,) = hpack.Decoder().decode(encode([(b"authorization", b"Bearer x")]), raw=True)
    assert isinstance(field, hpack.NeverIndexedHeaderTuple)


@pytest.mark.parametrize(
    "fields",
    [
        [*REQUEST, (b"Upper", b"1")],
        [*REQUEST, (b"", b"1")],
        [*REQUEST, (b"bad name", b"1")],
        [*REQUEST, (b"x", b"a\r\nb")],
        [*REQUEST, (b"x", b"a\0b")],
        [*REQUEST, (b"x", b" a")],
        [*REQUEST, (b"x", b"a\t")],
        [*REQUEST, (b"connection", b"close")],
        [*REQUEST, (b"transfer-encoding", b"chunked")],
        [*REQUEST, (b"upgrade", b"h2c")],
        [*REQUEST, (b"te", b"gzip")],
        [*REQUEST, (b"content-length", b"-1")],
        [*REQUEST, (b"content-length", b"1"), (b"content-length", b"2")],
        [*REQUEST, (b":path", b"/again")],
        [*REQUEST, (b":status", b"200")],
        [*REQUEST, (b":unknown", b"1")],
        [*REQUEST[:1], (b"x", b"1"), *REQUEST[1:]],
        REQUEST[1:],
        [REQUEST[0], *REQUEST[2:]],
        [*REQUEST[:2], REQUEST[3]],
        [*REQUEST[:2], (b":path", b"")],
        [*REQUEST[:2], (b":path", b"no/slash")],
        [(b":method", b"CONNECT"), (b":authority", b"a"), (b":path", b"/")],
    ],
)
def test_malformed_requests(fields: Fields) -> None:
    """RFC 9113 8.2 and 8.3."""
    with pytest.raises(Malformed):
        HeaderDecoder(4096).decode(encode(fields), RequestHead)


@pytest.mark.parametrize("fields", [[], [(b"x", b"1")], [(b":status", b"20")], [(b":status", b"101")],
                                    [(b":status", b"200"), (b":path", b"/")]])  # fmt: skip
def test_malformed_responses(fields: Fields) -> None:
    """RFC 9113 8.3.2 and 8.6."""
    with pytest.raises(Malformed):
        HeaderDecoder(4096).decode(encode(fields), ResponseHead)


def test_trailers_have_no_pseudo_headers() -> None:
    """RFC 9113 8.1."""
    with pytest.raises(Malformed):
        HeaderDecoder(4096).decode(encode([(b":status", b"200")]), Trailers)


def test_request_head_in_the_words_of_the_house() -> None:
    """`host` comes from :authority, cookie crumbs are one field again (RFC 9113 8.2.3)."""
    fields = [*REQUEST, (b"cookie", b"a=1"), (b"te", b"trailers"), (b"cookie", b"b=2"), (b"content-length", b"7")]
    head = HeaderDecoder(4096).decode(encode(fields), RequestHead)
    assert (head.method, head.path, head.content_length) == ("POST", b"/s/m", 7)
    assert head.headers == [(b"host", b"a"), (b"te", b"trailers"), (b"content-length", b"7"), (b"cookie", b"a=1; b=2")]
