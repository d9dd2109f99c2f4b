"""Queries on SQLite, with its JSON functions (sqlite.org/json1.html). Never knows: connections."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pillion.components.query_sql import Dialect

if TYPE_CHECKING:
    from pillion.kinds.query import Path, Scalar


class SqliteDialect(Dialect):
    """A statement of SQLite."""

    def parameter(self, value: Any) -> str:
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            value = float(value)
        self.parameters.append(value)
        return f"?{len(self.parameters)}"

    def _path(self, path: Path) -> str:
        return self.parameter("$" + "".join(f'."{step}"' for step in path))

    def exists(self, path: Path) -> str:
        return f"json_type(doc, {self._path(path)}) IS NOT NULL"

    def equal(self, path: Path, value: Scalar) -> str:
        place = self._path(path)
        kind = f"coalesce(json_type(doc, {place}), '')"
        if value is None or isinstance(value, bool):
            name = {None: "null", True: "true", False: "false"}[value]
            return f"({kind} = '{name}')"
        kinds = "('text')" if isinstance(value, str) else "('integer', 'real')"
        return f"({kind} IN {kinds} AND json_extract(doc, {place}) = {self.parameter(value)})"

    def ordered(self, path: Path, sign: str, value: Any) -> str:
        place = self._path(path)
        kind = f"coalesce(json_type(doc, {place}), '')"
        return f"({kind} IN ('integer', 'real') AND json_extract(doc, {place}) {sign} {self.parameter(value)})"

    def ranks(self, path: Path) -> tuple[str, ...]:
        place = self._path(path)
        kind = f"json_type(doc, {place})"
        places = "WHEN 'true' THEN 1 WHEN 'false' THEN 1 WHEN 'integer' THEN 2 WHEN 'real' THEN 2 WHEN 'text' THEN 3"
        # Within one rank all values are of one type, which SQLite compares as wanted: text by its bytes in UTF-8.
        value = f"CASE WHEN {kind} IN ('array', 'object') THEN NULL ELSE json_extract(doc, {place}) END"
        return f"CASE {kind} {places} ELSE 0 END", value
