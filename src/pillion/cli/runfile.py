"""The run file: several applications, and how each is run with its sidecar (spec `runtime.md` 8.3).

Knows: the keys, what they mean for a sidecar's flags, what an application inherits from `common`, what paths are
relative to. Never knows: the disk (`missing` alone looks) and how anything is started.
"""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING

from pillion.errors import ConfigError
from pillion.kinds.fields import Fields, where
from pillion.wire import yamltext

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_TEXT = 4 << 20
"""Bytes of a run file."""


class Destination(Enum):
    """Where a log goes."""

    CONSOLE = "console"
    FILE = "file"
    BOTH = "fileAndConsole"

    @property
    def to_console(self) -> bool:
        return self is not Destination.FILE

    @property
    def to_file(self) -> bool:
        return self is not Destination.CONSOLE


@dataclass(frozen=True, slots=True)
class Place:
    """A path that the file names; `where` is the file, line and field that names it."""

    path: Path
    where: str


@dataclass(frozen=True, slots=True)
class App:
    """One application, with what it inherits. Ports are -1 where none is given."""

    where: str
    app_id: str
    folder: Place
    command: tuple[str, ...] = ()
    app_port: int = -1
    http_port: int = -1
    grpc_port: int = -1
    internal_port: int = -1
    metrics_port: int = -1
    profile_port: int = -1
    flags: Mapping[str, str] = field(default_factory=dict)
    """Flags of the sidecar by name, as text; ports, paths and what needs a decision are not among them."""
    config: Place | None = None
    """None: the application's own `.dapr/config.yaml`, else the default."""
    resources: tuple[Place, ...] = ()
    """Empty: the application's own `.dapr/resources`, else the default."""
    config_inherited: bool = False
    resources_inherited: bool = False
    """Inherited paths stand behind those of the application's own `.dapr` folder."""
    placement: str | None = None
    scheduler: str | None = None
    """Addresses as written; None: not written; empty: switched off."""
    environment: Mapping[str, str] = field(default_factory=dict)
    sidecar_log: Destination | None = None
    """None: not written; then the file gets all, and the console what deserves attention."""
    app_log: Destination = Destination.BOTH


@dataclass(frozen=True, slots=True)
class RunFile:
    """A whole run file. `warnings` name keys that mean nothing."""

    source: str
    name: str
    apps: tuple[App, ...]
    warnings: tuple[str, ...] = ()


_TEXTS = {
    "appProtocol": "app-protocol",
    "maxBodySize": "max-body-size",
    "readBufferSize": "read-buffer-size",
    "appHealthCheckPath": "app-health-check-path",
    "apiListenAddresses": "dapr-listen-addresses",
    "logLevel": "log-level",
}
_NUMBERS = {
    "appMaxConcurrency": "app-max-concurrency",
    "appHealthProbeInterval": "app-health-probe-interval",
    "appHealthProbeTimeout": "app-health-probe-timeout",
    "appHealthThreshold": "app-health-threshold",
}
_TRUTHS = {
    "appSSL": "app-ssl",
    "enableAppHealthCheck": "enable-app-health-check",
    "enableProfiling": "enable-profiling",
    "enableApiLogging": "enable-api-logging",
}
_OTHERS = (
    "configFilePath", "resourcesPaths", "resourcesPath", "placementHostAddress", "schedulerHostAddress", "env",
    "daprdLogDestination", "appLogDestination", "runtimePath",
)  # fmt: skip
_SHARED = (*_TEXTS, *_NUMBERS, *_TRUTHS, *_OTHERS)
_PORTS = ("appPort", "daprHTTPPort", "daprGRPCPort", "daprInternalGRPCPort", "metricsPort", "profilePort")
_APP_TEXTS = {"appChannelAddress": "app-channel-address", "unixDomainSocket": "unix-domain-socket"}
_CLUSTER = ("containerImage", "containerImagePullPolicy", "createService")
"""Keys for Kubernetes alone: they mean nothing here and earn no warning."""
TOP_KEYS = ("version", "name", "common", "apps")
COMMON_KEYS = _SHARED
APP_KEYS = ("appDirPath", "appID", "command", *_PORTS, *_APP_TEXTS, *_CLUSTER, *_SHARED)


