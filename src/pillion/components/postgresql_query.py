"""Queries on PostgreSQL, over jsonb (postgresql.org/docs/current/functions-json.html). Never knows: connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from pillion.components.query_sql import Dialect

if TYPE_CHECKING:
    from pillion.kinds.query import Path, Scalar


class PostgresDialect(Dialect):
    """A statement of PostgreSQL."""

    def parameter(self, value: Any) -> str:
        self.parameters.append(value)
        return f"${len(self.parameters)}"

    def _value(self, path: Path) -> str:
        # Step by step: a path operator would take "0" for the first member of a list.
        return "(doc" + "".join(f"->{self.parameter(step)}::text" for step in path) + ")"

    def exists(self, path: Path) -> str:
        return f"({self._value(path)} IS NOT NULL)"

    def equal(self, path: Path, value: Scalar) -> str:
        text = self.parameter(orjson.dumps(value).decode())
        return f"coalesce({self._value(path)} = {text}::text::jsonb, false)"

    def ordered(self, path: Path, sign: str, value: Any) -> str:
        found, text = self._value(path), self.parameter(orjson.dumps(value).decode())
        number = f"{found}::numeric {sign} {text}::text::numeric"
        return f"(CASE WHEN jsonb_typeof({found}) = 'number' THEN {number} ELSE false END)"

    def ranks(self, path: Path) -> tuple[str, ...]:
        found = self._value(path)
        kind = f"jsonb_typeof({found})"
        return (
            f"CASE {kind} WHEN 'boolean' THEN 1 WHEN 'number' THEN 2 WHEN 'string' THEN 3 ELSE 0 END",
            f"CASE WHEN {kind} = 'boolean' THEN {found}::boolean END",
            f"CASE WHEN {kind} = 'number' THEN {found}::numeric END",
            f"CASE WHEN {kind} = 'string' THEN {found} #>> '{{}}' END COLLATE \"C\"",
        )
