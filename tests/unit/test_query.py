"""The query language: what it refuses, and that SQL finds what its definition finds."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillion.components.memory import MemoryState
from pillion.components.postgresql import PostgresState1
from pillion.components.sqlite import SqliteState
from pillion.errors import QueryInvalid
from pillion.kinds.component import Context
from pillion.kinds.query import MAX_PAGE, Compare, Op, Order, Parsed, matches, parse
from pillion.kinds.state import Query, Set

if TYPE_CHECKING:
    from servers import PostgresServer


def test_a_whole_query() -> None:
    text = b'{"Filter":{"EQ":{"a.b":1}},"SORT":[{"key":"c","order":"desc"}],"page":{"limit":5,"token":"10"},"more":0}'
    assert parse(text) == Parsed(Compare(Op.EQ, ("a", "b"), 1), (Order(("c",), True),), 5, 10)
    assert (
        parse(b"{}") == parse(b'{"filter":{},"page":{"limit":0,"token":""},"sort":[]}') == Parsed(None, (), MAX_PAGE, 0)
    )
    assert parse(b'{"page":{"limit":1000000}}').limit == MAX_PAGE


def nested(depth: int) -> dict[str, Any]:
    return {"EQ": {"a": 1}} if depth == 1 else {"AND": [nested(depth - 1)]}


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ([], "must be an object"),
        ({"filter": []}, None),
        ({"filter": 7}, "must be an object"),
        ({"filter": {"EQ": {"a": 1}, "IN": {"a": [1]}}}, "exactly one member, not 2"),
        ({"filter": {"eq": {"a": 1}}}, "unknown operator 'eq'; there are EQ, NEQ"),
        ({"filter": {"EQ": {"a": [1]}}}, "EQ compares with strings"),
        ({"filter": {"EQ": {}}}, "exactly one member, not 0"),
        ({"filter": {"EQ": "a"}}, "must be an object"),
        ({"filter": {"GT": {"a": "b"}}}, "GT compares numbers"),
        ({"filter": {"LTE": {"a": True}}}, "LTE compares numbers"),
        ({"filter": {"IN": {"a": []}}}, "IN takes a list"),
        ({"filter": {"IN": {"a": list(range(1001))}}}, "more than 1000 values"),
        ({"filter": {"AND": []}}, "AND takes a list"),
        ({"filter": {"OR": {"EQ": {"a": 1}}}}, "OR takes a list"),
        ({"filter": nested(17)}, "deeper than 16"),
        ({"filter": {"OR": [{"EQ": {"a": 1}}] * 256}}, "more than 256 conditions"),
        ({"filter": {"EQ": {"a..b": 1}}}, "empty step"),
        ({"filter": {"EQ": {"": 1}}}, "1 to 256 characters"),
        ({"filter": {"EQ": {"a" * 257: 1}}}, "1 to 256 characters"),
        ({"filter": {"EQ": {'a"]': 1}}}, "cannot have"),
        ({"sort": {"key": "a"}}, "sort must be a list"),
        ({"sort": [{"key": "a"}] * 9}, "up to 8 keys"),
        ({"sort": [{"key": "a", "order": "up"}]}, "ASC or DESC"),
        ({"sort": [{}]}, "a key is a path"),
        ({"page": []}, None),
        ({"page": 3}, "page must be an object"),
        ({"page": {"limit": -1}}, "limit must be"),
        ({"page": {"limit": True}}, "limit must be"),
        ({"page": {"token": "-1"}}, "token is not one"),
        ({"page": {"token": "9" * 5000}}, "token is not one"),
        ({"page": {"token": 3}}, "token is not one"),
        ({"filter": {"EQ": {"a": "x" * (256 << 10)}}}, "longer than"),
    ],
)
def test_what_is_refused(query: object, text: str | None) -> None:
    """Each with a text that names the mistake. Empty lists stand for nothing."""
    document = json.dumps(query).encode()
    if text is None:
        assert parse(document) == parse(b"{}")
        return
    with pytest.raises(QueryInvalid, match=text):
        parse(document)


@pytest.mark.parametrize("text", [b"", b"{", b"[" * 100_000, b"\xff", b'{"filter":{"EQ":{"a":1e999}}}'])
def test_what_is_no_json(text: bytes) -> None:
    with pytest.raises(QueryInvalid):
        parse(text)


def test_types_are_never_mixed() -> None:
    """A boolean is no number, a number no text, and what is missing is not even unequal."""
    document = {"n": 1, "t": "1", "b": True, "z": None, "o": {"n": 2}, "l": [1]}

    def found(query: dict[str, Any]) -> bool:
        return matches(parse(json.dumps({"filter": query}).encode()).where, document)

    assert found({"EQ": {"n": 1.0}})
    assert found({"EQ": {"z": None}})
    assert found({"EQ": {"o.n": 2}})
    assert found({"NEQ": {"l": 1}})
    for query in (
        {"EQ": {"b": 1}}, {"EQ": {"n": True}}, {"EQ": {"t": 1}}, {"EQ": {"n": "1"}}, {"EQ": {"missing": None}},
        {"NEQ": {"missing": 1}}, {"GT": {"b": 0}}, {"GT": {"t": 0}}, {"EQ": {"l.0": 1}}, {"EQ": {"n.o": 1}},
    ):  # fmt: skip
        assert not found(query), query


NAMES = st.sampled_from(["a", "b", "c d", "0", "ä", "a'"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(".".join)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), max_size=4)
NUMBERS = st.integers(-3, 3) | st.floats(-4, 4, allow_nan=False).map(lambda number: round(number, 2))
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS | st.sampled_from(["", "a", "A", "1", "true", "null"])
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.dictionaries(NAMES, inner, max_size=3) | st.lists(inner, max_size=2), max_leaves=8
)
CONDITIONS = (
    st.builds(lambda op, path, value: {op: {path: value}}, st.sampled_from(["EQ", "NEQ"]), PATHS, SCALARS)
    | st.builds(
        lambda op, path, value: {op: {path: value}}, st.sampled_from(["GT", "GTE", "LT", "LTE"]), PATHS, NUMBERS
    )
    | st.builds(lambda path, values: {"IN": {path: values}}, PATHS, st.lists(SCALARS, min_size=1, max_size=3))
)
FILTERS = st.recursive(
    CONDITIONS,
    lambda inner: st.builds(
        lambda op, parts: {op: parts}, st.sampled_from(["AND", "OR"]), st.lists(inner, min_size=1, max_size=10)
    ),
    max_leaves=12,
)
SORTS = st.lists(
    st.builds(lambda path, order: {"key": path, "order": order}, PATHS, st.sampled_from(["ASC", "DESC"])), max_size=2
)
ASKED = st.tuples(st.lists(DOCUMENTS, max_size=8), FILTERS, SORTS)


def agree(store: Any, cases: list[tuple[list[Any], dict[str, Any], list[dict[str, str]]]]) -> None:
    """A store answers each query as the one in memory does, the order included."""

    async def run() -> None:
        await store.open()
        try:
            for number, (documents, where, sort) in enumerate(cases):
                prefix = f"{number}||"
                memory = MemoryState(MemoryState.Settings(), Context("m"))
                for at, document in enumerate(documents):
                    value = orjson.dumps(document, option=orjson.OPT_SORT_KEYS)
                    for each in (store, memory):
                        await each.set(Set(f"{prefix}{at}", value, is_json=True))
                asked = Query(orjson.dumps({"filter": where, "sort": sort}), prefix=prefix)
                theirs, ours = [await each.query(asked) for each in (store, memory)]
                assert [item.key for item in theirs.items] == [item.key for item in ours.items], (
                    documents,
                    where,
                    sort,
                )
        finally:
            await store.close()

    asyncio.run(run())


@settings(max_examples=25, deadline=None)
@given(st.lists(ASKED, min_size=10, max_size=20))
def test_sqlite_agrees(cases: list[Any]) -> None:
    agree(SqliteState(SqliteState.Settings(connection_string=":memory:"), Context("s")), cases)


@pytest.mark.postgresql
def test_postgresql_agrees(postgres_server: PostgresServer) -> None:
    made = 0

    @settings(max_examples=12, deadline=None)
    @given(st.lists(ASKED, min_size=5, max_size=10))
    def check(cases: list[Any]) -> None:
        nonlocal made
        made += 1
        chosen = PostgresState1.Settings(
            connection_string=postgres_server.dsn, table_name=f"query{made}", metadata_table_name="query_meta"
        )
        agree(PostgresState1(chosen, Context("p")), cases)

    check()


def test_a_thousand_values_fit_into_one_statement() -> None:
    many = {"IN": {"a": list(range(999, -1, -1))}}
    agree(
        SqliteState(SqliteState.Settings(connection_string=":memory:"), Context("s")),
        [([{"a": 5}, {"a": -5}], many, [])],
    )
