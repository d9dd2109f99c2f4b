"""Names between HTTP and gRPC: methods, headers, what may be written into a request."""

from __future__ import annotations

from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.wire.methods import (
    BadMethod,
    app_path,
    from_metadata_name,
    guarded,
    named_in_connection,
    normalise,
    safe_query,
    sendable,
    to_metadata_name,
)

METHODS = st.text(
    alphabet=st.one_of(st.sampled_from("/.%2eE#?ab~ é"), st.characters(exclude_categories=["Cs"])), max_size=40
)


@pytest.mark.parametrize(
    ("given_method", "clean"),
    [
        ("", ""),
        ("a/b", "a/b"),
        ("a//b/", "a/b"),
        ("./a/./b", "a/b"),
        ("a/../../b", "b"),
        ("../../x", "x"),
        ("..", ""),
        (".", ""),
        ("/a/../b", "/b"),
        (".hidden/file", ".hidden/file"),
        ("a b/é", "a b/é"),
        ("a..b/c.", "a..b/c."),
    ],
)
def test_methods_become_clean_paths(given_method: str, clean: str) -> None:
    """`grpc-api.md` 5: POSIX path clean, leading `../` stripped, `.` is empty."""
    assert normalise(given_method) == clean


@pytest.mark.parametrize("bad", ["a#b", "a?b", "a\0b", "a\nb", "\x7f"])
def test_forbidden_characters(bad: str) -> None:
    """`grpc-api.md` 5: `#`, `?`, NUL, controls and DEL are refused."""
    with pytest.raises(BadMethod, match="invalid method"):
        normalise(bad)


@given(METHODS)
def test_normalising_never_leaves_the_root_and_is_idempotent(method: str) -> None:
    try:
        clean = normalise(method)
    except BadMethod:
        return
    assert normalise(clean) == clean
    segments = clean.removeprefix("/").split("/")
    assert ".." not in segments
    assert "." not in segments
    assert clean in ("", "/") or "" not in segments


@given(METHODS)
def test_paths_of_applications_are_plain_ascii_and_mean_the_method(method: str) -> None:
    try:
        clean = normalise(method)
        path = app_path(clean)
    except BadMethod:
        return
    assert path.startswith(b"/")
    assert all(32 < byte < 127 for byte in path)
    assert b"?" not in path
    assert b"#" not in path
    assert unquote_to_bytes(path).lstrip(b"/") == unquote_to_bytes(clean).lstrip(b"/")


@given(METHODS)
def test_what_rules_see_is_what_an_application_serves(method: str) -> None:
    """No number of escapes shows the rules another path than the application, which decodes once."""
    try:
        seen = guarded(normalise(method))
    except BadMethod:
        return
    assert normalise(seen) == seen
    assert ".." not in seen.split("/")


def test_escapes_cannot_pass_the_rules() -> None:
    assert guarded("public/%2e%2e/admin") == "admin"
    assert guarded("public%252f..%252fadmin") == "admin"
    with pytest.raises(BadMethod):
        guarded("a%2523b")
    with pytest.raises(BadMethod):
        guarded("%" + "25" * 20 + "41")


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("", b"/"),
        ("a/b", b"/a/b"),
        ("/a", b"/a"),
        ("a b", b"/a%20b"),
        ("a%20b", b"/a%20b"),
        ("é", b"/%C3%A9"),
        ("a!(b)", b"/a!(b)"),
    ],
)
def test_paths_of_applications(method: str, path: bytes) -> None:
    assert app_path(method) == path


def test_a_lone_percent_is_no_path() -> None:
    """`http-api.md` 4.1: a bare `%` fails when the application's URL is built."""
    with pytest.raises(BadMethod, match='invalid URL escape "%zz"'):
        app_path("a%zz")


def test_metadata_names() -> None:
    """`grpc-api.md` 5: HTTP's own names get the prefix on their way to gRPC, gRPC's own on their way to HTTP."""
    assert to_metadata_name(b"content-type") == b"dapr-content-type"
    assert to_metadata_name(b"x-mine") == b"x-mine"
    assert from_metadata_name(b":authority") == b"dapr-authority"
    assert from_metadata_name(b"grpc-timeout") == b"dapr-grpc-timeout"
    assert from_metadata_name(b"x-mine") == b"x-mine"


def test_connection_names_hop_by_hop_headers() -> None:
    assert named_in_connection(b"keep-alive, X-Secret ,close") == {b"x-secret"}


def test_headers_that_would_smuggle_lines() -> None:
    assert sendable(b"x-a", b"fine")
    assert not sendable(b"x-a", b"a\r\nb: c")
    assert not sendable(b"x a", b"fine")
    assert not sendable(b"", b"fine")


@given(st.binary(max_size=40))
def test_queries_are_safe_for_a_request_line(query: bytes) -> None:
    safe = safe_query(query)
    assert all(32 < byte < 127 and byte != 35 for byte in safe)
    assert safe_query(safe) == safe
