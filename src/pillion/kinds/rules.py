"""Routing rules: which path of the application gets an event (spec `http-api.md` 5.3, `runtime.md` 2.4).

A rule's `match` is an expression of the Common Expression Language over `event`, the attributes of the CloudEvent. The
commonest form by far, `event.type == "…"`, is decided here; anything else is compiled by the CEL library, which is
imported only then (docs/decisions/cel.md). Knows: expressions and events. Never knows: brokers or applications.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from pillion.errors import ConfigError, MissingExtra
from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_PLAIN = re.compile(
    r"""\s* event ((?: \.[A-Za-z_][A-Za-z0-9_]* )+) \s* == \s* (?: "([^"\\\r\n]*)" | '([^'\\\r\n]*)' ) \s*""",
    re.VERBOSE,
)
MAX_MATCH = 8192
"""Characters of one expression; a longer one is refused rather than compiled."""


class RuleError(ValueError):
    """A rule could not be decided for an event: the event lacks what the expression asks for, or it is no boolean."""


class Test(Protocol):
    """A compiled expression; raises `RuleError`."""

    def __call__(self, event: Mapping[str, Any]) -> bool: ...


@record
class Rule:
    """One rule. `test` is None when the rule always matches."""

    match: str
    path: str
    test: Test | None = None


def compile_rule(match: str, path: str) -> Rule:
    """Compile one rule. Raises `ConfigError` that names the expression."""
    if not match.strip():
        return Rule(match, path)
    if len(match) > MAX_MATCH:
        raise ConfigError(
            f"rule for path {path!r}: the match expression has {len(match)} characters", mend=f"use {MAX_MATCH} at most"
        )
    plain = _PLAIN.fullmatch(match)
    if plain is not None:
        return Rule(match, path, _Equality(tuple(plain[1][1:].split(".")), plain[2] or plain[3] or ""))
    return Rule(match, path, _expression(match, path))


def choose(rules: Sequence[Rule], event: Mapping[str, Any]) -> str | None:
    """Return the path of the first rule that matches, None when none does. Raises `RuleError` naming the expression."""
    for rule in rules:
        if rule.test is None or rule.test(event):
            return rule.path
    return None


class _Equality:
    """`event.a.b == "text"`, with the meaning CEL gives it: an absent attribute is an error, another type unequal."""

    __slots__ = ("names", "text")

    def __init__(self, names: tuple[str, ...], text: str) -> None:
        self.names, self.text = names, text

    def __call__(self, event: Mapping[str, Any]) -> bool:
        value: Any = event
        try:
            for name in self.names:
                value = value[name]
        except (KeyError, TypeError, IndexError):
            raise RuleError(
                f"the event has no attribute {'.'.join(self.names)!r}, which a routing rule compares"
            ) from None
        return bool(value == self.text)

    def __repr__(self) -> str:
        return f"<event.{'.'.join(self.names)} == {self.text!r}>"


@cache
def _environment() -> tuple[Any, Any]:
    try:
        from cel_expr_python import cel
    except ImportError as error:
        raise MissingExtra('a routing rule other than event.type == "…"', "cel") from error
    return cel.NewEnv(variables={"event": cel.Type.DYN}), cel.Type.ERROR


def _expression(match: str, path: str) -> Test:
    environment, failure = _environment()
    try:
        program = environment.compile(match)
    except RuntimeError as error:
        reason = str(error).partition("ERROR: ")[2].partition("\n")[0] or str(error)
        raise ConfigError(f"rule for path {path!r}: match {match!r} is not a CEL expression: {reason}") from error

    def test(event: Mapping[str, Any]) -> bool:
        try:
            result = program.eval(data={"event": event})
            value = result.value()
            failed = result.type() == failure
        except Exception as error:  # the library raises what its conversions meet
            raise RuleError(f"match {match!r}: {error}") from error
        if failed:
            raise RuleError(f"match {match!r}: {value}")
        if value is True or value is False:
            return bool(value)
        raise RuleError(f"match {match!r} is not a boolean but {type(value).__name__}")

    return test
