"""From what somebody asked for to what is started: ports chosen, paths checked, flags of the sidecar read.

Knows: the order in which resources and configurations are looked for, the variables an application gets (spec
`runtime.md` 8.2, 8.3). Never knows: processes and loops. A single `pillion run` and each application of a run file take
the same way: both are an `App`.
"""

from __future__ import annotations

import logging
import secrets
import shlex
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from pillion.cli import places as places_of
from pillion.cli import ports
from pillion.cli.runfile import Destination
from pillion.errors import ConfigError
from pillion.observe import logs
from pillion.sidecar import environment, flags, load
from pillion.sidecar.arguments import UsageError
from pillion.sidecar.checks import check

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from pathlib import Path

    from pillion.cli.places import Places
    from pillion.cli.runfile import App
    from pillion.kinds.resources import ComponentResource
    from pillion.sidecar.environment import Environment
    from pillion.sidecar.flags import Options
    from pillion.sidecar.presence import Record

PLACEMENT_PORT, SCHEDULER_PORT = 50005, 50006
HTTP_WISH, GRPC_WISH = 3500, 50001
"""What client libraries try when nobody tells them a port: a single run takes these when they are free."""
# fmt: off
_FIRST = (
    "amber", "brave", "calm", "dusty", "early", "fair", "gentle", "hardy", "ivory", "jolly", "keen", "lucky", "merry",
    "noble", "olive", "proud", "quiet", "rapid", "silver", "tidy", "upbeat", "vivid", "warm", "young",
)
_SECOND = (
    "acorn", "birch", "cedar", "dune", "ember", "fern", "grove", "harbour", "island", "juniper", "kestrel", "lagoon",
    "meadow", "nutmeg", "otter", "pebble", "quail", "river", "sparrow", "thistle", "valley", "willow",
)
# fmt: on


@dataclass(frozen=True, slots=True)
class Launch:
    """One application and its sidecar, ready to be started."""

    options: Options
    environment: Environment
    command: tuple[str, ...]
    folder: Path
    variables: Mapping[str, str]
    """What the application's environment has besides ours."""
    components: tuple[ComponentResource, ...] = ()
    placement: str | None = None
    scheduler: str | None = None
    """As written: None when nothing was said, empty when switched off."""
    app_log: Path | None = None
    app_console: bool = True
    sidecar_log: Path | None = None
    sidecar_console: bool = True
    console_level: int = logging.INFO
    """The least level of the sidecar's log that the console shows."""
    run_file: str = ""
    run_name: str = ""

    @property
    def app_id(self) -> str:
        return self.options.app_id


def random_id(taken: Collection[str]) -> str:
    """Return two words that no application running here has as its id."""
    while True:
        name = f"{secrets.choice(_FIRST)}-{secrets.choice(_SECOND)}"
        if name not in taken:
            return name


def with_ports(apps: Sequence[App], running: Sequence[Record], *, usual: bool) -> list[App]:
    """Return the applications with every port chosen. `usual` prefers the well-known ones.

    Raises `ConfigError` for a given port that is taken, naming who has it.
    """
    taken: set[int] = set()
    for app in apps:
        given = [("HTTP", app.http_port), ("gRPC", app.grpc_port), ("internal gRPC", app.internal_port)]
        given += [("metrics", app.metrics_port), ("profile", app.profile_port)]
        for what, port in given:
            if port > 0:
                _claim(port, f"{what} port", app, taken, running)
        if app.app_port > 0:
            if app.command:
                _claim(app.app_port, "app port", app, taken, running)
            taken.add(app.app_port)

    def chosen(port: int, wish: int = 0) -> int:
        if port <= 0:
            port = ports.free(taken, wish=wish if usual else 0)
        taken.add(port)
        return port

    return [
        replace(
            app,
            http_port=chosen(app.http_port, HTTP_WISH),
            grpc_port=chosen(app.grpc_port, GRPC_WISH),
            internal_port=chosen(app.internal_port),
            metrics_port=chosen(app.metrics_port),
            profile_port=chosen(app.profile_port),
        )
        for app in apps
    ]


def _claim(port: int, what: str, app: App, taken: set[int], running: Sequence[Record]) -> None:
    if port in taken:
        mend = "give each port to one use only"
        raise ConfigError(f"the {what} {port} of {app.app_id} is given twice", where=app.where, mend=mend)
    taken.add(port)
    if ports.is_free(port):
        return
    for record in running:
        if port in (record.http_port, record.grpc_port, record.internal_port, record.metrics_port):
            who = f"the sidecar of {record.app_id} (pid {record.pid})"
            mend = f"run: pillion stop {record.app_id}"
            break
    else:
        found = ports.holder(port)
        who = str(found) if found else "another process"
        mend = "stop it or choose another port"
    raise ConfigError(f"the {what} {port} of {app.app_id} is taken by {who}", where=app.where, mend=mend)


