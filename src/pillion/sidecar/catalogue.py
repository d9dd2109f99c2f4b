"""Finding the class that implements a component type, among ours and those of other packages.

Knows: entry points and the lookup rule of versions (spec `components.md` 1). Never knows: resources, or what a
component does. A component's module, and with it its library, is imported when it is first constructed.
"""

from __future__ import annotations

import difflib
import importlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Any

from pillion.components.catalog import COMPONENTS, Entry
from pillion.errors import ConfigError, MissingExtra
from pillion.kinds.component import Context, decode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

GROUP = "pillion.components"
UNVERSIONED = ("", "v0", "v1")
log = logging.getLogger("pillion.sidecar.components")


class Catalogue:
    """Entries by type and version, both in any case."""

    def __init__(self, entries: Iterable[Entry] = COMPONENTS) -> None:
        self._entries: dict[tuple[str, str], Entry] = {}
        for entry in entries:
            self.add(entry)

    @classmethod
    def installed(cls) -> Catalogue:
        """Return our entries and those of every installed package. A package that cannot be read is logged."""
        catalogue = cls()
        if not _others_installed():
            return catalogue
        from importlib import metadata as distributions  # 30 ms that a sidecar without other packages need not wait for

        for point in distributions.entry_points(group=GROUP):
            if point.value == "pillion.components.catalog:COMPONENTS":
                continue
            try:
                for entry in point.load():
                    catalogue.add(entry)
            except Exception:
                log.exception("the components of entry point %s (%s) cannot be read", point.name, point.value)
        return catalogue

    def add(self, entry: Entry) -> None:
        """Add one entry; the first of a type and version stays, and the second is logged."""
        key = entry.type.lower(), _version(entry.version)
        known = self._entries.setdefault(key, entry)
        if known is not entry and (known.path, known.given) != (entry.path, entry.given):
            log.warning(
                "component %s/%s is offered by %s and %s; the first is used", *key, _origin(known), _origin(entry)
            )

    def find(self, type: str, version: str) -> Entry | None:
        """Return the entry of a type and version; `""`, `v0` and `v1` all mean the unversioned one."""
        return self._entries.get((type.lower(), _version(version)))

    def near(self, type: str, version: str) -> str:
        """Return a hint for a type or version that is not there, "" when nothing is alike."""
        versions = sorted(entry.version for (known, _), entry in self._entries.items() if known == type.lower())
        if versions:
            return f"known versions of {type}: {', '.join(versions)}"
        category = type.partition(".")[0].lower()
        same = sorted({known for known, _ in self._entries if known.startswith(category + ".")})
        alike = difflib.get_close_matches(type.lower(), same, n=3, cutoff=0.6)
        if alike:
            return f"did you mean {' or '.join(alike)}?"
        return f"known: {', '.join(same)}" if same else ""


def _others_installed() -> bool:
    """Whether some package besides ours may offer components: a look at the files that entry points are kept in."""
    section = f"[{GROUP}]".encode()
    for folder in dict.fromkeys(sys.path):
        try:
            names = os.listdir(folder or ".")
        except NotADirectoryError:
            return True  # an archive: only the library can look into it
        except OSError:
            continue
        for name in names:
            if not name.endswith((".dist-info", ".egg-info", ".egg")) or name.startswith("pillion-"):
                continue
            if name.endswith(".egg"):
                return True
            try:
                with open(os.path.join(folder, name, "entry_points.txt"), "rb") as file:
                    if section in file.read():
                        return True
            except OSError:
                continue  # it offers nothing
    return False


def _origin(entry: Entry) -> str:
    return " ".join((entry.path, *(value for _, value in entry.given)))


def _version(version: str) -> str:
    low = version.lower()
    return "v1" if low in UNVERSIONED else low


def implementation(entry: Entry) -> Any:
    """Import and return the class of an entry. Raises `MissingExtra` when its library is not installed."""
    module, _, name = entry.path.partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if missing == module or module.startswith(missing + "."):
            raise ConfigError(f"{entry.type} is not part of this installation: no module {missing}") from error
        if entry.extra:
            raise MissingExtra(entry.type, entry.extra) from error
        raise ConfigError(f"{entry.type} needs the library {missing}", mend=f"run: pip install {missing}") from error
    except ImportError as error:
        if entry.extra:
            raise MissingExtra(entry.type, entry.extra) from error
        raise ConfigError(f"{entry.type} cannot be imported: {error}") from error


def construct(entry: Entry, metadata: Mapping[str, str], context: Context, *, where: str) -> Any:
    """Decode the settings and return the component, without effects. Raises `ConfigError` naming `where`."""
    made = implementation(entry)
    if entry.given:
        decided = {key.lower() for key, _ in entry.given}
        metadata = {**{key: text for key, text in metadata.items() if key.lower() not in decided}, **dict(entry.given)}
    return made(decode(made.Settings, metadata, where=where), context)
