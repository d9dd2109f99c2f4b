"""The contract kit of state stores: what a store must do to be one, feature by feature.

Run it against your own component; every check takes an open store and leaves nothing behind but keys under a prefix
of its own. `run` raises `Skipped` when the store does not declare what the check is about:

    @pytest.mark.parametrize("check", state_kit.CHECKS, ids=repr)
    def test_kit(check):
        asyncio.run(check.run(open_my_store))

Knows: `kinds.state`. Never knows: any store, or a test framework. A failure is an AssertionError.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pillion.errors import ComponentError, EtagInvalid, EtagMismatch, QueryInvalid
from pillion.kinds.query import parse, select
from pillion.kinds.state import (
    BulkGetStore,
    Delete,
    Feature,
    Get,
    KeysStore,
    Query,
    QueryResult,
    QueryStore,
    Set,
    StateStore,
    TransactionalStore,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    Body = Callable[[Any, str], Awaitable[None]]

PATIENCE_S = 90.0
"""How long a store may take to hide a row whose time is over."""

AWKWARD = ("plain", "key||with||bars", "Grüße/☃", "a*b?c[d]e", "100%_sure\\", "quote'\"", "sp ace\n", "{slot}x")
"""Keys that have a meaning in some store's own language."""


class Skipped(Exception):
    """The store does not declare the feature that the check is about."""


@dataclass(frozen=True)
class Check:
    """One fact about stores. `needs` are the features without which it does not apply."""

    name: str
    needs: tuple[Feature, ...]
    body: Body

    async def run(self, opened: Callable[[], AbstractAsyncContextManager[StateStore]]) -> None:
        """Open a store, check it, close it. Raises `Skipped`, or AssertionError."""
        async with opened() as store:
            if not set(self.needs) <= store.features:
                raise Skipped(f"{type(store).__name__} does not declare {', '.join(self.needs)}")
            await self.body(store, f"kit-{secrets.token_hex(6)}||")

    def __repr__(self) -> str:
        return self.name


CHECKS: list[Check] = []
"""Every check, in the order of this page."""


def _check(*needs: Feature) -> Callable[[Body], Body]:
    def add(body: Body) -> Body:
        CHECKS.append(Check(body.__name__, needs, body))
        return body

    return add


def expect(true: object, what: str) -> None:
    """Raise AssertionError with `what` unless `true` is."""
    if not true:
        raise AssertionError(what)


def same(got: object, wanted: object, what: str) -> None:
    """Raise AssertionError unless both are equal."""
    expect(got == wanted, f"{what}: got {got!r}, wanted {wanted!r}")


async def fails(call: Awaitable[object], kind: type[Exception] | tuple[type[Exception], ...], what: str) -> Exception:
    """Return the exception of `kind` that the call must raise."""
    try:
        await call
    except kind as error:
        return error
    raise AssertionError(f"{what}: succeeded")


async def value_of(store: StateStore, key: str) -> bytes | None:
    return (await store.get(Get(key))).value


async def etag_of(store: StateStore, key: str) -> str:
    etag = (await store.get(Get(key))).etag
    expect(etag, f"{key!r} has no etag")
    return str(etag)


