"""Heads and chunks as bytes (`pillion.wire.http1`)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.wire import http1


def test_response_head_has_canonical_names_and_its_framing() -> None:
    """Names go out in the canonical case of HTTP applications, the framing after them."""
    head = http1.response_head(
        200, [(b"content-type", b"a/b"), (b"metadata.ttlexpiretime", b"x")], http1.content_length(3)
    )
    assert head == b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nMetadata.ttlexpiretime: x\r\nContent-Length: 3\r\n\r\n"


@pytest.mark.parametrize("name", sorted(http1.FRAMING))
def test_framing_headers_of_callers_are_left_out(name: bytes) -> None:
    """Only the writer says how a message is cut: no second Content-Length, no smuggled coding."""
    assert http1.response_head(200, [(name, b"chunked")], http1.END) == b"HTTP/1.1 200 OK\r\n\r\n"
    assert http1.request_head("GET", b"/", b"h", [(name, b"1")], http1.END) == b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize("value", [b"a\r\nX: y", b"a\nX: y", b"a\rX", b"a\0b", b"\r\n\r\n"])
def test_line_breaks_in_values_cannot_split_a_message(value: bytes) -> None:
    """RFC 9110 5.5: CR, LF and NUL are replaced in responses and refused in requests."""
    head = http1.response_head(200, [(b"a", b"1"), (b"b", value), (b"c", b"2")], http1.END)
    assert head.count(b"\r\n") == 5
    assert head.startswith(b"HTTP/1.1 200 OK\r\nA: 1\r\nB: ")
    assert head.endswith(b"\r\nC: 2\r\n\r\n")
    with pytest.raises(ValueError, match="line breaks"):
        http1.request_head("GET", b"/", b"h", [(b"b", value)], http1.END)


@pytest.mark.parametrize("name", [b"", b"a b", b"a:", b"a\r\n", b"\xc3\xa4"])
def test_names_must_be_tokens(name: bytes) -> None:
    """Left out of responses, refused in requests."""
    assert http1.response_head(200, [(name, b"x")], http1.END) == b"HTTP/1.1 200 OK\r\n\r\n"
    with pytest.raises(ValueError, match="header name"):
        http1.request_head("GET", b"/", b"h", [(name, b"x")], http1.END)


@pytest.mark.parametrize("target", [b"", b"/a b", b"/\r\n", b"/\x00", b"/\x7f"])
def test_targets_without_blanks_and_controls(target: bytes) -> None:
    with pytest.raises(ValueError, match=r"target|line breaks"):
        http1.request_head("GET", target, b"h", [], http1.END)


@pytest.mark.parametrize("method", ["", "GE T", "GET\r", "G:"])
def test_methods_must_be_tokens(method: str) -> None:
    with pytest.raises(ValueError, match=r"method|line breaks"):
        http1.request_head(method, b"/", b"h", [], http1.END)


def test_host_of_the_caller_wins() -> None:
    head = http1.request_head("GET", b"/", b"own", [(b"a", b"1"), (b"host", b"given")], http1.END)
    assert head == b"GET / HTTP/1.1\r\nHost: given\r\nA: 1\r\n\r\n"


@pytest.mark.parametrize("status", [0, 100, 101, 199, 1000, -1])
def test_interim_and_impossible_statuses_are_refused(status: int) -> None:
    with pytest.raises(ValueError, match="status"):
        http1.response_head(status, [], http1.END)


def test_unknown_status_has_some_reason() -> None:
    assert http1.response_head(299, [], http1.END) == b"HTTP/1.1 299 Status\r\n\r\n"


def test_memo_of_names_is_bounded() -> None:
    """Names come from outside: the memo stops growing."""
    for number in range(3000):
        http1.response_head(200, [(b"x-%d" % number, b"1")], http1.END)
    assert len(http1._RESPONSE_LEADS) <= http1._MEMO_LIMIT
    assert http1.response_head(200, [(b"x-2999", b"1")], http1.END) == b"HTTP/1.1 200 OK\r\nX-2999: 1\r\n\r\n"


def test_memos_of_lines_are_bounded() -> None:
    """Values come from outside too; a value that was refused once is refused again."""
    for number in range(3000):
        http1.response_head(200, [(b"x-a", b"%d" % number)], http1.END)
        http1.lower_name(b"X-%d" % number)
    assert len(http1._RESPONSE_LINES) <= http1._MEMO_LIMIT
    assert len(http1._NAMES) <= http1._MEMO_LIMIT
    for _ in range(2):
        with pytest.raises(ValueError, match="line breaks"):
            http1.request_head("GET", b"/", b"h", [(b"x-a", b"1\r\nb: 2")], http1.END)
        with pytest.raises(ValueError, match="line breaks"):
            http1.request_head("GET", b"/", b"h", [(b"host", b"h\nb: 2")], http1.END)
        assert http1.response_head(200, [(b"x-a", b"1\r\n2")], http1.END) == b"HTTP/1.1 200 OK\r\nX-A: 1  2\r\n\r\n"


def test_trailers_close_a_chunked_body() -> None:
    written: list[bytes] = []
    http1.write_chunk(written.append, b"abc")
    assert written == [b"3\r\nabc\r\n"]
    http1.write_chunk(written.append, long := b"x" * 65536)
    assert written[1:] == [b"10000\r\n", long, b"\r\n"]
    assert http1.last_chunk(None) == b"0\r\n\r\n"
    assert http1.last_chunk([(b"x-a", b"1\r\n2"), (b"content-length", b"9")]) == b"0\r\nX-A: 1  2\r\n\r\n"


def test_proxies_drop_what_belongs_to_one_hop() -> None:
    """RFC 9110 7.6.1: fixed names, and those that Connection names."""
    headers = [(b"connection", b"X-Mine, close"), (b"x-mine", b"1"), (b"te", b"trailers"), (b"a", b"b")]
    assert http1.end_to_end(headers) == [(b"a", b"b")]


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/a?b", b"/a?b"),
        (b"*", b"*"),
        (b"http://h/a", b"/a"),
        (b"HTTPS://h:1", b"/"),
        (b"http://h?x=/", b"/?x=/"),
        (b"ftp://h/a", None),
        (b"http://", None),
        (b"h:80", None),
    ],
)
def test_absolute_targets_are_accepted(target: bytes, path: bytes | None) -> None:
    """RFC 9112 3.2.2."""
    assert http1.origin_form(target) == path


@given(st.lists(st.tuples(st.binary(), st.binary()), max_size=8), st.integers(200, 999), st.integers(0, 1 << 40))
def test_no_headers_change_the_number_of_lines(headers: list[tuple[bytes, bytes]], status: int, length: int) -> None:
    """Whatever callers pass, a head is one status line, one line a field, one empty line at its very end."""
    head = http1.response_head(status, headers, http1.content_length(length))
    lines = head.split(b"\r\n")
    assert lines[-2:] == [b"", b""]
    assert b"" not in lines[:-2]
    assert not any(b"\n" in line or b"\r" in line for line in lines)
    assert len(lines) <= len(headers) + 4


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (404, "Not Found"),
        (413, "Request Entity Too Large"),
        (414, "Request URI Too Long"),
        (416, "Requested Range Not Satisfiable"),
        (418, "I'm a teapot"),
        (422, "Unprocessable Entity"),
        (599, ""),
    ],
)
def test_phrases_do_not_depend_on_the_edition_of_python(status: int, text: str) -> None:
    """They are the texts of gRPC errors made from HTTP answers (`grpc-api.md` 2, form D): clients compare them."""
    assert http1.phrase(status) == text
    assert not text or http1.status_line(status) == f"HTTP/1.1 {status} {text}".encode()
