"""From a checked query to the WHERE and ORDER BY of SQL: what SQLite and PostgreSQL have in common.

Knows: how conditions combine, and that everything the client wrote is a parameter. Never knows: how one database looks
into JSON; a dialect does.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

from pillion.kinds.query import Compare, Every, OneOf, Op, Some

if TYPE_CHECKING:
    from pillion.kinds.query import Filter, Order, Path, Scalar

SIGNS = {Op.GT: ">", Op.GTE: ">=", Op.LT: "<", Op.LTE: "<="}


class Dialect(ABC):
    """One statement in the making; `parameters` are its values so far. The parsed document is the column `doc`."""

    def __init__(self, *parameters: Any) -> None:
        self.parameters: list[Any] = list(parameters)

    @abstractmethod
    def parameter(self, value: Any) -> str:
        """Add a parameter and return its place."""

    @abstractmethod
    def exists(self, path: Path) -> str:
        """Return the condition that there is a value, null included."""

    @abstractmethod
    def equal(self, path: Path, value: Scalar) -> str:
        """Return a condition that is never NULL."""

    @abstractmethod
    def ordered(self, path: Path, sign: str, value: Any) -> str:
        """Return a comparison of numbers that is never NULL."""

    @abstractmethod
    def ranks(self, path: Path) -> tuple[str, ...]:
        """Return what rows are sorted by, one after the other, in the order of `kinds.query.rank`."""

    def where(self, node: Filter | None) -> str:
        """Return the condition of a filter."""
        match node:
            case None:
                return "true"
            case Every(parts):
                return _joined([self.where(part) for part in parts], " AND ")
            case Some(parts):
                return _joined([self.where(part) for part in parts], " OR ")
            case OneOf(path, values):
                return _joined([self.equal(path, value) for value in values], " OR ")
            case Compare(Op.EQ, path, value):
                return self.equal(path, value)
            case Compare(Op.NEQ, path, value):
                return f"({self.exists(path)} AND NOT {self.equal(path, value)})"
            case Compare(op, path, value):
                return self.ordered(path, SIGNS[op], value)

    def order(self, orders: tuple[Order, ...], last: str) -> str:
        """Return the list of ORDER BY; `last` tells rows apart that sort alike."""
        terms = [f"{term} DESC" if order.descending else term for order in orders for term in self.ranks(order.path)]
        return ", ".join([*terms, last])


def _joined(conditions: list[str], word: str) -> str:
    """Join conditions into a tree that is no deeper than it must be: SQLite bounds the depth of an expression."""
    if len(conditions) <= 8:
        return "(" + word.join(conditions) + ")"
    middle = len(conditions) // 2
    return f"({_joined(conditions[:middle], word)}{word}{_joined(conditions[middle:], word)})"
