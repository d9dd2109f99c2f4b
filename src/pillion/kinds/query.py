"""The query language of state stores: from its JSON text to a checked tree, and what the tree means (docs/state.md).

    {"filter": {"AND": [{"EQ": {"person.org": "Ops"}}, {"GT": {"age": 30}}]},
     "sort": [{"key": "age", "order": "DESC"}], "page": {"limit": 10, "token": "20"}}

The meaning is written once, in `matches` and `select`, which evaluate in memory; stores that translate a tree answer
the same. Values are compared within their type alone: a number never equals a string, what is missing equals nothing.
Knows: the language and its bounds. Never knows: any store.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from pillion.errors import QueryInvalid

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Row = TypeVar("Row")

MAX_PAGE = 1000
"""Rows of a page, also where no limit is given; the token leads to the rest."""
MAX_DOCUMENT = 256 << 10
MAX_DEPTH = 16
MAX_CONDITIONS = 256
MAX_VALUES = 1000
"""Values of one IN."""
MAX_SORTS = 8
MAX_PATH = 256
MAX_OFFSET = 10**9
_UNUSABLE = frozenset('"\\<>&\u2028\u2029')
"""Characters that stores write in more than one way inside JSON."""

Scalar = str | int | float | bool | None
Path = tuple[str, ...]
Number = int | float


class Op(StrEnum):
    """The comparisons. The last four are for numbers."""

    EQ = "EQ"
    NEQ = "NEQ"
    GT = "GT"
    GTE = "GTE"
    LT = "LT"
    LTE = "LTE"


ORDERED = frozenset({Op.GT, Op.GTE, Op.LT, Op.LTE})


@dataclass(frozen=True, slots=True)
class Compare:
    """`EQ`, `NEQ` and so on: there is a value at `path`, and it compares so with `value`."""

    op: Op
    path: Path
    value: Scalar


@dataclass(frozen=True, slots=True)
class OneOf:
    """`IN`: the value at `path` equals one of `values`."""

    path: Path
    values: tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class Every:
    """`AND`."""

    parts: tuple[Filter, ...]


@dataclass(frozen=True, slots=True)
class Some:
    """`OR`."""

    parts: tuple[Filter, ...]


Filter = Compare | OneOf | Every | Some


@dataclass(frozen=True, slots=True)
class Order:
    """One key of the sort."""

    path: Path
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Parsed:
    """A checked query. `where` None: every row. `offset` is the number of rows of the pages before."""

    where: Filter | None
    order: tuple[Order, ...]
    limit: int
    offset: int

    def token(self, found: int, more: bool) -> str:
        """Return the token of the page after one of `found` rows."""
        return str(self.offset + found) if more else ""


# --- reading -------------------------------------------------------------------------------------------------------


def parse(document: bytes) -> Parsed:
    """Return the checked query. Raises `QueryInvalid`, its text for whoever wrote the query."""
    if len(document) > MAX_DOCUMENT:
        raise QueryInvalid(f"the query is longer than {MAX_DOCUMENT} bytes")
    try:
        value = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise QueryInvalid(f"the query is not JSON: {error}") from error
    fields = {name.lower(): part for name, part in _object(value, "the query").items()}
    where = fields.get("filter")
    page = _object(fields.get("page") or {}, "page")
    return Parsed(
        _Reader().filter(where, 1) if where else None,
        _sorts(fields.get("sort")),
        _limit(page.get("limit")),
        _offset(page.get("token")),
    )


class _Reader:
    """Reads one filter, counting what it has read."""

    def __init__(self) -> None:
        self._conditions = 0

    def filter(self, value: Any, depth: int) -> Filter:
        if depth > MAX_DEPTH:
            raise QueryInvalid(f"filters are nested deeper than {MAX_DEPTH}")
        self._conditions += 1
        if self._conditions > MAX_CONDITIONS:
            raise QueryInvalid(f"the filter has more than {MAX_CONDITIONS} conditions")
        name, inner = _single(value, "a filter")
        if name in ("AND", "OR"):
            if not isinstance(inner, list) or not inner:
                raise QueryInvalid(f"{name} takes a list of filters")
            parts = tuple(self.filter(part, depth + 1) for part in inner)
            return Every(parts) if name == "AND" else Some(parts)
        if name == "IN":
            key, values = _single(inner, name)
            if not isinstance(values, list) or not values:
                raise QueryInvalid("IN takes a list of values")
            if len(values) > MAX_VALUES:
                raise QueryInvalid(f"IN has more than {MAX_VALUES} values")
            return OneOf(path_of(key), tuple(_scalar(one, name) for one in values))
        try:
            op = Op(name)
        except ValueError:
            known = ", ".join([*Op, "IN", "AND", "OR"])
            raise QueryInvalid(f"unknown operator {name[:50]!r}; there are {known}") from None
        key, operand = _single(inner, name)
        scalar = _scalar(operand, name)
        if op in ORDERED and not is_number(scalar):
            raise QueryInvalid(f"{name} compares numbers, and {key[:50]!r} is compared with something else")
        return Compare(op, path_of(key), scalar)


def path_of(key: object) -> Path:
    """Split `a.b.c` into its steps. Raises `QueryInvalid`."""
    if not isinstance(key, str) or not key or len(key) > MAX_PATH:
        raise QueryInvalid(f"a key is a path of 1 to {MAX_PATH} characters, as in person.name")
    steps = tuple(key.split("."))
    if not all(steps):
        raise QueryInvalid(f"the key {key!r} has an empty step")
    if any(character in _UNUSABLE or character < " " for character in key):
        raise QueryInvalid(f"the key {key!r} has a character that keys of queries cannot have")
    return steps


def _object(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise QueryInvalid(f"{what} must be an object")
    return value


def _single(value: Any, what: str) -> tuple[str, Any]:
    found = _object(value, what)
    if len(found) != 1:
        raise QueryInvalid(f"{what} must have exactly one member, not {len(found)}")
    return next(iter(found.items()))


def _scalar(value: Any, what: str) -> Scalar:
    if isinstance(value, list | dict) or (isinstance(value, float) and not math.isfinite(value)):
        raise QueryInvalid(f"{what} compares with strings, numbers, booleans and null")
    scalar: Scalar = value
    return scalar


def _sorts(value: Any) -> tuple[Order, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or len(value) > MAX_SORTS:
        raise QueryInvalid(f"sort must be a list of up to {MAX_SORTS} keys")
    found = []
    for item in value:
        fields = _object(item, "a member of sort")
        order = fields.get("order") or "ASC"
        if not isinstance(order, str) or order.upper() not in ("ASC", "DESC"):
            raise QueryInvalid("order must be ASC or DESC")
        found.append(Order(path_of(fields.get("key")), order.upper() == "DESC"))
    return tuple(found)


def _limit(value: Any) -> int:
    if value is None:
        return MAX_PAGE
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise QueryInvalid("limit must be a number of rows")
    return min(value, MAX_PAGE) if value else MAX_PAGE


def _offset(value: Any) -> int:
    if value is None or value == "":
        return 0
    if not isinstance(value, str) or not value.isascii() or not value.isdigit() or int(value[:11]) > MAX_OFFSET:
        raise QueryInvalid("the token is not one that a query of this store gave")
    return int(value)


# --- meaning -------------------------------------------------------------------------------------------------------

_MISSING = object()


def is_number(value: object) -> bool:
    """Whether a JSON value is a number; booleans are none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def matches(where: Filter | None, document: object) -> bool:
    """Whether a parsed document is wanted."""
    match where:
        case None:
            return True
        case Every(parts):
            return all(matches(part, document) for part in parts)
        case Some(parts):
            return any(matches(part, document) for part in parts)
        case OneOf(path, values):
            found = value_at(document, path)
            return any(_equal(found, value) for value in values)
        case Compare(op, path, value):
            found = value_at(document, path)
            if op is Op.EQ:
                return _equal(found, value)
            if op is Op.NEQ:
                return found is not _MISSING and not _equal(found, value)
            return is_number(found) and _ordered(op, found, value)


