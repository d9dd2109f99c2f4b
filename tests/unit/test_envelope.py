"""The hand-written envelope against protobuf's own encoder and decoder."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pillion.wire import envelope
from pillion.wire.http1 import canonical
from pillion.wire.messages import common, internals

NAMES = st.text("abcdefghijklmnop-", min_size=1, max_size=8).map(str.encode)
VALUES = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=300).map(str.encode)
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=8)
TEXTS = st.text(max_size=20)


def as_dict(headers: list[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    """Names travel in their canonical case; names of binary metadata are gRPC's and stay in lower case."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        spelled = name if name.endswith(b"-bin") else canonical(name)
        found.setdefault(spelled.decode(), []).append(value.decode())
    return found


@given(HEADERS, TEXTS, st.integers(0, 9), TEXTS, TEXTS, st.binary(max_size=200), st.integers(0, 1 << 40))
def test_requests_as_protobuf_sees_them(
    headers: list[tuple[bytes, bytes]], method: str, verb: int, query: str, type_url: str, payload: bytes, sequence: int
) -> None:
    message = envelope.invoke_request(method, verb, query.encode(), b"a/b", type_url)
    data = envelope.stream_message(envelope.request_head(headers, message), payload, sequence)
    seen = internals.InternalInvokeRequestStream.FromString(data)
    assert seen.request.ver == 1
    assert {name: list(entry.values) for name, entry in seen.request.metadata.items()} == as_dict(headers)
    assert seen.request.message.method == method
    assert seen.request.message.http_extension.verb == verb
    assert seen.request.message.http_extension.querystring == query
    assert seen.request.message.content_type == "a/b"
    assert seen.request.message.data.type_url == type_url
    assert seen.HasField("payload") == bool(payload)
    if payload:
        assert (seen.payload.data, seen.payload.seq) == (payload, sequence)


@example([(b"-bin", b"")], [(b"x-bin", b"eA==")], 0, "", b"")
@given(HEADERS, HEADERS, st.integers(0, 599), TEXTS, st.binary(max_size=200))
def test_responses_there_and_back(
    headers: list[tuple[bytes, bytes]], trailers: list[tuple[bytes, bytes]], code: int, text: str, data: bytes
) -> None:
    encoded = envelope.response_head(code, headers, b"a/b", text, (b"\x0a\x01x",), trailers, "t", data)
    seen = internals.InternalInvokeResponse.FromString(encoded)
    assert seen.status.code == code
    assert seen.status.message == text
    assert seen.status.details[0].type_url == "x"
    assert {name: list(entry.values) for name, entry in seen.headers.items()} == as_dict(headers)
    assert seen.message.data.value == data
    found = envelope.read_response(seen.SerializeToString())
    assert (found.code, found.message, found.content_type, found.type_url, found.data) == (
        code,
        text,
        b"a/b",
        "t",
        data,
    )
    assert as_dict(found.headers) == as_dict(headers)
    assert as_dict(found.trailers) == as_dict(trailers)


@given(HEADERS, TEXTS, st.integers(0, 9), st.binary(max_size=300), st.integers(0, (1 << 64) - 1))
def test_requests_written_by_protobuf_are_read(
    headers: list[tuple[bytes, bytes]], method: str, verb: int, payload: bytes, sequence: int
) -> None:
    wanted = internals.InternalInvokeRequestStream(
        request=internals.InternalInvokeRequest(
            ver=1,
            metadata={name: internals.ListStringValue(values=values) for name, values in as_dict(headers).items()},
            message=common.InvokeRequest(
                method=method, http_extension=common.HTTPExtension(verb=verb, querystring="q=1")
            ),
        ),
        payload=common.StreamPayload(data=payload, seq=sequence),
    )
    lead, data, number = envelope.read_stream_message(wanted.SerializeToString())
    assert (data, number) == (payload, sequence)
    assert lead is not None
    found = envelope.read_request(lead)
    assert (found.method, found.verb, found.query) == (method, verb, b"q=1")
    assert as_dict(found.headers or []) == as_dict(headers)
    assert (found.headers is None) == (not headers)


@given(st.binary(max_size=60))
def test_arbitrary_bytes_are_read_or_refused(data: bytes) -> None:
    for read in (envelope.read_stream_message, envelope.read_request, envelope.read_response):
        try:
            read(data)
        except envelope.BadEnvelope:
            continue


@pytest.mark.parametrize("value", ["a\r\nHost: b", "a\nb", "\0"])
def test_headers_cannot_smuggle_lines(value: str) -> None:
    head = internals.InternalInvokeRequest(
        metadata={"X-A": internals.ListStringValue(values=[value])}, message=common.InvokeRequest()
    )
    with pytest.raises(envelope.BadEnvelope):
        envelope.read_request(head.SerializeToString())
    typed = internals.InternalInvokeRequest(message=common.InvokeRequest(content_type=value))
    with pytest.raises(envelope.BadEnvelope):
        envelope.read_request(typed.SerializeToString())


def test_memories_are_bounded() -> None:
    for number in range(3 * envelope.REMEMBERED):
        envelope.read_request(envelope.request_head([(b"x-id", b"%d" % number)], b""))
    assert len(envelope._read) <= envelope.REMEMBERED
    assert len(envelope._written) <= envelope.REMEMBERED