@dataclass(frozen=True, slots=True)
class _Shared:
    """What `common` and an application can both say. None: not said."""

    flags: dict[str, str]
    config: Place | None
    resources: tuple[Place, ...]
    placement: str | None
    scheduler: str | None
    environment: dict[str, str]
    sidecar_log: Destination | None
    app_log: Destination | None


def parse(text: str, *, source: str, folder: Path, home: Path) -> RunFile:
    """Read a run file that stands in `folder`; `~/` means `home`.

    Raises `ConfigError` that names file, line and field.
    """
    if len(text) > MAX_TEXT:
        raise ConfigError(f"is longer than {MAX_TEXT >> 20} MiB", where=source)
    try:
        node = yamltext.parse(text, source=source)
    except yamltext.YamlError as error:
        raise ConfigError(f"not YAML: {error}", where=f"{source}:{error.line}") from error
    if node is None or node.value is None:
        raise ConfigError("is empty", where=source, mend="write version: 1 and a list of apps")
    top = Fields(node)
    warnings = list(_unknown(top, TOP_KEYS))
    if not top.integer("version"):
        raise top.wrong("version", "the version is missing or zero", "write version: 1")
    common_fields = top.nested("common")
    warnings += _unknown(common_fields, COMMON_KEYS)
    common = _shared(common_fields, folder, home)
    apps: dict[str, App] = {}
    for entry in top.items("apps"):
        warnings += _unknown(entry, APP_KEYS)
        app = _app(entry, common, folder, home)
        if app.app_id in apps:
            mend = "give each application an appID of its own"
            what = f"the id {app.app_id!r} is taken already by the application at {apps[app.app_id].where}"
            raise ConfigError(what, where=app.where, mend=mend)
        apps[app.app_id] = app
    if not apps:
        raise top.wrong("apps", "there are no applications", "list at least one under apps:")
    return RunFile(source, top.text("name"), tuple(apps.values()), tuple(warnings))


def _unknown(fields: Fields, keys: tuple[str, ...]) -> Iterator[str]:
    """Say which keys mean nothing, and which was probably meant; `runtimePath` is read and has nothing to choose."""
    known = {key.lower(): key for key in keys}
    if fields.node is None or fields.node.value is None:
        return
    for key, node in fields.node.value.items():
        path = f"{fields.path}.{key}" if fields.path else key
        if key.lower() not in known:
            near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.7)
            meant = f" (did you mean {known[near[0]]}?)" if near else ""
            yield f"{where(node, path)}: unknown key is ignored{meant}"
        elif key.lower() == "runtimepath":
            yield f"{where(node, path)}: there is one runtime, nothing to choose; PILLION_HOME moves its data folder"


def _path(text: str, base: Path, home: Path) -> Path:
    expanded = home / text[2:] if text.startswith("~/") else home if text == "~" else Path(text)
    return Path(os.path.normpath(base / expanded))


def _app(fields: Fields, common: _Shared, folder: Path, home: Path) -> App:
    written = fields.text("appDirPath")
    if not written:
        raise fields.wrong("appDirPath", "is missing", "name the folder of the application, relative to this file")
    path = _path(written, folder, home)
    own = _shared(fields, path, home)
    app_flags = {flag: text for key, flag in _APP_TEXTS.items() if (text := fields.text(key))}
    ports = [_port(fields, key) for key in _PORTS]
    assert fields.node is not None
    return App(
        where=where(fields.node, fields.path),
        app_id=fields.text("appID") or path.name,
        folder=Place(path, _at(fields, "appDirPath")),
        command=_command(fields),
        app_port=ports[0], http_port=ports[1], grpc_port=ports[2], internal_port=ports[3],
        metrics_port=ports[4], profile_port=ports[5],
        flags={**common.flags, **own.flags, **app_flags},
        config=own.config or common.config,
        config_inherited=own.config is None,
        resources=own.resources or common.resources,
        resources_inherited=not own.resources,
        placement=common.placement if own.placement is None else own.placement,
        scheduler=common.scheduler if own.scheduler is None else own.scheduler,
        environment={**common.environment, **own.environment},
        sidecar_log=own.sidecar_log or common.sidecar_log,
        app_log=own.app_log or common.app_log or Destination.BOTH,
    )  # fmt: skip


