"""The body of a bulk publish over HTTP, and its answer when something failed (spec `http-api.md` 4.3).

Knows: entries, how an event fits its content type, how failures are told. Never knows: brokers or envelopes.
"""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

import orjson

from pillion.api.call import EMPTY
from pillion.api.render import JSON
from pillion.net.exchange import Response
from pillion.wire import gojson
from pillion.wire.cloudevents import Payload, payload_kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillion.errors import ApiError

_MEMBERS = frozenset(("entryId", "event", "contentType", "metadata"))
_SPELLING = {name.lower(): name for name in _MEMBERS}
_DOCUMENTS = (Payload.JSON, Payload.EVENT)
LONGEST_HEADER = 4096
"""Clients limit header lines to 8 KiB or so; failed entries that do not fit here are in the body alone."""


Row = tuple[str, str, Any, dict[str, str] | None]
"""One element of a bulk publish body: its id, its content type, the event, its metadata."""


def _row(fields: Mapping[str, Any]) -> Row:
    entry_id, content_type, metadata = fields.get("entryId"), fields.get("contentType"), fields.get("metadata")
    if not isinstance(entry_id, str):
        entry_id = _absent(entry_id, "EntryId")
    if not isinstance(content_type, str):
        content_type = _absent(content_type, "ContentType")
    if metadata is not None and not (
        isinstance(metadata, dict) and all(isinstance(value, str) for value in metadata.values())
    ):
        raise ValueError("metadata of an entry must be an object of strings")
    return entry_id, content_type, fields.get("event"), metadata


def read_rows(body: bytes) -> list[Row]:
    """Parse the body of a bulk publish; keys match in any case. Raises ValueError with a text for the caller."""
    items = gojson.loads_spelled(body)
    if items is None:
        return []
    if not isinstance(items, list):
        raise ValueError(f"json: cannot unmarshal {_kind(items)} into Go value of type []http.bulkPublishMessageEntry")
    rows = []
    for item in items:
        if not isinstance(item, dict):
            raise ValueError(f"json: cannot unmarshal {_kind(item)} into Go value of type http.bulkPublishMessageEntry")
        rows.append(_row(item if _MEMBERS.issuperset(item) else _spelled(item)))
    return rows


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "bool"
    return {str: "string", int: "number", float: "number", list: "array"}.get(type(value), "object")


def _spelled(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members under the names that they have here; of several spellings the last counts."""
    return {_SPELLING.get(key.lower(), key): value for key, value in item.items()}


def _absent(value: object, name: str) -> str:
    """Return what stands for a text that is not there; raises ValueError when something else is in its place."""
    if value is None:
        return ""
    raise ValueError(
        f"json: cannot unmarshal {_kind(value)} into Go struct field bulkPublishMessageEntry.{name} of type string"
    )


def event_bytes(event: Any, content_type: str) -> bytes:
    """Return the bytes of an entry's `event`, JSON in its canonical form; raises ValueError when the two do not fit."""
    if payload_kind(content_type) in _DOCUMENTS:
        return gojson.sorted_bytes(event)  # its numbers were spelled when it was read
    base = content_type.partition(";")[0].strip().lower()
    if base == "application/octet-stream":
        if not isinstance(event, str):
            raise ValueError("an event of content type application/octet-stream must be a base64 string")
        try:
            return base64.b64decode(event.replace("\r", "").replace("\n", ""), validate=True)
        except ValueError as error:
            raise ValueError(f"the event is not base64: {error}") from error
    if base.startswith("text/") or base == "application/xml":
        if not isinstance(event, str):
            raise ValueError(f"an event of content type {content_type} must be a string")
        return event.encode()
    raise ValueError(f"content type {content_type!r} cannot be published in bulk")


def merged(own: Mapping[str, str] | None, shared: Mapping[str, str]) -> Mapping[str, str]:
    """Metadata of an entry: the request's is added only to an entry that has some of its own, which wins."""
    return EMPTY if own is None else {**shared, **own}


def bulk_failure(error: ApiError, failed: Sequence[tuple[str, str]]) -> Response:
    """Return the answer for a bulk of which something could not be published."""
    rows = [{"entryId": entry_id, "error": text} if text else {"entryId": entry_id} for entry_id, text in failed]
    body = gojson.escaped(orjson.dumps({"failedEntries": rows, "errorCode": error.fault.http_code}))
    headers = [JSON, (b"metadata.error", _header(error.text.encode("utf-8", "replace")[:LONGEST_HEADER]))]
    if len(body) <= LONGEST_HEADER:
        headers.append((b"metadata.responsedata", body))
    return Response(error.http_status, headers, body)


def _header(value: bytes) -> bytes:
    """Keep a text inside its header line: control characters become blanks (RFC 9110 5.5)."""
    return bytes(byte if byte >= 32 and byte != 127 else 32 for byte in value)
