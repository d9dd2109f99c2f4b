"""Configuration as rows of a table: key, value, version, metadata; several versions of a key may stand side by side.

Knows: which row counts, what metadata may look like. Never knows: databases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from pillion.errors import ComponentError
from pillion.kinds.configuration import MAX_ITEMS, Item

if TYPE_CHECKING:
    from collections.abc import Iterable

Row = tuple[str, "str | None", "str | None", "str | bytes | None"]


def newest(rows: Iterable[Row]) -> dict[str, Item]:
    """Return one item for each key: that of the highest numeric version; a version that is no number ranks below.

    Raises `ComponentError` for metadata that is no JSON object, and for too many keys.
    """
    ranks: dict[str, int] = {}
    chosen: dict[str, Row] = {}
    for row in rows:
        key, rank = row[0], _rank(row[2] or "")
        if key in ranks and ranks[key] >= rank:
            continue
        ranks[key], chosen[key] = rank, row
        if len(chosen) > MAX_ITEMS:
            raise ComponentError(f"more than {MAX_ITEMS} configuration items")
    return {
        key: Item(value or "", version or "", _metadata(key, text)) for key, value, version, text in chosen.values()
    }


def _rank(version: str) -> int:
    text = version.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 4000 else -1


def _metadata(key: str, text: str | bytes | None) -> dict[str, str]:
    if not text:
        return {}
    try:
        found = orjson.loads(text)
    except ValueError as error:
        raise ComponentError(f"the metadata of key {key!r} is not JSON: {error}") from error
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ComponentError(f"the metadata of key {key!r} is not a JSON object")
    return {name: value if isinstance(value, str) else orjson.dumps(value).decode() for name, value in found.items()}
