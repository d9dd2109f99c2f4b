"""Label values for HTTP methods and paths, with what is variable folded away (spec `runtime.md` 6.1, `path`).

Pure: text in, text out. Nothing is remembered here: whoever counts keeps the answer with the series.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "CONNECT", "OPTIONS", "TRACE"))
UNKNOWN = "UNKNOWN"
STATIC = frozenset(("/dapr/config", "/dapr/metrics", "/dapr/subscribe", "/healthz"))
INVOKE = "/v1.0/invoke/"


def fold(path: str) -> str:
    """Return a path without the keys, ids and names of instances in it; paths of applications stay as they are."""
    if path in STATIC:
        return path
    parts = path.strip("/").split("/")
    if parts[0] == "actors" and len(parts) > 2:
        return "/".join((*parts[:2], "{id}", *parts[3:]))
    if len(parts) < 3:
        return path
    version, block = parts[0], parts[1]
    if not version.startswith("v1"):
        return path
    if block in ("state", "secrets"):
        return "/" + "/".join(parts[:3])
    if block == "actors" and len(parts) > 3:
        return "/" + "/".join((*parts[:3], "{id}", *parts[4:5]))
    if block == "workflows" and len(parts) > 3:
        return _workflow(parts)
    return path


def _workflow(parts: list[str]) -> str:
    lead, rest = "/" + "/".join(parts[:3]), parts[3:]
    if len(rest) > 1 and rest[1] == "start":
        return f"{lead}/{rest[0]}/start"
    if len(rest) > 1 and rest[1] == "raiseEvent":
        return f"{lead}/{{instanceId}}/raiseEvent/{{eventName}}"
    return "/".join((lead, "{instanceId}", *rest[1:2]))


class Patterns:
    """`metric.http.pathMatching`: `{x}` stands for one segment, a `/` at the end for all below; the most specific wins.

    A pattern of an application's paths also matches them behind `/v1.0/invoke/<app>/method`, under a label of its own.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        every: dict[str, None] = {}
        for pattern in patterns:
            pattern = pattern if pattern.startswith("/") else "/" + pattern
            every[pattern] = None
            if not pattern.startswith(INVOKE):
                every[f"{INVOKE}{{app_id}}/method{pattern}"] = None
        self._compiled = [(_compile(pattern), pattern) for pattern in sorted(every, key=_looseness)]

    def find(self, path: str) -> str | None:
        """Return the pattern that a path matches, None when there is none."""
        return next((label for pattern, label in self._compiled if pattern.fullmatch(path)), None)


def _compile(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"(\{[^{}/]*\})", pattern)
    text = "".join("[^/]+" if part.startswith("{") else re.escape(part) for part in parts)
    return re.compile(text + (".*" if pattern.endswith("/") else ""), re.DOTALL)


def _looseness(pattern: str) -> tuple[list[tuple[int, str]], int]:
    """Sort key: segment by segment a literal before a variable before a subtree; longer before shorter."""
    ranks = [(1, "") if "{" in part else (2, "") if not part else (0, part) for part in pattern[1:].split("/")]
    return ranks, -len(ranks)


class Labels:
    """The labels of an HTTP request: `method` and `path` as they are counted."""

    def __init__(self, *, increased: bool = True, patterns: Iterable[str] = (), exclude_verbs: bool = False) -> None:
        listed = tuple(patterns)
        self.increased = increased
        self._exclude_verbs = exclude_verbs
        self._patterns = Patterns(listed) if listed else None
        self._rest: Callable[[str], str] = fold if increased else _nothing

    def method(self, verb: str) -> str:
        if self._exclude_verbs:
            return ""
        return verb if verb in METHODS else UNKNOWN

    def path(self, target: bytes) -> str:
        """Return the label of a request target; its query does not matter."""
        path = target.partition(b"?")[0].decode("utf-8", "backslashreplace") or "/"
        if self._patterns is not None and (found := self._patterns.find(path)) is not None:
            return found
        return self._rest(path)


def _nothing(path: str) -> str:
    return ""
