"""Configuration as rows of a table: key, value, version, metadata; several versions of a key may stand side by side.

Knows: which row counts, what metadata may look like. Never knows: databases.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import orjson

from pillion.errors import ComponentError
from pillion.kinds.configuration import MAX_ITEMS, Item

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger("pillion.components.configuration")
Row = tuple[str, "str | None", "str | None", "str | bytes | None"]


def newest(rows: Iterable[Row]) -> dict[str, Item]:
    """Return one item for each key: that of the highest numeric version; a version that is no number ranks below.

    Raises `ComponentError` for too many keys.
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
    """Return the pairs of a JSON object. Anything else is left out: one odd row must not stand in the way of others."""
    if not text:
        return {}
    try:
        found = orjson.loads(text)
    except ValueError:
        found = ()
    if found is None:
        return {}
    if not isinstance(found, dict):
        log.warning("the metadata of configuration key %r is not a JSON object and is left out", key)
        return {}
    return {name: value if isinstance(value, str) else orjson.dumps(value).decode() for name, value in found.items()}
