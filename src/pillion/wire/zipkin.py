"""Spans as Zipkin's API of version 2 has them, in JSON (zipkin.io/zipkin-api)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

_KINDS = {2: "SERVER", 3: "CLIENT", 4: "PRODUCER", 5: "CONSUMER"}


def span(
    trace_id: str,
    span_id: str,
    parent_id: str,
    name: str,
    kind: int,
    started_ns: int,
    ended_ns: int,
    attributes: Iterable[tuple[str, str]],
    error: str | None,
    service: str,
) -> Mapping[str, object]:
    """Return one span; times become microseconds, and none is shorter than one."""
    tags = dict(attributes)
    if error is not None:
        tags["otel.status_code"] = "ERROR"
        tags["error"] = error
    found: dict[str, object] = {
        "traceId": trace_id,
        "id": span_id,
        "name": name,
        "timestamp": started_ns // 1000,
        "duration": max((ended_ns - started_ns) // 1000, 1),
        "localEndpoint": {"serviceName": service},
        "tags": tags,
    }
    if kind in _KINDS:
        found["kind"] = _KINDS[kind]
    if parent_id:
        found["parentId"] = parent_id
    return found


def body(spans: Sequence[Mapping[str, object]]) -> bytes:
    """Return the body of a POST. Text that is no Unicode, such as a path of odd bytes, is written with backslashes."""
    try:
        return orjson.dumps(spans)
    except TypeError:
        return orjson.dumps([_printable(one) for one in spans])


def _printable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    return value
