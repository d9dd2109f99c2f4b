"""Reading a document field by field: typed, in any case, with errors that name file, line and field.

Knows: the coercions of resource documents (spec `runtime.md` 2.1): numbers and truths become text where text is asked
for, unknown fields are ignored - but one that nearly spells a known field earns a note. Never knows: any kind.
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from pillion.errors import ConfigError
from pillion.wire.yamltext import Node, YamlError, json_text

if TYPE_CHECKING:
    from collections.abc import Iterator


def where(node: Node, path: str = "") -> str:
    """Return `file:line` and, when given, the field."""
    place = f"{node.source}:{node.line}"
    return f"{place}: {path}" if path else place


def shape(node: Node) -> str:
    """Return what a person would call the value: "the text 'x'", "a list"."""
    match node.value:
        case None:
            return "nothing"
        case bool() | int() | float():
            return json_text_or_repr(node)
        case str() as text:
            return f"the text {text[:40]!r}"
        case list():
            return "a list"
        case _:
            return "a mapping"


def json_text_or_repr(node: Node) -> str:
    """Return the JSON text, or Python's for what JSON cannot say."""
    try:
        return json_text(node)
    except YamlError:
        return str(node.value)


class Fields:
    """One mapping of a document. An absent mapping reads as empty. `notes` collects what deserves a warning."""

    def __init__(
        self, node: Node | None, path: str = "", notes: list[str] | None = None, *, outer: Node | None = None
    ) -> None:
        self.node = node
        self._outer = outer if node is None else node
        self.path = path
        self.notes: list[str] = [] if notes is None else notes
        self._known: set[str] = set()
        if node is not None and node.value is not None and not isinstance(node.value, dict):
            raise ConfigError(f"expected a mapping, found {shape(node)}", where=where(node, path))
        self._items: dict[str, Node] = node.value if node is not None and node.value is not None else {}
        self._folded: dict[str, Node] | None = None

    def __bool__(self) -> bool:
        return bool(self._items)

    def raw(self, name: str) -> Node | None:
        """Return the node of a field, None when it is absent or null."""
        self._known.add(name)
        found = self._items.get(name)
        if found is None:
            if self._folded is None:
                self._folded = {key.lower(): node for key, node in self._items.items()}
            found = self._folded.get(name.lower())
        return None if found is None or found.value is None else found

    def text(self, name: str, default: str = "") -> str:
        """Return text; a number or a truth becomes its JSON text."""
        node = self.raw(name)
        return default if node is None else self._text(node, self._at(name))

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a truth value; text is refused."""
        node = self.raw(name)
        if node is None:
            return default
        if not isinstance(node.value, bool):
            raise self._wrong(node, self._at(name), "true or false without quotes")
        return node.value

    def integer(self, name: str, default: int = 0) -> int:
        """Return a whole number of at most 64 bits; text is refused."""
        node = self.raw(name)
        if node is None:
            return default
        number = node.value
        if isinstance(number, float) and number.is_integer():
            number = int(number)
        if isinstance(number, bool) or not isinstance(number, int) or not -(2**63) <= number < 2**63:
            raise self._wrong(node, self._at(name), "a whole number")
        return number

    def texts(self, name: str) -> tuple[str, ...]:
        """Return a list of texts."""
        return tuple(self._text(node, path) for node, path in self._list(name))

    def integers(self, name: str) -> tuple[int, ...]:
        """Return a list of whole numbers."""
        found = []
        for node, path in self._list(name):
            if isinstance(node.value, bool) or not isinstance(node.value, int):
                raise self._wrong(node, path, "a whole number")
            found.append(node.value)
        return tuple(found)

    def mapping(self, name: str) -> dict[str, str]:
        """Return a map from text to text; its keys are the author's, so none is unknown."""
        inner = self.nested(name)
        return {key: inner._text(node, inner._at(key)) for key, node in inner._items.items()}

    def nested(self, name: str) -> Fields:
        """Return a mapping within this one; an absent one reads as empty."""
        return Fields(self.raw(name), self._at(name), self.notes, outer=self._outer)

    def items(self, name: str) -> list[Fields]:
        """Return a list of mappings."""
        return [Fields(node, path, self.notes) for node, path in self._list(name)]

    def pairs(self, name: str) -> list[tuple[str, str]]:
        """Return a list of `key=value` texts, or of mappings with `name` and `value`; others are noted."""
        found = []
        for node, path in self._list(name):
            if isinstance(node.value, dict):
                entry = Fields(node, path, self.notes)
                found.append((entry.text("name"), entry.text("value")))
                continue
            key, equals, value = self._text(node, path).partition("=")
            if equals:
                found.append((key, value))
            else:
                self.notes.append(f"{where(node, path)}: is not of the form name=value; ignored")
        return found

    def know(self, *names: str) -> None:
        """Declare fields that are known but were not read."""
        self._known.update(names)

    def free(self, name: str) -> Any:
        """Return a value of any form, without lines; None when absent."""
        node = self.raw(name)
        return None if node is None else node.plain()

    def wrong(self, name: str, what: str, mend: str = "") -> ConfigError:
        """Return an error about a field, to be raised by the reader."""
        node = self.raw(name) or self._outer or Node(None, 0)
        return ConfigError(what, where=where(node, self._at(name) if name else self.path), mend=mend)

    def note(self, name: str, what: str) -> None:
        """Remember a warning about a field."""
        self.notes.append(str(self.wrong(name, what)))

    def done(self) -> None:
        """Note the fields that are not known but nearly are. To be called when all known fields were read."""
        known = {name.lower(): name for name in self._known}
        for key, node in self._items.items():
            if key.lower() in known:
                continue
            near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.75)
            if near:
                text = f"unknown field is ignored (did you mean {known[near[0]]}?)"
                self.notes.append(f"{where(node, self._at(key))}: {text}")

    def _at(self, name: str) -> str:
        return f"{self.path}.{name}" if self.path else name

    def _list(self, name: str) -> Iterator[tuple[Node, str]]:
        node = self.raw(name)
        if node is None:
            return
        if not isinstance(node.value, list):
            raise self._wrong(node, self._at(name), "a list")
        for index, item in enumerate(node.value):
            yield item, f"{self._at(name)}[{index}]"

    def _text(self, node: Node, path: str) -> str:
        if isinstance(node.value, str):
            return node.value
        if node.value is None:
            return ""
        if isinstance(node.value, (dict, list)):
            raise self._wrong(node, path, "text")
        return json_text(node)

    def _wrong(self, node: Node, path: str, expected: str) -> ConfigError:
        return ConfigError(f"expected {expected}, found {shape(node)}", where=where(node, path))
