"""Where the command line keeps things, and what an application gets that brings no resources of its own.

Knows: the data folder and the packaged defaults. The data folder is one for each user, `$PILLION_HOME` or `~/.pillion`,
whatever project a command is given in: that is how applications of different terminals share state and find each other.

    components/   resources used when a run names none (written by `pillion init`, then yours)
    config.yaml   configuration used when a run names none (likewise)
    running/      a record for each sidecar that runs
    logs/         what the sidecars of `pillion run -- COMMAND` said last
    *.sqlite      what the default components keep, and the registry of names
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pillion.errors import ConfigError
from pillion.kinds.fields import Fields
from pillion.kinds.resources import ComponentResource, component
from pillion.sidecar import presence
from pillion.wire import yamltext

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULTS = Path(__file__).with_name("defaults")
COMPONENTS = ("statestore.yaml", "pubsub.yaml", "secretstore.yaml")
CONFIG = "config.yaml"
KEPT_LOGS = 50
NAMES = "pillion"
"""The name resolution of a run whose configuration chooses none."""


@dataclass(frozen=True, slots=True)
class Places:
    """The data folder and what stands in it."""

    home: Path

    @property
    def components(self) -> Path:
        return self.home / "components"

    @property
    def config(self) -> Path:
        return self.home / CONFIG

    @property
    def logs(self) -> Path:
        """The logs of sidecars whose application was run by itself."""
        return self.home / "logs"


def of(environ: Mapping[str, str]) -> Places:
    """Return the places of this user."""
    return Places(presence.home(environ))


def prepare(places: Places) -> None:
    """Make the data folder; raises `ConfigError`."""
    try:
        places.home.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        mend = "set PILLION_HOME to a folder that can be written"
        raise ConfigError(f"cannot be made: {error.strerror}", where=str(places.home), mend=mend) from error


def forget_old_logs(places: Places) -> None:
    """Remove the oldest logs of former runs, so that at most `KEPT_LOGS` stay."""
    with contextlib.suppress(OSError):
        found = sorted((path.stat().st_mtime, path) for path in places.logs.glob("*.log"))
        for _, path in found[:-KEPT_LOGS]:
            path.unlink(missing_ok=True)


def text_of(name: str, places: Places) -> str:
    """Return a packaged default as it reads for this data folder."""
    folder = json.dumps(str(places.home), ensure_ascii=False)[1:-1]
    return (DEFAULTS / name).read_text("utf-8").replace("$PILLION_HOME", folder)


def default_components(places: Places) -> tuple[ComponentResource, ...]:
    """Return the components of a run that names no resources, while `components/` does not exist."""
    found = []
    for name in COMPONENTS:
        node = yamltext.parse(text_of(name, places), source=name)
        found.append(component(Fields(node)))
    return tuple(found)


def write_defaults(places: Places) -> list[tuple[Path, bool]]:
    """Write the defaults as files one can edit. Return each path, and whether it was written.

    What exists is left alone. Raises `ConfigError`.
    """
    prepare(places)
    targets = [(places.components / name, name) for name in COMPONENTS] + [(places.config, CONFIG)]
    return [(path, _write(path, text_of(name, places))) for path, name in targets]


def _write(path: Path, text: str) -> bool:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return False
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(path)) from error
    return True
