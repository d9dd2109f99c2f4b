"""YAML text to values that know the line they stand on.

Knows: which plain text means a number or a truth (as go-yaml 2 reads YAML 1.1, which the files were written for), and
how such a value reads as JSON text. Never knows: what a document is about. libyaml finds the tokens; this module builds
the values, so that depth and size are bounded whatever anchors and brackets a document plays with.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson
import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 100
MAX_NODES = 250_000
"""Values of one document after aliases are followed."""

_LOADER: Any = getattr(yaml, "CLoader", yaml.Loader)
_TAG = "tag:yaml.org,2002:"
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?", re.ASCII)
_INT = re.compile(r"([-+]?)(?:0[xX]([0-9a-fA-F]+)|0[bB]([01]+)|0[oO]?([0-7]+)|(0|[1-9][0-9]*))", re.ASCII)
_LONGEST_NUMBER = 400
# A lone y or n is a truth to the reader these files were written for; quotes make it text.
_TRUE = frozenset({"y", "Y", "yes", "Yes", "YES", "true", "True", "TRUE", "on", "On", "ON"})
_FALSE = frozenset({"n", "N", "no", "No", "NO", "false", "False", "FALSE", "off", "Off", "OFF"})
_NULL = frozenset({"", "~", "null", "Null", "NULL"})
_NOT_FINITE = {".inf": math.inf, "+.inf": math.inf, "-.inf": -math.inf, ".nan": math.nan}


class YamlError(ValueError):
    """The text is not YAML, or more of it than is taken. `line` counts from 1."""

    def __init__(self, text: str, line: int) -> None:
        self.line = line
        super().__init__(text)


@dataclass(slots=True)
class Node:
    """One value and where it was written: None, bool, int, float, str, a list of nodes or a dict of them by text."""

    value: Any
    line: int
    source: str = ""
    weight: int = 1
    """How many values this one is, itself included, with aliases followed."""

    def plain(self) -> Any:
        """Return the value without lines; what is shared by aliases stays shared."""
        if isinstance(self.value, dict):
            return {key: item.plain() for key, item in self.value.items()}
        if isinstance(self.value, list):
            return [item.plain() for item in self.value]
        return self.value


def split(text: str) -> Iterator[tuple[str, int]]:
    """Yield each document and its first line: a line starting with `---` separates, the rest of it is discarded."""
    line = 1
    for index, piece in enumerate(re.split(r"\n---", text)):
        skipped = 0
        if index:
            line += 1
            cut = piece.find("\n")
            skipped = len(piece) if cut < 0 else cut
        yield piece[skipped:], line
        line += piece.count("\n")


def parse(text: str, *, source: str = "", first_line: int = 1) -> Node | None:
    """Return the first document of `text`, None when there is none. Raises `YamlError`."""
    builder = _Builder(source, first_line)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            if builder.feed(event):
                return builder.root
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = (error.problem or error.context or "not YAML").strip()
        line = min(mark.line, text.rstrip().count("\n")) if mark else 0
        raise YamlError(what, first_line + line) from error
    except (yaml.YAMLError, UnicodeError) as error:
        raise YamlError(f"not YAML: {error}".splitlines()[0], first_line) from error
    return None


class _Builder:
    """Events in, one tree out; an open collection is a list that alternates keys and values when it is a mapping."""

    def __init__(self, source: str, first_line: int) -> None:
        self.source, self.first_line = source, first_line
        self.root: Node | None = None
        self.anchors: dict[str, Node] = {}
        self.open: list[tuple[Any, list[Node]]] = []
        self.weight = 0

    def feed(self, event: Any) -> bool:
        """Take one event; True when the document has ended."""
        line = self.first_line + event.start_mark.line
        match event:
            case yaml.ScalarEvent():
                self._add(self._scalar(event, line), event.anchor)
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                if len(self.open) == MAX_DEPTH:
                    raise YamlError(f"nested deeper than {MAX_DEPTH} levels", line)
                if event.anchor:
                    self.anchors.pop(event.anchor, None)
                self.open.append((event, []))
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                start, items = self.open.pop()
                line = self.first_line + start.start_mark.line
                value = items if isinstance(start, yaml.SequenceStartEvent) else self._mapping(items)
                weight = 1 + sum(item.weight for item in items)
                self._add(Node(value, line, self.source, weight), start.anchor)
            case yaml.AliasEvent():
                if event.anchor not in self.anchors:
                    raise YamlError(f"alias *{event.anchor} has no complete anchor before it", line)
                self.weight += self.anchors[event.anchor].weight
                self._add(self.anchors[event.anchor], None)
            case yaml.DocumentEndEvent():
                return True
        return False

    def _add(self, node: Node, anchor: str | None) -> None:
        if node.weight > MAX_NODES or self.weight > MAX_NODES:
            raise YamlError(f"more than {MAX_NODES} values", node.line)
        if anchor:
            self.anchors[anchor] = node
        if self.open:
            self.open[-1][1].append(node)
        else:
            self.root = node
        self.weight += 1

    def _mapping(self, items: list[Node]) -> dict[str, Node]:
        pairs: dict[str, Node] = {}
        merged: dict[str, Node] = {}
        for key, value in zip(items[::2], items[1::2], strict=True):
            if isinstance(key.value, (dict, list)):
                raise YamlError("a collection cannot be a key", key.line)
            if key.value is _MERGE:
                for source in value.value if isinstance(value.value, list) else [value]:
                    if not isinstance(source.value, dict):
                        raise YamlError("<< merges mappings only", value.line)
                    merged = {**source.value, **merged}
            else:
                pairs[key.value if isinstance(key.value, str) else json_text(key)] = value
        return {**merged, **pairs} if merged else pairs

    def _scalar(self, event: Any, line: int) -> Node:
        tag, text = event.tag, event.value
        value: Any = text
        if tag == _TAG + "binary":
            try:
                value = base64.b64decode("".join(text.split()), validate=True).decode()
            except (binascii.Error, ValueError) as error:
                raise YamlError("!!binary is not base64 of text", line) from error
        elif event.implicit[0] or tag in (_TAG + "int", _TAG + "float", _TAG + "bool", _TAG + "null"):
            value = _MERGE if text == "<<" and self._at_key() else _resolved(text)
        return Node(value, line, self.source)

    def _at_key(self) -> bool:
        return (
            bool(self.open) and isinstance(self.open[-1][0], yaml.MappingStartEvent) and len(self.open[-1][1]) % 2 == 0
        )


_MERGE: Any = object()


def _resolved(text: str) -> Any:
    """Return what an unquoted text means."""
    if text in _NULL:
        return None
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    if text[0] in "+-.0123456789" and len(text) <= _LONGEST_NUMBER:
        return _number(text)
    return text


def _number(text: str) -> Any:
    digits = text.replace("_", "")
    match = _INT.fullmatch(digits)
    if match:
        sign, hexadecimal, binary, octal, decimal = match.groups()
        base = 16 if hexadecimal else 2 if binary else 8 if octal else 10
        number = int(hexadecimal or binary or octal or decimal, base)
        number = -number if sign == "-" else number
        if -(2**63) <= number < 2**64:
            return number
    if _FLOAT.fullmatch(digits):
        return float(digits)
    return _NOT_FINITE.get(text.lower(), text)


def json_text(node: Node) -> str:
    """Return the compact JSON text of a value as Go prints it: keys sorted, `1.0` as `1`, `<>&` escaped in strings.

    Raises `YamlError` for infinities and NaN, which JSON cannot say.
    """
    value = node.value
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            if not math.isfinite(value):
                raise YamlError("JSON has no infinity and no NaN", node.line)
            return go_float(value)
        case str():
            return _json_string(value)
        case list():
            return f"[{','.join(map(json_text, value))}]"
        case _:
            return "{" + ",".join(f"{_json_string(key)}:{json_text(value[key])}" for key in sorted(value)) + "}"


def go_float(number: float) -> str:
    """Return the shortest text as Go's encoding/json prints it: exponents below 1e-6 and from 1e21 on alone."""
    if number == 0:
        return "-0" if math.copysign(1, number) < 0 else "0"
    shortest = repr(number)
    if 1e-6 <= abs(number) < 1e21:
        return f"{Decimal(shortest):f}".removesuffix(".0")
    mantissa, _, exponent = shortest.partition("e")
    return f"{mantissa.removesuffix('.0')}e{exponent[0]}{exponent[1:].lstrip('0')}"


_ESCAPES = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def _json_string(text: str) -> str:
    return orjson.dumps(text).decode().translate(_ESCAPES)
