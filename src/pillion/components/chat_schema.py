"""The form that answers shall have, as providers take it (spec `crypto-conversation-mcp.md` 4.2, `response_format`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pillion.errors import ComponentError

if TYPE_CHECKING:
    from collections.abc import Mapping

TYPES = frozenset({"string", "number", "integer", "boolean", "object", "array", "null"})


@dataclass(frozen=True, slots=True)
class Form:
    """A named JSON Schema of the few words that every provider understands."""

    name: str
    strict: bool
    schema: dict[str, Any]


def form_of(document: Mapping[str, Any]) -> Form | None:
    """Return the form, None when the document is no schema: its root has no type.

    Raises `ComponentError` for a schema that providers refuse.
    """
    if not isinstance(document.get("type"), str):
        return None
    name = document.get("name")
    return Form(
        name if isinstance(name, str) and name else "response",
        document.get("strict") is True,
        _schema(document, "the root"),
    )


def _schema(document: Mapping[str, Any], place: str) -> dict[str, Any]:
    kind = document.get("type")
    if kind not in TYPES:
        raise ComponentError(f"response_format: the type of {place} is unknown")
    found: dict[str, Any] = {"type": kind}
    if isinstance(document.get("description"), str) and document["description"]:
        found["description"] = document["description"]
    words = document.get("enum")
    if isinstance(words, list) and words:
        found["enum"] = [word for word in words if isinstance(word, str)]
    if kind == "object":
        properties = document.get("properties")
        if not isinstance(properties, dict) or not properties:
            raise ComponentError(f"response_format: {place} is an object without properties")
        found["properties"] = {
            name: _schema(item if isinstance(item, dict) else {}, f"property {name!r}")
            for name, item in properties.items()
        }
        required = document.get("required")
        if isinstance(required, list):
            found["required"] = [name for name in required if isinstance(name, str)]
        found["additionalProperties"] = document.get("additionalProperties") is True
    elif kind == "array":
        items = document.get("items")
        if not isinstance(items, dict):
            raise ComponentError(f"response_format: {place} is an array without items")
        found["items"] = _schema(items, f"the items of {place}")
    return found