def launch(
    app: App,
    *,
    places: Places,
    environ: Mapping[str, str],
    single: bool,
    run_file: str = "",
    run_name: str = "",
    now: float | None = None,
) -> Launch:
    """Read what the sidecar is to be told. Raises `ConfigError` that names what to mend."""
    resources, components = _resources(app, places)
    surroundings = {**environ, **app.environment}
    argv = _arguments(app, resources, _config(app, places))
    local = "dapr-listen-addresses" not in app.flags and not environ.get("DAPR_HOST_IP")
    if local or not single:
        surroundings.setdefault("DAPR_HOST_IP", "127.0.0.1")
    if local:
        argv += ["--dapr-listen-addresses", "127.0.0.1,[::1]" if ports.has_ipv6() else "127.0.0.1"]
        argv += ["--dapr-internal-grpc-listen-address", "127.0.0.1", "--metrics-listen-address", "127.0.0.1"]
    try:
        options = flags.parse(argv, surroundings)
        read = environment.read(surroundings)
        check(options, read)
    except UsageError as error:
        raise ConfigError(str(error), where=app.where) from error
    except ConfigError as error:
        raise _placed(error, app) from error
    load.load(options.resources_path, app_id=app.app_id, namespace=read.namespace_raw)  # its mistakes before any start
    app_log, sidecar_log = _logs(app, places, single, time.time() if now is None else now)
    return Launch(
        options=options,
        environment=read,
        command=app.command,
        folder=app.folder.path,
        variables=variables(app, options),
        components=components,
        placement=app.placement,
        scheduler=app.scheduler,
        app_log=app_log,
        app_console=app.app_log.to_console,
        sidecar_log=sidecar_log,
        sidecar_console=app.sidecar_log is None or app.sidecar_log.to_console,
        console_level=_console_level(app, options, single),
        run_file=run_file,
        run_name=run_name,
    )


def _console_level(app: App, options: Options, single: bool) -> int:
    """A console shows what deserves attention, unless somebody said where the log goes or how much of it there is."""
    chosen = app.sidecar_log is not None or (single and "log-level" in app.flags)
    return logs.LEVELS[options.log_level] if chosen else max(logging.WARNING, logs.LEVELS[options.log_level])


def _placed(error: ConfigError, app: App) -> ConfigError:
    where = ": ".join(part for part in (app.where, error.where) if part)
    return ConfigError(error.what, where=where, mend=error.mend)


def _resources(app: App, places: Places) -> tuple[list[Path], tuple[ComponentResource, ...]]:
    """The application's own, its folder's `.dapr/resources`, the common ones, those of `pillion init`, the packaged."""
    own = app.folder.path / ".dapr" / "resources"
    if app.resources and not app.resources_inherited:
        return [place.path for place in app.resources], ()
    if own.is_dir():
        return [own], ()
    if app.resources:
        return [place.path for place in app.resources], ()
    if places.components.is_dir():
        return [places.components], ()
    return [], places_of.default_components(places)


def _config(app: App, places: Places) -> Path:
    own = app.folder.path / ".dapr" / "config.yaml"
    if app.config is not None and not app.config_inherited:
        return app.config.path
    if own.is_file():
        return own
    if app.config is not None:
        return app.config.path
    return places.config if places.config.is_file() else places_of.DEFAULTS / places_of.CONFIG


def _arguments(app: App, resources: Sequence[Path], config: Path) -> list[str]:
    """The sidecar's command line. Values of lists are CSV (spec 1.1), so paths are quoted."""
    argv = [f"--{name}={value}" for name, value in app.flags.items()]
    argv += ["--app-id", app.app_id]
    for name, port in (
        ("app-port", app.app_port),
        ("dapr-http-port", app.http_port),
        ("dapr-grpc-port", app.grpc_port),
        ("dapr-internal-grpc-port", app.internal_port),
        ("metrics-port", app.metrics_port),
        ("profile-port", app.profile_port),
    ):
        if port > 0:
            argv += [f"--{name}", str(port)]
    for path in resources:
        argv += ["--resources-path", _csv(path)]
    argv += ["--config", _csv(config)]
    if app.placement:
        argv += ["--placement-host-address", _with_port(app.placement, PLACEMENT_PORT)]
    if app.scheduler:
        argv += ["--scheduler-host-address", _with_port(app.scheduler, SCHEDULER_PORT)]
    return argv


def _csv(path: Path) -> str:
    return '"' + str(path).replace('"', '""') + '"'


def _with_port(addresses: str, port: int) -> str:
    """Return comma-separated addresses, each with a port."""
    parts = [part.strip() for part in addresses.split(",") if part.strip()]
    return ",".join(part if _has_port(part) else f"{part}:{port}" for part in parts)


def _has_port(address: str) -> bool:
    return address.rpartition("]")[2].startswith(":") if address.startswith("[") else ":" in address


def variables(app: App, options: Options) -> dict[str, str]:
    """Return what an application finds in its environment (spec 8.2); its own `env` wins."""
    told = {
        "APP_ID": options.app_id,
        "APP_CHANNEL_ADDRESS": options.app_channel_address,
        "DAPR_HTTP_PORT": str(options.dapr_http_port),
        "DAPR_GRPC_PORT": str(options.dapr_grpc_port),
        "DAPR_METRICS_PORT": str(options.metrics_port),
        "APP_PROTOCOL": options.app_protocol,
    }
    if options.app_port > 0:
        told["APP_PORT"] = str(options.app_port)
    return {**told, **app.environment}


def _logs(app: App, places: Places, single: bool, now: float) -> tuple[Path | None, Path | None]:
    """Return the files of the application and of the sidecar. A single run leaves the application its terminal."""
    stamp = time.strftime("%Y%m%d%H%M%S", time.localtime(now))
    folder = places.logs if single else app.folder.path / ".dapr" / "logs"

    def path(part: str, destination: Destination) -> Path | None:
        return folder / f"{app.app_id}_{part}_{stamp}.log" if destination.to_file else None

    return None if single or not app.command else path("app", app.app_log), path(
        "daprd", app.sidecar_log or Destination.FILE
    )


def command_line(command: Sequence[str]) -> str:
    """Return a command as one would type it."""
    return shlex.join(command)
