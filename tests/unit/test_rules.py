"""Routing rules: the shortcut and the CEL library agree, errors name the expression (spec `runtime.md` 2.4)."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from pillion.errors import ConfigError, MissingExtra
from pillion.kinds import rules
from pillion.kinds.rules import RuleError, choose, compile_rule

EVENT: dict[str, Any] = {
    "id": "1", "type": "order.v2", "source": "shop", "time": "2026-01-02T03:04:05Z",
    "data": {
        "total": 120.5, "count": 3, "items": [{"sku": "a"}, {"sku": "b"}], "name": "Zoë", "none": None, "whole": 2.0,
    },
    "x-y": "q",
}  # fmt: skip


@pytest.mark.parametrize(
    ("match", "expected"),
    [
        ('event.type == "order.v2"', True),
        ("event.type=='order.v1'", False),
        ('event.data.name == "Zoë"', True),
        ('event.type == "order.v1" || event.data.total > 100', True),
        ("event.data.count == 3.0 && event.data.whole == 2", True),
        ('event.data.items.exists(i, i.sku == "b")', True),
        ("has(event.data.missing)", False),
        ('event.type.startsWith("order.") && event.type.matches("v[0-9]$")', True),
        ("event.data.none == null", True),
        ("size(event.data.name) == 3", True),
        ('event["x-y"] in ["p", "q"]', True),
        ('timestamp(event.time) < timestamp("2027-01-01T00:00:00Z")', True),
        ("event.data.missing == 1 || true", True),
        ("event.type == 1", False),
    ],
)
def test_expressions(match: str, expected: bool) -> None:
    rule = compile_rule(match, "/p")
    assert (choose([rule], EVENT) == "/p") is expected


@pytest.mark.parametrize(
    "match", ['event.data.none == "x"', 'event.data.count == "3"', 'event.type == ""', 'event.id == "1"']
)
def test_the_shortcut_says_what_the_library_says(match: str) -> None:
    """`event.a.b == "text"` needs no library; a comparison of different types is false, not an error."""
    plain = compile_rule(match, "/p")
    full = compile_rule(f"({match})", "/p")
    assert isinstance(plain.test, rules._Equality)
    assert not isinstance(full.test, rules._Equality)
    assert choose([plain], EVENT) == choose([full], EVENT)


def test_the_first_rule_that_matches_wins_and_an_empty_one_always_does() -> None:
    chain = [compile_rule('event.type == "no"', "/a"), compile_rule("", "/b"), compile_rule("", "/c")]
    assert choose(chain, EVENT) == "/b"
    assert choose(chain[:1], EVENT) is None
    assert choose([compile_rule("  ", "/d")], {}) == "/d"


@pytest.mark.parametrize(
    "match", ['event.missing == "x"', 'event.type.deeper == "x"', "event.missing > 1", "event.data.count", "1/0 == 1"]
)
def test_what_cannot_be_decided_is_an_error(match: str) -> None:
    """An absent attribute, and a result that is no boolean, are errors of the event's delivery."""
    with pytest.raises(RuleError):
        choose([compile_rule(match, "/p")], EVENT)


@pytest.mark.parametrize("match", ["event.type ==", "foo == 1", "event.foo()", 'event.type == "a" "b"', "((("])
def test_bad_expressions_are_named(match: str) -> None:
    with pytest.raises(ConfigError) as caught:
        compile_rule(match, "/orders")
    assert match in str(caught.value)
    assert "/orders" in str(caught.value)


def test_an_expression_has_a_bound() -> None:
    with pytest.raises(ConfigError, match="8192 at most"):
        compile_rule("true || " * 2000 + "true", "/p")


def test_without_the_library_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cel_expr_python", None)
    rules._environment.cache_clear()
    try:
        assert compile_rule('event.type == "a"', "/p").test is not None
        with pytest.raises(MissingExtra, match=r"pillion\[cel\]"):
            compile_rule("event.a > 1", "/p")
    finally:
        rules._environment.cache_clear()
