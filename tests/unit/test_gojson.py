"""JSON documents come out as Go's encoding/json writes them (spec `http-api.md` 0)."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.wire import gojson

DOCUMENTS = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ('{ "b": 1, "a": [true, null] }', '{"a":[true,null],"b":1}'),
        ("1.0", "1"),
        ("[1.5, 1e3, 1E-3]", "[1.5,1000,0.001]"),
        ("1e21", "1e+21"),
        ("12345678901234567890.0", "12345678901234567000"),
        ("-9007199254740993.0", "-9007199254740992"),
        ("1e-7", "1e-7"),
        ("123456789e-16", "1.23456789e-8"),
        ("-0.0", "-0"),
        ("9007199254740993", "9007199254740993"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ('"1.5"', '"1.5"'),
        ('{"a":1,"a":2}', '{"a":2}'),
    ],
)
def test_canonical(given_text: str, expected: str) -> None:
    assert gojson.canonical(given_text.encode()).decode() == expected


def test_exact_numbers_keep_their_spelling() -> None:
    text = b'{"a":1.00,"b":1e2,"c":12345678901234567890123}'
    assert gojson.canonical(text, exact=True) == text


def test_doubles_in_a_document_that_keeps_its_order() -> None:
    assert gojson.spelled(b'{"b":1.0,"a":[1e21,0.5,"1.0"]}') == b'{"b":1,"a":[1e+21,0.5,"1.0"]}'


def test_escapes_are_go_s() -> None:
    assert gojson.dumps({"a": "<&>\u2028"}) == b'{"a":"\\u003c\\u0026\\u003e\\u2028"}'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "EOF"),
        (b"  ", "EOF"),
        (b'{"a":', "unexpected EOF"),
        (b'"abc', "unexpected EOF"),
        (b"[1,", "unexpected EOF"),
        (b"1e310", "invalid JSON: .*infinity.*"),
        (b'{"a":[-1e999]} more', "invalid JSON: .*infinity.*"),
    ],
)
def test_truncated_documents_say_so(text: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        gojson.loads(text)


@pytest.mark.parametrize("text", [b"{a:1}", b"\xff", b"NaN", b"[1 2]", b"nul"])
def test_what_is_not_json_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError, match=r"JSON|UTF-8|EOF|literal"):
        gojson.loads(text)


def test_only_the_first_document_is_read() -> None:
    assert gojson.loads(b'{"a":1} trailing') == {"a": 1}


@given(DOCUMENTS)
def test_canonical_is_stable_and_keeps_the_value(document: object) -> None:
    once = gojson.canonical(json.dumps(document).encode())
    assert gojson.canonical(once) == once
    as_doubles = json.JSONDecoder(parse_int=float)  # as Go reads them: integers from a double have its digits alone
    assert as_doubles.decode(once.decode()) == as_doubles.decode(json.dumps(document))


def test_halves_of_pairs() -> None:
    """A half that stands alone becomes U+FFFD in keys and values, a whole pair its character; `\\\\ud800` is a text."""
    text = rb'{"\ud800": ["\ud83d\ude00 \udc00", "\\ud800", -0]}'
    assert gojson.loads(text) == {"\ufffd": ["\U0001f600 \ufffd", "\\ud800", 0]}
    assert gojson.dumps(gojson.loads_spelled(text)) == '{"\ufffd":["\U0001f600 \ufffd","\\\\ud800",-0]}'.encode()


def test_documents_that_are_too_deep_to_be_written() -> None:
    value: list[object] = []
    for _ in range(300):
        value = [value]
    for write in (gojson.dumps, gojson.sorted_bytes, gojson.dumps_canonical):
        with pytest.raises(gojson.TooNested, match="exceeded max depth"):
            write(value)


@pytest.mark.parametrize("depth", [300, 1000, 1500])
@pytest.mark.parametrize("number", ["1", "1.0"])
def test_documents_that_are_too_deep_to_be_read(depth: int, number: str) -> None:
    text = ("[" * depth + number + "]" * depth).encode()
    with pytest.raises(ValueError, match=r"max depth|depth limit"):
        gojson.canonical(text)
    with pytest.raises(ValueError, match=r"max depth|depth limit"):
        gojson.dumps(gojson.loads_exact(text))
    with pytest.raises(ValueError, match=r"max depth|depth limit"):
        gojson.dumps(gojson.loads_spelled(text))
