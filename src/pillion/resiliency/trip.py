"""When a breaker trips: expressions of the Common Expression Language over its counts (spec `runtime.md` 4.1).

Comparisons of a count with a whole number, joined by `&&`, are decided here; the CEL library is imported for anything
else only (docs/decisions/cel.md). An expression that fails, or is no boolean, does not trip.
"""

from __future__ import annotations

import logging
import operator
import re
from functools import cache
from typing import TYPE_CHECKING, Any

from pillion.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.resiliency.breaker import Counts, Trip

log = logging.getLogger("pillion.resiliency")

DEFAULT = "consecutiveFailures > 5"
MAX_TRIP = 8192
"""Characters of one expression."""
_FIELDS = {
    "requests": "requests",
    "totalSuccesses": "successes",
    "totalFailures": "failures",
    "consecutiveSuccesses": "successes_in_a_row",
    "consecutiveFailures": "failures_in_a_row",
}
_OPERATORS: dict[str, Callable[[int, int], bool]] = {
    ">=": operator.ge, "<=": operator.le, "==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_COMPARISON = re.compile(rf"\s*({'|'.join(_FIELDS)})\s*({'|'.join(_OPERATORS)})\s*(\d{{1,18}})\s*", re.ASCII)


def compile_trip(text: str) -> Trip:
    """Compile an expression; "" is the default. Raises `ConfigError` that names it."""
    text = text.strip() or DEFAULT
    if len(text) > MAX_TRIP:
        raise ConfigError(f"the trip expression has {len(text)} characters", mend=f"use {MAX_TRIP} at most")
    found = [_COMPARISON.fullmatch(part) for part in text.split("&&")]
    comparisons = [(_FIELDS[one[1]], _OPERATORS[one[2]], int(one[3])) for one in found if one is not None]
    if len(comparisons) < len(found):
        return _expression(text)
    return lambda counts: all(compare(getattr(counts, name), limit) for name, compare, limit in comparisons)


@cache
def _environment() -> tuple[Any, Any]:
    try:
        from cel_expr_python import cel
    except ImportError as error:
        raise MissingExtra("a trip expression other than comparisons of counts with numbers", "cel") from error
    return cel.NewEnv(variables=dict.fromkeys(_FIELDS, cel.Type.INT)), cel.Type.ERROR


def _expression(text: str) -> Trip:
    environment, failure = _environment()
    try:
        program = environment.compile(text)
    except RuntimeError as error:
        reason = str(error).partition("ERROR: ")[2].partition("\n")[0] or str(error)
        raise ConfigError(f"trip {text!r} is not a CEL expression: {reason}") from error

    def trip(counts: Counts) -> bool:
        try:
            result = program.eval(data={name: getattr(counts, field) for name, field in _FIELDS.items()})
            value = result.value()
            failed = result.type() == failure
        except Exception as error:  # the library raises what its conversions meet
            failed, value = True, error
        if failed or not isinstance(value, bool):
            log.debug("the trip expression %r is not decided: %s", text, value)
            return False
        return value

    return trip
