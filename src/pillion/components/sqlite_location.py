"""How a `connectionString` names a SQLite database (spec `components.md` 1, row SQLite; sqlite.org/uri.html).

Knows: the text, the file it means. Never knows: connections; `sqlite_engine` opens them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import parse_qsl, quote, unquote, urlencode

from pillion.errors import ComponentError, ConfigError

_MEMORY = frozenset({":memory:", "file::memory:"})


@dataclass(frozen=True, slots=True)
class Location:
    """Where a database is and how it is opened; equal locations share one engine."""

    uri: str
    memory: bool = False
    read_only: bool = False
    wal: bool = True
    pragmas: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """The file; only a name where `memory`."""
        return unquote(self.uri.removeprefix("file:").partition("?")[0])

    def make_folder(self) -> None:
        """Make the folder of the file, unless there is none or it is there. Raises `ComponentError`."""
        if not self.memory:
            try:
                os.makedirs(os.path.dirname(self.path) or ".", exist_ok=True)
            except OSError as error:
                raise ComponentError(f"the folder of {self.path} cannot be made: {error}") from error

    @classmethod
    def parse(cls, text: str, *, disable_wal: bool = False) -> Location:
        """Read a `connectionString`: a path or a `file:` URI with the parameters of sqlite.org/uri.html.

        `_pragma=name(value)` is applied to each connection, `_txlock` is accepted (writes are always immediate).
        Raises `ConfigError`.
        """
        text = text.strip()
        if not text:
            raise ConfigError("connectionString is empty", mend="give the path of a file, or :memory:")
        bare, _, query = text.partition("?")
        pairs = parse_qsl(query, keep_blank_values=True)
        options = {key: value for key, value in pairs if not key.startswith("_")}
        memory = bare in _MEMORY or options.get("mode") == "memory"
        if memory:
            name = bare.removeprefix("file:")
            return cls(f"file:{name}?mode=memory&cache=shared", True, False, False, _pragmas(pairs))
        path = unquote(bare.removeprefix("file:")) if bare.startswith("file:") else bare
        if path.startswith("//"):
            path = path[path.index("/", 2) :] if "/" in path[2:] else path
        options.pop("cache", None)
        read_only = options.get("mode") == "ro" or options.get("immutable") == "1"
        tail = f"?{urlencode(options)}" if options else ""
        uri = f"file:{quote(os.path.realpath(path))}{tail}"
        return cls(uri, False, read_only, not (disable_wal or read_only), _pragmas(pairs))


def _pragmas(pairs: list[tuple[str, str]]) -> tuple[str, ...]:
    found = []
    for key, value in pairs:
        if key == "_txlock" and value not in ("immediate", "deferred", "exclusive"):
            raise ConfigError(f"connectionString: _txlock {value!r} is unknown", mend="leave it out")
        if key != "_pragma":
            continue
        name, _, argument = value.partition("(") if "(" in value else value.partition("=")
        argument = argument.removesuffix(")").strip()
        name = name.strip().lower()
        if name in ("busy_timeout", "journal_mode", "foreign_keys"):
            raise ConfigError(f"connectionString: _pragma {name} is not accepted", mend="use the component's metadata")
        if not name.isidentifier() or not argument.lstrip("-").isalnum():
            raise ConfigError(f"connectionString: _pragma {value!r} is malformed")
        found.append(f"PRAGMA {name}={argument}")
    return tuple(found)