async def gone(store: StateStore, key: str) -> None:
    """Return when the store has hidden an expired row."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await value_of(store, key) is None:
                return
            await asyncio.sleep(0.1)


@_check()
async def a_missing_key_is_empty(store: StateStore, p: str) -> None:
    found = await store.get(Get(p + "none"))
    same((found.value, found.etag, dict(found.metadata)), (None, None, {}), "a missing key")
    await store.delete(Delete(p + "none"))


@_check()
async def bytes_come_back_as_they_went(store: StateStore, p: str) -> None:
    for value in (b"", b"text", b'"quoted"', bytes(range(256)), b"\xff\xfe" * 50_000, b"<&>"):
        await store.set(Set(p + "bytes", value))
        same(await value_of(store, p + "bytes"), value, "bytes")


@_check()
async def json_comes_back_as_an_equal_document(store: StateStore, p: str) -> None:
    documents: tuple[Any, ...] = ({"a": "<b> & \u2028", "n": [1, 2.5, None, True]}, "text", 17, [], None)
    for document in documents:
        text = json.dumps(document, separators=(",", ":"), sort_keys=True, ensure_ascii=False).encode()
        await store.set(Set(p + "json", text, is_json=True))
        value = await value_of(store, p + "json")
        expect(value is not None, "JSON is gone")
        same(json.loads(value or b""), document, "JSON")


@_check()
async def a_large_value_is_kept_whole(store: StateStore, p: str) -> None:
    value = secrets.token_bytes(1 << 20)
    await store.set(Set(p + "large", value))
    same(await value_of(store, p + "large") == value, True, "a value of 1 MiB")


@_check()
async def awkward_keys_are_distinct(store: StateStore, p: str) -> None:
    for number, key in enumerate(AWKWARD):
        await store.set(Set(p + key, str(number).encode()))
    for number, key in enumerate(AWKWARD):
        same(await value_of(store, p + key), str(number).encode(), f"key {key!r}")
    for key in AWKWARD:
        await store.delete(Delete(p + key))
        same(await value_of(store, p + key), None, f"key {key!r} after delete")


@_check()
async def the_last_write_stays(store: StateStore, p: str) -> None:
    for concurrency, consistency in (("", ""), ("last-write", "strong"), ("", "eventual")):
        value = f"{concurrency} {consistency}".encode()
        await store.set(Set(p + "k", value, concurrency=concurrency, consistency=consistency))
        same(await value_of(store, p + "k"), value, "value after a write")
    for number in range(100):
        await store.set(Set(p + "k", str(number).encode()))
    same(await value_of(store, p + "k"), b"99", "value after many writes")


@_check()
async def unknown_options_are_refused(store: StateStore, p: str) -> None:
    for call in (store.set(Set(p + "k", b"v", concurrency="maybe")), store.set(Set(p + "k", b"v", consistency="weak"))):
        error = await fails(call, ComponentError, "unknown option")
        expect(not isinstance(error, EtagMismatch | EtagInvalid), "an unknown option is no etag error")


@_check()
async def many_callers_at_once_get_their_own_answers(store: StateStore, p: str) -> None:
    keys = [f"{p}{number}" for number in range(200)]
    await asyncio.gather(*(store.set(Set(key, key.encode())) for key in keys))
    values = await asyncio.gather(*(value_of(store, key) for key in keys))
    same(values, [key.encode() for key in keys], "values")


@_check(Feature.ETAG)
async def an_etag_changes_with_each_write(store: StateStore, p: str) -> None:
    seen = set()
    for _ in range(5):
        await store.set(Set(p + "k", b"same"))
        seen.add(await etag_of(store, p + "k"))
    same(len(seen), 5, "different etags")


@_check(Feature.ETAG)
async def an_etag_guards_a_write(store: StateStore, p: str) -> None:
    await store.set(Set(p + "k", b"1", etag=""))
    etag = await etag_of(store, p + "k")
    await store.set(Set(p + "k", b"2", etag=etag))
    await fails(store.set(Set(p + "k", b"3", etag=etag)), EtagMismatch, "set with a stale etag")
    await fails(store.set(Set(p + "k", b"3", etag=etag, concurrency="first-write")), EtagMismatch, "the same")
    await fails(store.set(Set(p + "k", b"3", etag="no etag of yours")), (EtagMismatch, EtagInvalid), "strange etag")
    await fails(
        store.set(Set(p + "other", b"3", etag=etag)), EtagMismatch, "etag for a missing key"
    ) if etag != "1" else None
    same(await value_of(store, p + "k"), b"2", "value after refused writes")


@_check(Feature.ETAG)
async def an_etag_guards_a_delete(store: StateStore, p: str) -> None:
    await store.set(Set(p + "k", b"1"))
    stale = await etag_of(store, p + "k")
    await store.set(Set(p + "k", b"2"))
    await fails(store.delete(Delete(p + "k", etag=stale)), EtagMismatch, "delete with a stale etag")
    await fails(store.delete(Delete(p + "k", etag="no etag")), (EtagMismatch, EtagInvalid), "delete, strange etag")
    same(await value_of(store, p + "k"), b"2", "value after refused deletes")
    await store.delete(Delete(p + "k", etag=await etag_of(store, p + "k")))
    same(await value_of(store, p + "k"), None, "value after delete")


@_check(Feature.ETAG)
async def one_of_many_wins_with_the_same_etag(store: StateStore, p: str) -> None:
    await store.set(Set(p + "k", b"start"))
    etag = await etag_of(store, p + "k")
    calls = [store.set(Set(p + "k", str(number).encode(), etag=etag)) for number in range(20)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    winners = [number for number, result in enumerate(results) if result is None]
    same(len(winners), 1, "winners")
    expect(all(isinstance(result, EtagMismatch) for result in results if result is not None), "losers see a mismatch")
    same(await value_of(store, p + "k"), str(winners[0]).encode(), "the winner's value")


@_check(Feature.ETAG)
async def the_first_write_stays(store: StateStore, p: str) -> None:
    calls = [store.set(Set(p + "k", str(number).encode(), concurrency="first-write")) for number in range(20)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    winners = [number for number, result in enumerate(results) if result is None]
    same(len(winners), 1, "first writers")
    expect(all(isinstance(result, ComponentError) for result in results if result is not None), "the others fail")
    same(await value_of(store, p + "k"), str(winners[0]).encode(), "the first value")
    await store.set(Set(p + "k", b"next", etag=await etag_of(store, p + "k"), concurrency="first-write"))
    same(await value_of(store, p + "k"), b"next", "first-write with the right etag")


@_check(Feature.TTL)
async def a_row_expires(store: Any, p: str) -> None:
    """All that waits for time to pass is in this one check."""
    short, listed, never, zero = (p + name for name in ("short", "listed", "never", "zero"))
    stale: str | None = None
    while stale is None:  # a slow machine may be too late to read it
        await store.set(Set(short, b"v", metadata={"ttlInSeconds": "1"}))
        stale = (await store.get(Get(short))).etag if Feature.ETAG in store.features else ""
    await store.set(Set(zero, b"v", metadata={"ttlInSeconds": "0"}))
    await store.set(Set(never, b"v", metadata={"ttlInSeconds": "100"}))
    await store.set(Set(never, b"v", metadata={"TTLINSECONDS": "-1"}))
    if Feature.TRANSACTIONAL in store.features:
        ttl = {"ttlInSeconds": "1"}
        await store.transact([Set(listed, b"1", metadata=ttl), Set(p + "same transaction", b"2")], {})
    await gone(store, short)
    await gone(store, listed)
    same(await value_of(store, zero), b"v", "ttl 0")
    same(dict((await store.get(Get(never))).metadata), {}, "metadata of a row whose ttl was taken back")
    if isinstance(store, BulkGetStore):
        same([one.value for one in await store.bulk_get([Get(short)])], [None], "bulk get of an expired row")
    if Feature.KEYS_LIKE in store.features:
        keys, _ = await store.keys_like(p + "%")
        expect(set(keys) & {short, listed, never, zero} == {never, zero}, f"keys listed: {keys!r}")
    if Feature.TRANSACTIONAL in store.features:
        same(await value_of(store, p + "same transaction"), b"2", "the row of the transaction without ttl")
    if Feature.ETAG in store.features:
        if not stale.isdigit():  # numbers may begin anew
            await fails(store.set(Set(short, b"x", etag=stale)), EtagMismatch, "the etag of an expired row")
        await store.set(Set(short, b"again", concurrency="first-write"))
        same(await value_of(store, short), b"again", "first write over an expired row")


@_check(Feature.TTL)
async def the_time_of_expiry_is_told_in_rfc_3339(store: StateStore, p: str) -> None:
    await store.set(Set(p + "k", b"v", metadata={"ttlInSeconds": "3600"}))
    found = await store.get(Get(p + "k"))
    told = found.metadata.get("ttlExpireTime")
    if told is not None:
        expect(told.endswith("Z"), f"{told!r} is not UTC")
        left = datetime.fromisoformat(told).timestamp() - datetime.now().timestamp()
        expect(3000 < left < 4200, f"{left} seconds are left of 3600")


@_check(Feature.TTL)
async def a_bad_ttl_is_refused(store: StateStore, p: str) -> None:
    for text in ("-2", "soon", "1.5", str(2**31)):
        await fails(store.set(Set(p + "k", b"v", metadata={"ttlInSeconds": text})), ComponentError, f"ttl {text}")
    same(await value_of(store, p + "k"), None, "value after refused writes")


@_check(Feature.TRANSACTIONAL)
async def a_transaction_applies_in_order(store: TransactionalStore, p: str) -> None:
    await store.set(Set(p + "gone", b"v"))
    await store.transact(
        [Set(p + "a", b"1"), Delete(p + "gone"), Set(p + "a", b"2"), Set(p + "b", b"x"), Delete(p + "b")], {}
    )
    same([await value_of(store, p + key) for key in ("a", "gone", "b")], [b"2", None, None], "after the transaction")
    await store.transact([Set(p + "one", b"1")], {})
    same(await value_of(store, p + "one"), b"1", "a transaction of one")
    await store.transact([], {})


@_check(Feature.TRANSACTIONAL, Feature.ETAG)
async def a_failed_transaction_changes_nothing(store: TransactionalStore, p: str) -> None:
    await store.set(Set(p + "a", b"old"))
    stale = await etag_of(store, p + "a")
    await store.set(Set(p + "a", b"newer"))
    for last in (Set(p + "a", b"x", etag=stale), Delete(p + "a", etag=stale)):
        call = store.transact([Set(p + "b", b"1"), Delete(p + "c"), last], {})
        await fails(call, EtagMismatch, "a transaction with a stale etag")
        same([await value_of(store, p + key) for key in ("a", "b")], [b"newer", None], "after it")
    await store.transact([Set(p + "b", b"1"), Set(p + "a", b"x", etag=await etag_of(store, p + "a"))], {})
    same([await value_of(store, p + key) for key in ("a", "b")], [b"x", b"1"], "after a good one")


@_check(Feature.TRANSACTIONAL, Feature.ETAG)
async def a_failed_transaction_does_not_harm_its_neighbours(store: TransactionalStore, p: str) -> None:
    await store.set(Set(p + "guard", b"v"))
    await store.set(Set(p + "guard", b"v"))
    wrong = "7777" if (await etag_of(store, p + "guard")).isdigit() else "0b0b0b0b-0b0b-4b0b-8b0b-0b0b0b0b0b0b"
    calls = []
    for number in range(40):
        guard = [Set(p + "guard", b"w", etag=wrong)] if number % 3 == 0 else []
        calls.append(store.transact([Set(f"{p}{number}", b"v"), *guard], {}))
    results = await asyncio.gather(*calls, return_exceptions=True)
    for number, result in enumerate(results):
        kept = await value_of(store, f"{p}{number}") is not None
        same((result is None, kept), (number % 3 != 0, number % 3 != 0), f"transaction {number}")


@_check(Feature.TRANSACTIONAL)
async def a_large_transaction_is_one(store: TransactionalStore, p: str) -> None:
    count = min(store.max_operations or 300, 300)
    await store.transact([Set(f"{p}{number}", str(number).encode()) for number in range(count)], {})
    same(await value_of(store, f"{p}{count - 1}"), str(count - 1).encode(), "the last row")


@_check()
async def bulk_get_answers_every_key(store: StateStore, p: str) -> None:
    if not isinstance(store, BulkGetStore):
        raise Skipped("no bulk get of its own")
    same(await store.bulk_get([]), [], "nothing asked")
    for number in range(0, 20, 2):
        await store.set(Set(f"{p}{number}", str(number).encode()))
    found = await store.bulk_get([Get(f"{p}{number}") for number in range(20)])
    answers = {one.key: one.value for one in found}
    wanted = {f"{p}{number}": None if number % 2 else str(number).encode() for number in range(20)}
    same(answers, wanted, "bulk get")
    if Feature.ETAG in store.features:
        expect(all((one.etag is not None) == (one.value is not None) for one in found), "etags of bulk get")


@_check(Feature.KEYS_LIKE)
async def keys_are_listed_by_pattern(store: KeysStore, p: str) -> None:
    names = ["ab", "aB", "a_b", "a%b", "a*b", "axyb", "b", "a\\b", "a[b", "a?b"]
    for name in names:
        await store.set(Set(p + name, b"v"))
    cases = {
        "%": set(names),
        "a%b": {name for name in names if name.startswith("a") and name.endswith("b")},
        "a_b": {"a_b", "a%b", "a*b", "a\\b", "a[b", "a?b"},
        "a\\_b": {"a_b"},
        "a\\%b": {"a%b"},
        "a*b": {"a*b"},
        "a\\\\b": {"a\\b"},
        "a[b": {"a[b"},
        "aB": {"aB"},
        "zz%": set(),
    }
    for pattern, wanted in cases.items():
        keys, token = await store.keys_like(p + pattern)
        same(({key.removeprefix(p) for key in keys}, token), (wanted, ""), f"keys like {pattern!r}")
    for pattern in ("", p + "\\"):
        await fails(store.keys_like(pattern), ComponentError, f"pattern {pattern!r}")


@_check(Feature.KEYS_LIKE)
async def keys_are_listed_in_pages(store: KeysStore, p: str) -> None:
    wanted = {f"{p}{number}" for number in range(25)}
    for key in wanted:
        await store.set(Set(key, b"v"))
    listed: list[str] = []
    token = ""
    while True:
        page, token = await store.keys_like(p + "%", token=token, limit=10)
        expect(len(page) <= 10, "a page is no longer than its limit")
        listed += page
        if not token:
            break
    same((len(listed), set(listed)), (25, wanted), "all pages")


QUERY_METADATA = {"contentType": "application/json", "queryIndexName": "kit"}
"""What queries of the kit carry. A store that needs an index has one named `kit`, of `person.org`, `person.id`, `city`,
`state` and `note`: texts, except for the number `person.id`."""

PEOPLE: list[dict[str, Any]] = [
    {"person": {"org": "Dev Ops", "id": 1036}, "city": "Seattle", "state": "WA"},
    {"person": {"org": "Hardware", "id": 1028}, "city": "Portland", "state": "OR"},
    {"person": {"org": "Finance", "id": 1071}, "city": "Sacramento", "state": "CA"},
    {"person": {"org": "Dev Ops", "id": 1042.5}, "city": "Spokane", "state": "WA", "note": 'the <first> & "last"'},
    {"person": {"org": "Hardware", "id": 1007}, "city": "Los Angeles", "state": "CA", "note": "the"},
    {"person": {"org": "Dev", "id": -3}, "city": "São Paulo", "state": "SP", "note": "50% off, or_not"},
    {"person": {"org": "Ops Dev", "id": 0}, "city": "Zürich"},
]
QUERIES: list[dict[str, Any]] = [
    {},
    {"filter": {"EQ": {"state": "CA"}}},
    {"filter": {"EQ": {"person.org": "Dev Ops"}}},
    {"filter": {"EQ": {"person.org": "Dev"}}},
    {"filter": {"EQ": {"person.id": 1042.5}}},
    {"filter": {"EQ": {"person.id": "1036"}}},
    {"filter": {"EQ": {"city": "São Paulo"}}},
    {"filter": {"EQ": {"note": "the"}}},
    {"filter": {"EQ": {"note": 'the <first> & "last"'}}},
    {"filter": {"EQ": {"note": "50% off, or_not"}}},
    {"filter": {"EQ": {"note": "*"}}},
    {"filter": {"EQ": {"note": "') OR 1=1 --"}}},
    {"filter": {"NEQ": {"state": "CA"}}},
    {"filter": {"NEQ": {"note": "the"}}},
    {"filter": {"IN": {"state": ["CA", "WA", 7]}}},
    {"filter": {"IN": {"city": ["nowhere"]}}},
    {"filter": {"GT": {"person.id": 1036}}},
    {"filter": {"GTE": {"person.id": 1036}}},
    {"filter": {"LT": {"person.id": 0}}},
    {"filter": {"LTE": {"person.id": 0}}},
    {"filter": {"AND": [{"EQ": {"state": "WA"}}, {"GT": {"person.id": 1040}}]}},
    {
        "filter": {
            "OR": [{"EQ": {"person.org": "Hardware"}}, {"AND": [{"EQ": {"state": "WA"}}, {"LT": {"person.id": 9e9}}]}]
        }
    },
]


@_check(Feature.QUERY_API)
async def queries_mean_what_they_mean_in_memory(store: QueryStore, p: str) -> None:
    """Every store finds what `kinds.query` defines, and never a row of another prefix."""
    documents = {f"{p}{number}": document for number, document in enumerate(PEOPLE)}
    await _save_documents(store, {**documents, f"other-{p}0": PEOPLE[0], f"{p}actor||1": PEOPLE[0]})
    await store.set(Set(p + "bytes", b"\x00\xff"))
    for query in QUERIES:
        found = await _ask(store, query, p)
        parsed = parse(json.dumps(query).encode())
        wanted, _ = select(parsed, documents, key=str, document=documents.__getitem__)
        same({item.key for item in found.items} - {p + "bytes"}, set(wanted), f"query {query}")
        same(found.token, "", f"token of {query}")
        for item in found.items:
            if item.key in documents:
                same(json.loads(item.value or b""), documents[item.key], "the document")
                expect(item.etag, "rows have their etags")
    await store.delete(Delete(f"other-{p}0"))


@_check(Feature.QUERY_API)
async def queries_come_sorted_and_in_pages(store: QueryStore, p: str) -> None:
    documents = {f"{p}{number}": document for number, document in enumerate(PEOPLE)}
    await _save_documents(store, documents)
    for order, wanted in (("ASC", [5, 6, 4, 1, 0, 3, 2]), ("DESC", [2, 3, 0, 1, 4, 6, 5])):
        found: list[str] = []
        token = ""
        for _ in range(len(PEOPLE)):
            query = {"sort": [{"key": "person.id", "order": order}], "page": {"limit": 3, "token": token}}
            page = await _ask(store, query, p)
            expect(len(page.items) <= 3, "a page is no longer than its limit")
            found += [item.key.removeprefix(p) for item in page.items]
            token = page.token
            if not token:
                break
        same(found, [str(number) for number in wanted], f"rows sorted {order}")


@_check(Feature.QUERY_API)
async def bad_queries_are_refused(store: QueryStore, p: str) -> None:
    for text in ("", "[]", "{", '{"filter": {"LIKE": {"a": "b"}}}', '{"filter": {"GT": {"state": "a"}}}',
                 '{"page": {"token": "x"}}', '{"sort": [{"key": ""}]}'):  # fmt: skip
        await fails(store.query(Query(text.encode(), QUERY_METADATA, p)), QueryInvalid, f"query {text!r}")


async def _save_documents(store: StateStore, documents: dict[str, dict[str, Any]]) -> None:
    for key, document in documents.items():
        value = json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True).encode()
        await store.set(Set(key, value, metadata={"contentType": "application/json"}, is_json=True))


async def _ask(store: QueryStore, query: dict[str, Any], prefix: str) -> QueryResult:
    return await store.query(Query(json.dumps(query).encode(), QUERY_METADATA, prefix))


@_check(Feature.DELETE_WITH_PREFIX)
async def keys_are_deleted_by_prefix(store: Any, p: str) -> None:
    for key in ("a1", "a2", "b"):
        await store.set(Set(p + key, b"v"))
    same(await store.delete_with_prefix(p + "a"), 2, "deleted")
    same([await value_of(store, p + key) for key in ("a1", "b")], [None, b"v"], "left")


@_check()
async def a_store_opens_pings_and_closes(store: StateStore, p: str) -> None:
    await store.ping()
    await store.set(Set(p + "k", b"v"))
    await store.close()
    await store.close()
