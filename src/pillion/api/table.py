"""From a method and a path to a row: the one canonical path parser (spec `http-api.md` 0).

Paths are cleaned while still escaped, so `%2F` never splits a segment; a static segment wins over a parameter only
where it handles the method. Matches are remembered for paths that repeat, within a bound.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.api.call import decode_component

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pillion.api.operation import Http, Operation

REMEMBERED = 4096
Match = tuple["Http", tuple[str, ...], bytes]
"""A route, its decoded parameters, the cleaned path."""


class BadEscape(ValueError):
    """A `%` escape in a parameter is broken; answered 400 text/plain."""


class _Node:
    __slots__ = ("parameter", "rows", "static", "tail")

    def __init__(self) -> None:
        self.static: dict[bytes, _Node] = {}
        self.parameter: _Node | None = None
        self.rows: dict[str, tuple[Http, tuple[str, ...]]] = {}
        self.tail: dict[str, tuple[Http, tuple[str, ...]]] = {}


class Routes:
    """The HTTP routes of a sidecar."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._root = _Node()
        self._seen: dict[tuple[str, bytes], Match] = {}
        for operation in operations:
            for row in operation.http:
                self._add(row)

    def _add(self, row: Http) -> None:
        node = self._root
        names: list[str] = []
        *inner, last = row.path.strip("/").split("/")
        for segment in inner:
            node = self._step(node, segment, names)
        if last.endswith("*}"):
            names.append(last[1:-2])
            target = node.tail
        else:
            target = self._step(node, last, names).rows
        for verb in row.verbs:
            if verb in target:
                raise ValueError(f"two rows for {verb} {row.path}")
            target[verb] = (row, tuple(names))

    @staticmethod
    def _step(node: _Node, segment: str, names: list[str]) -> _Node:
        if segment.startswith("{"):
            names.append(segment[1:-1])
            if node.parameter is None:
                node.parameter = _Node()
            return node.parameter
        return node.static.setdefault(segment.encode(), _Node())

    def find(self, verb: str, path: bytes) -> Match | None:
        """Return the match for a raw path (no query), or None. Raises `BadEscape`."""
        key = (verb, path)
        match = self._seen.get(key)
        if match is not None:
            return match
        cleaned = clean(path)
        segments = cleaned[1:].split(b"/")
        values: list[bytes] = []
        found = self._walk(self._root, segments, 0, verb, values)
        if found is None:
            return None
        row, names = found
        params = []
        for name, value in zip(names, values, strict=True):
            try:
                param = decode_component(value.decode("latin-1")) if b"%" in value or b"+" in value else text(value)
                if not param.isascii() and not row.path.endswith(f"{{{name}*}}"):
                    param.encode()  # a name is text; the rest of a path, a topic or a method, may be any bytes
                params.append(param)
            except UnicodeEncodeError as error:
                raise BadEscape(f'failed to unescape request parameter "{name}". Error: not UTF-8') from error
            except ValueError as error:
                raise BadEscape(f'failed to unescape request parameter "{name}". Error: {error}') from error
        match = (row, tuple(params), cleaned)
        if len(self._seen) >= REMEMBERED:
            self._seen.clear()
        self._seen[key] = match
        return match

    def _walk(
        self, node: _Node, segments: list[bytes], at: int, verb: str, values: list[bytes]
    ) -> tuple[Http, tuple[str, ...]] | None:
        if at == len(segments):
            return node.rows.get(verb)
        segment = segments[at]
        child = node.static.get(segment)
        if child is not None and (found := self._walk(child, segments, at + 1, verb, values)) is not None:
            return found
        if node.parameter is not None and segment:
            values.append(segment)
            if (found := self._walk(node.parameter, segments, at + 1, verb, values)) is not None:
                return found
            values.pop()
        if verb in node.tail and segment:
            values.append(b"/".join(segments[at:]))
            return node.tail[verb]
        return None


def text(value: bytes) -> str:
    """Decode path bytes that carry no escape."""
    return value.decode("utf-8", "surrogateescape")


def clean(path: bytes) -> bytes:
    """Collapse `//`, resolve `.` and `..`, drop a trailing `/`; the result starts with `/` and is still escaped."""
    if path.startswith(b"/") and b"//" not in path and b"/." not in path and (path == b"/" or path[-1] != 47):
        return path
    kept: list[bytes] = []
    for segment in path.split(b"/"):
        if segment in (b"", b"."):
            continue
        if segment == b"..":
            if kept:
                kept.pop()
        else:
            kept.append(segment)
    return b"/" + b"/".join(kept)
