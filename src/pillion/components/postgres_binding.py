"""`bindings.postgresql`: one statement for each request (spec `components.md` 4).

Knows: how JSON parameters become arguments of a statement, and rows become JSON. Never knows: connections
(`postgresql_pool`).
"""

from __future__ import annotations

import base64
import binascii
import json
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson

from pillion.clock import SystemClock
from pillion.components.postgresql_pool import PostgresPool, PostgresSettings, touched
from pillion.errors import ComponentError
from pillion.kinds.bindings import BindingError, Response
from pillion.wire import gojson
from pillion.wire.durations import go_duration, render_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.clock import Clock
    from pillion.kinds.bindings import Request
    from pillion.kinds.component import Context


@dataclass(frozen=True, slots=True)
class PostgresBindingSettings(PostgresSettings):
    """Metadata of `bindings.postgresql`."""


class PostgresBinding:
    """The PostgreSQL output binding."""

    Settings = PostgresBindingSettings
    operations = ("exec", "query", "close")

    def __init__(self, settings: PostgresBindingSettings, context: Context, *, clock: Clock | None = None) -> None:
        self._pool = PostgresPool(settings, f"component {context.name}")
        self._clock = clock or SystemClock()

    async def open(self) -> None:
        await self._pool.open()

    async def ping(self) -> None:
        await self._pool.fetch("SELECT 1")

    async def close(self) -> None:
        await self._pool.close()

    async def invoke(self, request: Request) -> Response | None:
        if request.operation == "close":
            await self._pool.close()
            return None
        sql = request.metadata.get("sql", "")
        if not sql:
            raise ComponentError("required metadata not set: sql")
        parameters = parameters_of(request.metadata.get("params", ""))
        began, started = self._clock.now(), self._clock.monotonic()
        metadata = {"operation": request.operation, "sql": sql, "start-time": _instant(began)}
        data = b""
        try:
            rows, status = await self._run(sql, parameters, wants_rows=request.operation == "query")
            if request.operation == "query":
                data = rows_as_json(rows)
            else:
                metadata["rows-affected"] = str(touched(status))
        except ComponentError as error:
            raise BindingError(str(error), self._timed(metadata, began, started)) from error
        return Response(data, self._timed(metadata, began, started))

    async def _run(self, sql: str, parameters: list[Any], *, wants_rows: bool) -> tuple[list[Any], str]:
        """Return rows and command tag. Nothing runs twice: nobody can tell whether a statement may."""
        async with self._pool.connection() as connection:
            if not parameters and not wants_rows:
                return [], await connection.execute(sql)
            statement = await connection.prepare(sql)
            types = statement.get_parameters()
            if len(types) != len(parameters):
                raise ComponentError(f"the statement takes {len(types)} parameters, {len(parameters)} are given")
            arguments = [argument(value, kind.name) for value, kind in zip(parameters, types, strict=True)]
            rows = await statement.fetch(*arguments)
            return rows, statement.get_statusmsg()

    def _timed(self, metadata: dict[str, str], began: float, started: float) -> dict[str, str]:
        duration_s = self._clock.monotonic() - started
        return metadata | {"end-time": _instant(began + duration_s), "duration": render_duration(duration_s)}

    def __repr__(self) -> str:
        return f"<PostgresBinding {self._pool!r}>"


# -- parameters


def parameters_of(text: str) -> list[Any]:
    """Read `params`, a JSON array whose numbers keep their digits. Raises `ComponentError`."""
    if not text:
        return []
    try:
        found = json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError) as error:
        raise ComponentError(f"invalid metadata property params: failed to unmarshal into an array: {error}") from error
    if not isinstance(found, list):
        raise ComponentError("invalid metadata property params: failed to unmarshal into an array: it is none")
    return found


def _text(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _json(value: Any) -> str:
    return json.dumps(value, default=float, separators=(",", ":"))


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, str | int | Decimal):
        raise ValueError("not a number")
    number = Decimal(value)
    if not number.is_finite() or number != number.to_integral_value() or abs(number) >= 2**63:
        raise ValueError("not a whole number")
    return int(number)


def _boolean(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in ("t", "true", "y", "yes", "on", "1"):
        return True
    if isinstance(value, str) and value.lower() in ("f", "false", "n", "no", "off", "0"):
        return False
    raise ValueError("not a boolean")


def _bytes(value: Any) -> bytes:
    """PostgreSQL's own hexadecimal form `\\x…`, else base64, else the text itself."""
    text = _text(value)
    if text.startswith("\\x"):
        return bytes.fromhex(text[2:])
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return text.encode()


def _zoned(value: Any) -> datetime:
    moment = datetime.fromisoformat(_text(value))
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)


def _unzoned(value: Any) -> datetime:
    return datetime.fromisoformat(_text(value)).replace(tzinfo=None)


def _interval(value: Any) -> timedelta:
    return timedelta(seconds=go_duration(_text(value)))


_ARGUMENTS: dict[str, Callable[[Any], Any]] = {
    "int2": _whole,
    "int4": _whole,
    "int8": _whole,
    "oid": _whole,
    "float4": float,
    "float8": float,
    "numeric": Decimal,
    "bool": _boolean,
    "json": _json,
    "jsonb": _json,
    "bytea": _bytes,
    "timestamptz": _zoned,
    "timestamp": _unzoned,
    "date": lambda value: date.fromisoformat(_text(value)[:10]),
    "time": lambda value: time_of_day.fromisoformat(_text(value)),
    "timetz": lambda value: time_of_day.fromisoformat(_text(value)),
    "interval": _interval,
}


def argument(value: Any, kind: str) -> Any:
    """Return a JSON value as what a parameter of the type `kind` takes; what is not listed takes text.

    Raises `ComponentError`.
    """
    if value is None:
        return None
    if kind.endswith("[]") and isinstance(value, list):
        return [argument(item, kind[:-2]) for item in value]
    convert: Callable[[Any], Any] = _ARGUMENTS.get(kind, _text)
    try:
        return convert(value)
    except (ValueError, TypeError, InvalidOperation, OverflowError) as error:
        raise ComponentError(f"parameter {_json(value)[:100]} is no {kind}: {error}") from error


# -- rows


def rows_as_json(rows: list[Any]) -> bytes:
    """Return a JSON array of arrays. Raises `ComponentError` for what JSON cannot carry."""
    try:
        return gojson.escaped(orjson.dumps([tuple(row) for row in rows], default=_plain))
    except (TypeError, ValueError) as error:
        raise ComponentError(f"error marshalling query result for query: {error}") from error


def _plain(value: Any) -> Any:
    match value:
        case Decimal():
            return orjson.Fragment(str(value).encode()) if value.is_finite() else str(value)
        case bytes():
            return base64.b64encode(value).decode()
        case timedelta():
            return render_duration(value.total_seconds())
        case int():  # beyond 64 bits
            return orjson.Fragment(str(value).encode())
    if isinstance(value, asyncpg.Record):  # a composite value
        fields: Any = value
        return dict(fields.items())
    return str(value)


def _instant(seconds: float) -> str:
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
    return text + "Z"
