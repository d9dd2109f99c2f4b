"""Queries on Redis, with its modules for JSON and search (spec `components.md` 2.1).

The search narrows down what is read; every row is then held against the query itself, because a full-text index knows
words, not values. Knows: indexes, and search texts that find all that is wanted and more. Never knows: connections.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from pillion.errors import QueryInvalid
from pillion.kinds.query import Compare, Every, OneOf, Op, Some, is_number, path_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pillion.kinds.query import Filter, Path, Scalar

TYPES = ("TEXT", "NUMERIC")
MAX_WORD = 64
_WORD = re.compile(r"[A-Za-z0-9]+")
_PLAIN_STEP = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BOUNDS = {Op.GT: "[{0} +inf]", Op.GTE: "[{0} +inf]", Op.LT: "[-inf {0}]", Op.LTE: "[-inf {0}]"}
"""Inclusive for all: the index rounds numbers to doubles, the exact comparison comes afterwards."""


@dataclass(frozen=True, slots=True)
class Index:
    """One index: its keys in order, and the type of each."""

    name: str
    keys: Mapping[Path, str]

    def command(self) -> list[str]:
        """Return the command that creates it. No word is left out as too common."""
        parts = ["FT.CREATE", self.name, "ON", "JSON", "STOPWORDS", "0", "SCHEMA"]
        for path, kind in self.keys.items():
            place = "".join(f".{step}" if _PLAIN_STEP.fullmatch(step) else f'["{step}"]' for step in path)
            parts += [f"$.data{place}", "AS", self.alias(path), kind, "SORTABLE"]
        return parts

    def alias(self, path: Path) -> str:
        """Return the name of a key within the index. Raises `QueryInvalid` when it is not there."""
        for number, known in enumerate(self.keys):
            if known == path:
                return f"var{number}"
        raise QueryInvalid(f"the index {self.name!r} has no key {'.'.join(path)!r}")

    def search(self, where: Filter | None) -> str:
        """Return a search text for at least the rows that are wanted."""
        return self._narrowed(where) or "*"

    def _narrowed(self, node: Filter | None) -> str:
        """Return a condition, "" where the index cannot narrow anything down."""
        match node:
            case None:
                return ""
            case Every(parts):
                found = [text for part in parts if (text := self._narrowed(part))]
                return f"({' '.join(found)})" if found else ""
            case Some(parts):
                return _any(self._narrowed(part) for part in parts)
            case OneOf(path, values):
                return _any(self._equal(path, value) for value in values)
            case Compare(Op.EQ, path, value):
                return self._equal(path, value)
            case Compare(op, path, value):
                alias = self.alias(path)
                if op is Op.NEQ or self.keys[path] != "NUMERIC":
                    return ""
                return f"@{alias}:{_BOUNDS[op].format(orjson.dumps(value).decode())}"

    def _equal(self, path: Path, value: Scalar) -> str:
        alias = self.alias(path)
        if is_number(value) and self.keys[path] == "NUMERIC":
            number = orjson.dumps(value).decode()
            return f"@{alias}:[{number} {number}]"
        if isinstance(value, str) and self.keys[path] == "TEXT":
            # Words that any tokenizer leaves whole; others are left to the comparison afterwards.
            words = [word for word in value.split() if _WORD.fullmatch(word) and len(word) <= MAX_WORD]
            return f"@{alias}:({' '.join(words)})" if words else ""
        return ""


def _any(conditions: Iterable[str]) -> str:
    found = list(conditions)
    return f"({'|'.join(found)})" if all(found) else ""


def read_indexes(text: str) -> tuple[Index, ...]:
    """Read `queryIndexes`: `[{"name", "indexes": [{"key", "type"}]}]`. Raises ValueError."""
    if not text.strip():
        return ()
    rows = orjson.loads(text)
    if not isinstance(rows, list):
        raise ValueError("must be a list of indexes")
    found = []
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("name"), str) or not row["name"]:
            raise ValueError("an index has no name")
        keys: dict[Path, str] = {}
        for item in row.get("indexes") or []:
            kind = item.get("type") if isinstance(item, dict) else None
            if kind not in TYPES:
                raise ValueError(f"the index {row['name']!r} has a key whose type is none of {', '.join(TYPES)}")
            try:
                keys[path_of(item.get("key"))] = kind
            except QueryInvalid as error:
                raise ValueError(str(error)) from error
        if not keys:
            raise ValueError(f"the index {row['name']!r} has no keys")
        found.append(Index(row["name"], keys))
    return tuple(found)


def found_rows(reply: list[Any]) -> list[tuple[str, bytes | None, str]]:
    """Return key, document and version of each row of a reply; a document that has just gone is None."""
    rows = []
    for name, fields in zip(reply[1::2], reply[2::2], strict=True):
        named = dict(zip(fields[::2], fields[1::2], strict=True)) if fields else {}
        version = named.get(b"$.version")
        rows.append((name.decode(errors="replace"), named.get(b"$.data"), version.decode() if version else ""))
    return rows
