"""SQL LIKE patterns for stores whose own matching is another: `%` any text, `_` one character, `\\` escapes.

Knows: the pattern language of `kinds.state.KeysStore.keys_like`. Never knows: which store asks.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pillion.errors import ComponentError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PATTERN = 4096
"""Characters in a pattern: longer ones are refused before anything is asked to match them."""


def _parts(pattern: str) -> Iterator[tuple[bool, str]]:
    """Yield (is wildcard, character)."""
    if not pattern:
        raise ComponentError("keys like: the pattern is empty")
    if len(pattern) > MAX_PATTERN:
        raise ComponentError(f"keys like: the pattern is longer than {MAX_PATTERN} characters")
    characters = iter(pattern)
    for character in characters:
        if character != "\\":
            yield character in "%_", character
            continue
        escaped = next(characters, None)
        if escaped is None:
            raise ComponentError("keys like: the pattern ends with its escape character")
        yield False, escaped


def check_like(pattern: str) -> str:
    """Return the pattern for a store that speaks LIKE itself; raises `ComponentError` for a malformed one."""
    for _ in _parts(pattern):
        pass
    return pattern


def like_to_regex(pattern: str) -> re.Pattern[str]:
    """Return a regular expression to be used with `fullmatch`.

    The text between two `%` is taken at its first place and never tried elsewhere (an atomic group): if any match
    exists, there is one like that, and hostile patterns cost no more than others.
    """
    pieces = [""]
    for wildcard, character in _parts(pattern):
        if wildcard and character == "%":
            pieces.append("")
        else:
            pieces[-1] += "." if wildcard else re.escape(character)
    first, *middle = pieces
    if not middle:
        return re.compile(first, re.DOTALL)
    last = middle.pop()
    return re.compile(first + "".join(f"(?>.*?{piece})" for piece in middle if piece) + f".*{last}", re.DOTALL)


def like_to_sqlite_glob(pattern: str) -> str:
    """Return a GLOB pattern (sqlite.org/lang_expr.html#glob): case-sensitive, as LIKE is elsewhere, and indexable."""
    pieces = []
    for wildcard, character in _parts(pattern):
        if wildcard:
            pieces.append("*" if character == "%" else "?")
        else:
            pieces.append(f"[{character}]" if character in "*?[" else character)
    return "".join(pieces)


def like_to_redis_glob(pattern: str) -> str:
    """Return a glob for SCAN MATCH (redis.io/commands/keys): `\\` escapes its special characters."""
    pieces = []
    for wildcard, character in _parts(pattern):
        if wildcard:
            pieces.append("*" if character == "%" else "?")
        else:
            pieces.append(f"\\{character}" if character in "*?[]\\^-" else character)
    return "".join(pieces)
