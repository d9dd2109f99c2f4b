"""LIKE patterns in the languages of stores, with SQLite's own LIKE as second opinion."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.components.like import (
    MAX_PATTERN,
    check_like,
    like_to_redis_glob,
    like_to_regex,
    like_to_sqlite_glob,
)
from pillion.errors import ComponentError

ALPHABET = "ab%_\\*?[]^-\n"


@pytest.fixture(scope="module")
def database() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:")
    db.execute("PRAGMA case_sensitive_like = ON")
    return db


@given(pattern=st.text(ALPHABET, min_size=1, max_size=8), text=st.text(ALPHABET, max_size=8))
def test_translations_match_what_like_matches(database: sqlite3.Connection, pattern: str, text: str) -> None:
    """Regular expression and GLOB agree with `LIKE … ESCAPE '\\'`; a pattern that ends in its escape is refused."""
    if pattern.replace("\\\\", "").endswith("\\"):
        with pytest.raises(ComponentError):
            check_like(pattern)
        return
    [wanted] = database.execute("SELECT ? LIKE ? ESCAPE '\\'", (text, pattern)).fetchone()
    [glob] = database.execute("SELECT ? GLOB ?", (text, like_to_sqlite_glob(pattern))).fetchone()
    assert (bool(like_to_regex(pattern).fullmatch(text)), bool(glob)) == (bool(wanted), bool(wanted))


@pytest.mark.parametrize(("like", "glob"), [("a%_b", "a*?b"), ("\\%[x]^*", "%\\[x\\]\\^\\*"), ("\\\\", "\\\\")])
def test_redis_globs(like: str, glob: str) -> None:
    assert like_to_redis_glob(like) == glob


@pytest.mark.parametrize("pattern", ["", "x" * (MAX_PATTERN + 1), "\\"])
def test_bad_patterns_are_refused(pattern: str) -> None:
    for translate in (check_like, like_to_regex, like_to_sqlite_glob, like_to_redis_glob):
        with pytest.raises(ComponentError):
            translate(pattern)


def test_many_wildcards_end() -> None:
    """No pattern makes matching explode."""
    assert not like_to_regex("%a" * 12 + "b").fullmatch("a" * 40)
