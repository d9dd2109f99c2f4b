"""One canonical path parser: what a path means is decided in one place (spec `http-api.md` 0)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.api.call import HttpCall, decode_component, parse_query
from pillion.api.operation import Http, Operation
from pillion.api.table import BadEscape, Routes, clean
from pillion.net.exchange import Response


async def _never(call: HttpCall) -> Response:
    raise AssertionError("not called")


def row(verbs: str, path: str) -> Operation:
    return Operation(path, "test", http=(Http(tuple(verbs.split()), path, _never),))


ROUTES = Routes(
    [
        row("GET DELETE", "v1.0/state/{store}/{key}"),
        row("POST PUT", "v1.0/state/{store}"),
        row("POST PUT", "v1.0/state/{store}/bulk"),
        row("GET", "v1.0/secrets/{store}/{key}"),
        row("GET", "v1.0/secrets/{store}/bulk"),
        row("POST PUT", "v1.0/publish/{pubsub}/{topic*}"),
        row("POST PUT", "v1.0/publish/bulk/{pubsub}/{topic*}"),
    ]
)


@pytest.mark.parametrize(
    ("verb", "path", "route", "params"),
    [
        ("GET", b"/v1.0/state/s/k", "v1.0/state/{store}/{key}", ("s", "k")),
        ("GET", b"/v1.0/state/s/bulk", "v1.0/state/{store}/{key}", ("s", "bulk")),
        ("POST", b"/v1.0/state/s/bulk", "v1.0/state/{store}/bulk", ("s",)),
        ("GET", b"/v1.0/secrets/s/bulk", "v1.0/secrets/{store}/bulk", ("s",)),
        ("GET", b"//v1.0/./state/x/../s/k/", "v1.0/state/{store}/{key}", ("s", "k")),
        ("GET", b"/v1.0/state/s/a%2Fb", "v1.0/state/{store}/{key}", ("s", "a/b")),
        ("GET", b"/v1.0/state/s/a+b%20c", "v1.0/state/{store}/{key}", ("s", "a b c")),
        ("POST", b"/v1.0/publish/p/a/b/", "v1.0/publish/{pubsub}/{topic*}", ("p", "a/b")),
        ("POST", b"/v1.0/publish/bulk/x", "v1.0/publish/{pubsub}/{topic*}", ("bulk", "x")),
        ("POST", b"/v1.0/publish/bulk/p/t", "v1.0/publish/bulk/{pubsub}/{topic*}", ("p", "t")),
        ("GET", "/v1.0/state/s/grün".encode(), "v1.0/state/{store}/{key}", ("s", "grün")),
    ],
)
def test_matches(verb: str, path: bytes, route: str, params: tuple[str, ...]) -> None:
    for _ in range(2):  # found, then remembered
        found = ROUTES.find(verb, path)
        assert found is not None
        assert (found[0].path, found[1]) == (route, params)


@pytest.mark.parametrize("path", [b"/", b"", b"/v1.0/state/s", b"/v1.0/state", b"/v1.0/publish/p", b"/v2.0/state/s/k"])
def test_what_no_row_has_is_no_match(path: bytes) -> None:
    assert ROUTES.find("GET", path) is None


@pytest.mark.parametrize("path", [b"/v1.0/state/s/%", b"/v1.0/state/s/%4", b"/v1.0/state/%zz/k"])
def test_a_broken_escape_names_its_parameter(path: bytes) -> None:
    with pytest.raises(BadEscape, match=r'failed to unescape request parameter "(key|store)"'):
        ROUTES.find("GET", path)


@given(st.binary(max_size=40))
def test_cleaning_is_idempotent_and_stays_below_the_root(path: bytes) -> None:
    once = clean(b"/" + path)
    assert clean(once) == once
    assert once.startswith(b"/")
    assert b".." not in once.split(b"/")


@given(st.lists(st.tuples(st.text(min_size=1), st.text())))
def test_queries_round_trip(pairs: list[tuple[str, str]]) -> None:
    from urllib.parse import quote_plus

    usable = [(k, v) for k, v in pairs if not any(0xD800 <= ord(c) <= 0xDFFF for c in k + v)]
    text = "&".join(f"{quote_plus(key)}={quote_plus(value)}" for key, value in usable)
    assert parse_query(text.encode()) == usable


def test_components_decode_as_go_does() -> None:
    assert decode_component("a%41+b") == "aA b"
    with pytest.raises(ValueError, match="invalid URL escape"):
        decode_component("%g1")
