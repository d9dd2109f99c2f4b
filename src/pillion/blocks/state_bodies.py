"""Bodies of the state API over HTTP (spec `http-api.md` 4.2): from JSON to what a store is asked.

Knows: names in any case, what a field may be, and what is told otherwise. Never knows: stores, what happens to a
request. All raise `ValueError` with a text for the client, and `ApiError` for what has a fault of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pillion.blocks import state_faults as faults
from pillion.errors import ApiError
from pillion.kinds.state import Delete, Set
from pillion.wire import gojson

if TYPE_CHECKING:
    from pillion.blocks.state_stores import Store, Stores


def read_set(
    stores: Stores,
    store: Store,
    item: object,
    shared: dict[str, str],
    *,
    named: bool = True,
    may_be_empty: bool = False,
) -> Set:
    """Read one item of a save, or the request of an upsert. What is `shared` overrides its own metadata."""
    if item is not None and not isinstance(item, dict):
        raise _no_object(item)
    key = etag = content_type = concurrency = consistency = ""
    value: object = None
    metadata = shared
    for given, part in (item or {}).items():
        name = given.lower()
        if name == "key":
            key = _string(part, name)
        elif name == "value":
            value = part
        elif name == "etag":
            etag = _string(part, name)
        elif name == "metadata":
            metadata = {**_strings(part), **shared}
        elif name == "options":
            concurrency, consistency = _options(part)
        elif name == "contenttype":
            content_type = _string(part, name)
    if not key and not may_be_empty:
        raise ApiError(faults.EMPTY_KEY)
    return Set(
        stores.key(store, key, http=True, named=named), gojson.sorted_bytes(value),
        etag or None, concurrency, consistency, metadata, content_type, True,
    )  # fmt: skip


def read_operation(stores: Stores, store: Store, row: object, shared: dict[str, str]) -> Set | Delete:
    """Read one operation of a transaction."""
    fields = fields_of(row)
    kind = _text(fields, "operation")
    request = fields.get("request")
    if kind == "upsert":
        return read_set(stores, store, request, shared, named=False, may_be_empty=True)
    if kind != "delete":
        raise ApiError(faults.UNKNOWN_OPERATION, operation=kind)
    inner = fields_of(request)
    concurrency, consistency = _options(inner.get("options"))
    key = stores.key(store, _text(inner, "key"), http=True, named=False)
    return Delete(key, _text(inner, "etag") or None, concurrency, consistency, {**metadata_of(inner), **shared})


def kind_of(value: object) -> str:
    """Return what JSON calls a value."""
    return {dict: "object", list: "array", str: "string", bool: "bool"}.get(type(value), "number")


def fields_of(item: object) -> dict[str, Any]:
    """Return the fields of an object, names in lower case; null has none."""
    if item is None:
        return {}
    if not isinstance(item, dict):
        raise _no_object(item)
    return {name.lower(): value for name, value in item.items()}


def _no_object(item: object) -> ValueError:
    return ValueError(f"json: cannot unmarshal {kind_of(item)} where an object is expected")


def _text(fields: dict[str, Any], name: str) -> str:
    return _string(fields.get(name), name)


def _string(value: object, name: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise ValueError(f"json: cannot unmarshal {kind_of(value)} into field {name} of type string")
    return value


def metadata_of(fields: dict[str, Any]) -> dict[str, str]:
    """Return the metadata of a request."""
    return _strings(fields.get("metadata"))


def _strings(value: object) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ValueError("json: metadata must be an object of strings")
    return dict(value)


def _options(item: object) -> tuple[str, str]:
    options = fields_of(item)
    if not options:
        return "", ""
    return _text(options, "concurrency"), _text(options, "consistency")