def _command(fields: Fields) -> tuple[str, ...]:
    node = fields.raw("command")
    if node is not None and isinstance(node.value, str):
        quoted = ", ".join(f'"{word}"' for word in node.value.split())
        raise fields.wrong("command", "expected a list, found a text", f"write command: [{quoted}]")
    command = fields.texts("command")
    if command and not command[0]:
        raise fields.wrong("command", "its first word is empty")
    return command


def _port(fields: Fields, key: str) -> int:
    number = fields.integer(key, -1)
    if not -1 <= number <= 65535:
        raise fields.wrong(key, f"{number} is no port", "use 1 to 65535, or leave it out for a free one")
    return number or -1


def _shared(fields: Fields, base: Path, home: Path) -> _Shared:
    flags = {flag: text for key, flag in _TEXTS.items() if (text := fields.text(key))}
    flags |= {flag: str(number) for key, flag in _NUMBERS.items() if (number := fields.integer(key))}
    flags |= {flag: str(fields.flag(key)).lower() for key, flag in _TRUTHS.items() if fields.raw(key) is not None}
    paths = [(text, f"resourcesPaths[{index}]") for index, text in enumerate(fields.texts("resourcesPaths"))]
    if single := fields.text("resourcesPath"):
        paths.append((single, "resourcesPath"))
    config = fields.text("configFilePath")
    return _Shared(
        flags=flags,
        config=Place(_path(config, base, home), _at(fields, "configFilePath")) if config else None,
        resources=tuple(Place(_path(text, base, home), _at(fields, key)) for text, key in paths if text),
        placement=_written(fields, "placementHostAddress"),
        scheduler=_written(fields, "schedulerHostAddress"),
        environment=fields.mapping("env"),
        sidecar_log=_destination(fields, "daprdLogDestination"),
        app_log=_destination(fields, "appLogDestination"),
    )


def _written(fields: Fields, key: str) -> str | None:
    return None if fields.raw(key) is None else fields.text(key)


def _destination(fields: Fields, key: str) -> Destination | None:
    text = fields.text(key)
    if not text:
        return None
    for choice in Destination:
        if choice.value.lower() == text.lower():
            return choice
    raise fields.wrong(key, f"{text!r} is no destination", "use console, file or fileAndConsole")


def _at(fields: Fields, key: str) -> str:
    """Return file, line and name of a field; `key` may end in an index."""
    node = fields.raw(key.partition("[")[0]) or fields.node
    assert node is not None
    return where(node, f"{fields.path}.{key}" if fields.path else key)


def missing(run: RunFile) -> ConfigError | None:
    """Return an error about the first path that does not exist, None when all do. Looks at the disk."""
    for app in run.apps:
        if not app.folder.path.is_dir():
            return _absent(app.folder, "folder")
        if app.config is not None and not app.config.path.is_file():
            return _absent(app.config, "file")
        for place in app.resources:
            if not place.path.is_dir():
                return _absent(place, "folder")
    return None


def _absent(place: Place, what: str) -> ConfigError:
    if place.path.exists():
        return ConfigError(f"{place.path} is not a {what}", where=place.where)
    return ConfigError(
        f"the {what} {place.path} does not exist", where=place.where, mend="create it or correct the path"
    )
