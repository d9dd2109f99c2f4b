"""`middleware.http.routeralias`: other paths for routes of the API."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping  # noqa: TC003 - `decode` reads it
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus, unquote_to_bytes

from pillion.errors import ConfigError, MissingExtra
from pillion.kinds.component import setting
from pillion.wire import yamltext

if TYPE_CHECKING:
    from pillion.kinds.component import Context
    from pillion.net.exchange import Request, Response
    from pillion.net.middleware import Next

_VARIABLE = re.compile(r"\{([^{}:]+)(?::((?:[^{}]|\{[^{}]*\})+))?\}")


@dataclass(frozen=True)
class RouterAliasSettings:
    routes: str = setting("", help="a JSON or YAML map of paths to the paths they stand for")
    legacy: Mapping[str, str] = setting({}, rest=True, help="without `routes` each item of the metadata is a route")


@dataclass(frozen=True, slots=True)
class Alias:
    """One alias: what a path has to look like, segment by segment, and where it leads to."""

    segments: tuple[bytes | _Capture, ...]
    path: str
    query: str

    def match(self, path: list[bytes]) -> list[tuple[str, bytes]] | None:
        """Return the captured variables of a path (its segments, still escaped), None when it is another."""
        if len(path) != len(self.segments):
            return None
        found: list[tuple[str, bytes]] = []
        for wanted, given in zip(self.segments, path, strict=True):
            value = unquote_to_bytes(given)
            if isinstance(wanted, bytes):
                if wanted != value:
                    return None
            elif (captured := wanted.take(value)) is None:
                return None
            else:
                found += captured
        return found


@dataclass(frozen=True, slots=True)
class _Capture:
    """A segment with variables in it: literal text, and for each variable its name and its pattern."""

    names: tuple[str, ...]
    pattern: Any = field(repr=False)

    def take(self, value: bytes) -> list[tuple[str, bytes]] | None:
        match = self.pattern.fullmatch(value)
        return None if match is None else list(zip(self.names, match.groups(), strict=True))


def alias(path: str, target: str) -> Alias:
    """Read one alias. Raises `ValueError` for patterns that cannot be one."""
    if not path.startswith("/") or not target.startswith("/"):
        raise ValueError(f"route {path!r} to {target!r}: both must start with /")
    segments: list[bytes | _Capture] = []
    for segment in _split(path[1:]):
        if variables := list(_VARIABLE.finditer(segment)):
            segments.append(_capture(path, segment, variables))
        elif "{" in segment or "}" in segment:
            raise ValueError(f"route {path!r}: unbalanced braces")
        else:
            segments.append(unquote_to_bytes(segment))
    to, _, query = target.partition("?")
    return Alias(tuple(segments), quote(to, safe="/%:@!$&'()*+,;=~"), quote(query, safe="/%?:@!$&'()*+,;=~"))


def _capture(path: str, segment: str, variables: list[re.Match[str]]) -> _Capture:
    """One plain variable needs no library; several, and such with patterns, are matched in linear time by RE2."""
    form, end = "", 0
    for match in variables:
        form += re.escape(segment[end : match.start()]) + f"({match[2] or '(?s:.+)'})"
        end = match.end()
    form += re.escape(segment[end:])
    names = tuple(match[1] for match in variables)
    if len(variables) == 1 and not variables[0][2]:
        return _Capture(names, re.compile(form.encode()))
    try:
        from pillion.components.regex import compiled
    except ModuleNotFoundError as error:
        raise MissingExtra(f"route {path!r} with patterns", "re2") from error
    pattern = compiled(form)
    if pattern.groups != len(names):
        raise ValueError(f"route {path!r}: patterns must not have groups of their own (write (?:...))")
    return _Capture(names, pattern)


def _split(path: str) -> list[str]:
    """Split at slashes outside of braces."""
    parts, depth, start = [], 0, 0
    for at, char in enumerate(path):
        depth += (char == "{") - (char == "}")
        if char == "/" and depth == 0:
            parts.append(path[start:at])
            start = at + 1
    return [*parts, path[start:]]


def read_routes(settings: RouterAliasSettings) -> list[Alias]:
    """Return the aliases in their order. Raises `ConfigError`."""
    found: object = dict(settings.legacy)
    if settings.routes.strip():
        try:
            node = yamltext.parse(settings.routes, source="routes")
        except yamltext.YamlError as error:
            raise ConfigError(f"metadata field 'routes' is neither JSON nor YAML: {error}") from error
        found = json.loads(yamltext.json_text(node)) if node is not None else {}
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise ConfigError("metadata field 'routes' must be a map of paths to paths")
    try:
        return [alias(path, target) for path, target in found.items()]
    except ValueError as error:
        raise ConfigError(f"metadata field 'routes': {error}") from error


class RouterAlias:
    """The middleware: the first alias that matches replaces the path; what it captured is added to the query."""

    Settings = RouterAliasSettings

    def __init__(self, settings: RouterAliasSettings, context: Context) -> None:
        self._aliases = read_routes(settings)

    async def open(self) -> None: ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...

    async def __call__(self, request: Request, next: Next) -> Response:
        path, _, query = request.target.partition(b"?")
        segments = path[1:].split(b"/")
        for known in self._aliases:
            found = known.match(segments)
            if found is not None:
                parts = [query.decode("latin-1"), known.query]
                parts += [f"{quote_plus(name)}={quote_plus(value)}" for name, value in found]
                joined = "&".join(part for part in parts if part)
                request.target = known.path.encode() + (b"?" + joined.encode("latin-1") if joined else b"")
                break
        return await next(request)