def value_at(document: object, path: Path) -> Any:
    """Return the value at a path, or a value that nothing equals."""
    for step in path:
        if not isinstance(document, dict) or step not in document:
            return _MISSING
        document = document[step]
    return document


def _equal(found: object, value: Scalar) -> bool:
    if is_number(found) and is_number(value):
        return found == value
    return type(found) is type(value) and found == value


def _ordered(op: Op, found: Any, value: Any) -> bool:
    match op:
        case Op.GT:
            return bool(found > value)
        case Op.GTE:
            return bool(found >= value)
        case Op.LT:
            return bool(found < value)
        case _:
            return bool(found <= value)


def rank(value: object) -> tuple[Any, ...]:
    """The place of a value in a sort: nothing, null, lists and objects; booleans; numbers; strings by code point."""
    if isinstance(value, bool):
        return 1, value
    if isinstance(value, int | float):
        return 2, value
    return (3, value) if isinstance(value, str) else (0,)


def select(
    query: Parsed, rows: Iterable[Row], *, key: Callable[[Row], str], document: Callable[[Row], object]
) -> tuple[list[Row], str]:
    """Return the page of a query over all rows, and the token of the next; rows that sort alike go by their key."""
    found = ((document(row), row) for row in rows)
    wanted = [pair for pair in found if matches(query.where, pair[0])]
    wanted.sort(key=lambda pair: key(pair[1]))
    for order in reversed(query.order):
        wanted.sort(key=partial(_place, order.path), reverse=order.descending)
    page = [row for _, row in wanted[query.offset : query.offset + query.limit]]
    return page, query.token(len(page), query.offset + len(page) < len(wanted))


def _place(path: Path, pair: tuple[object, object]) -> tuple[Any, ...]:
    return rank(value_at(pair[0], path))
