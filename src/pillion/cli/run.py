"""`pillion run`: one application, or those of a run file, with their sidecars in this process.

Knows: the options. What they mean is in `plan.py`, what happens in `conductor.py`; both are imported when a run begins.
"""

from __future__ import annotations

import gc
import os
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pillion.cli import say
from pillion.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pillion.cli.conductor import AnySidecar
    from pillion.cli.places import Places
    from pillion.cli.plan import Launch
    from pillion.cli.runfile import App, RunFile
    from pillion.cli.services import Services

RUN_FILES = ("dapr.yaml", "dapr.yml")
_PORT = click.IntRange(-1, 65535)
_SIDECAR = {
    "app_protocol": "app-protocol",
    "app_channel_address": "app-channel-address",
    "app_max_concurrency": "app-max-concurrency",
    "app_ssl": "app-ssl",
    "max_body_size": "max-body-size",
    "read_buffer_size": "read-buffer-size",
    "unix_domain_socket": "unix-domain-socket",
    "enable_app_health_check": "enable-app-health-check",
    "app_health_check_path": "app-health-check-path",
    "app_health_probe_interval": "app-health-probe-interval",
    "app_health_probe_timeout": "app-health-probe-timeout",
    "app_health_threshold": "app-health-threshold",
    "enable_api_logging": "enable-api-logging",
    "enable_profiling": "enable-profiling",
    "dapr_listen_addresses": "dapr-listen-addresses",
    "log_level": "log-level",
}
"""Options that the sidecar gets under the same name, when they are given."""


def _options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def apply(command: Any) -> Any:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


@click.command(context_settings={"allow_interspersed_args": False}, options_metavar="[OPTIONS]")
@_options(
    click.option("-a", "--app-id", help="Id of the application; by default two random words."),
    click.option("-p", "--app-port", type=_PORT, help="Port the application listens on."),
    click.option("-f", "--run-file", metavar="FILE|FOLDER|-", help="Run all applications of a run file."),
    click.option("-P", "--app-protocol", help="http (default), https, h2c, grpc or grpcs."),
    click.option("-H", "--dapr-http-port", type=_PORT, help="Port of the HTTP API; by default 3500 or a free one."),
    click.option("-G", "--dapr-grpc-port", type=_PORT, help="Port of the gRPC API; by default 50001 or a free one."),
    click.option("-I", "--dapr-internal-grpc-port", type=_PORT, help="Port for other sidecars; by default a free one."),
    click.option("-M", "--metrics-port", type=_PORT, help="Port of the metrics; by default a free one."),
    click.option("--profile-port", type=_PORT, help="Port for profiling; by default a free one."),
    click.option("--resources-path", multiple=True, metavar="FOLDER", help="Folder of resources; may be repeated."),
    click.option("-d", "--components-path", metavar="FOLDER", help="Deprecated: use --resources-path."),
    click.option("-c", "--config", metavar="FILE", help="Configuration file."),
    click.option("--app-channel-address", help="Host the application listens on; by default 127.0.0.1."),
    click.option("--app-max-concurrency", type=int, help="Calls of the application at once; by default no limit."),
    click.option("--app-ssl", is_flag=True, default=None, help="Deprecated: use --app-protocol https or grpcs."),
    click.option("--placement-host-address", help="Placement service of the actors; empty: no actors."),
    click.option("--scheduler-host-address", help="Scheduler service of jobs and reminders; empty: none."),
    click.option("--log-level", help="Least level of the sidecar's log on the console; by default warn."),
    click.option("--max-body-size", help="Largest request body; by default 4Mi."),
    click.option("--read-buffer-size", help="Largest head of an HTTP request; by default 4Ki."),
    click.option("-u", "--unix-domain-socket", metavar="FOLDER", help="Serve the APIs on socket files, not on TCP."),
    click.option("--enable-app-health-check", is_flag=True, default=None, help="Probe the application's health."),
    click.option("--app-health-check-path", help="Path of the probe; by default /healthz."),
    click.option("--app-health-probe-interval", type=int, help="Seconds between probes; by default 5."),
    click.option("--app-health-probe-timeout", type=int, help="Milliseconds a probe may take; by default 500."),
    click.option("--app-health-threshold", type=int, help="Failed probes that make it unhealthy; by default 3."),
    click.option("--enable-api-logging", is_flag=True, default=None, help="Log every API call."),
    click.option("--enable-profiling", is_flag=True, default=None, help="Open the profiling port."),
    click.option("--dapr-listen-addresses", help="Addresses the APIs listen on; by default loopback alone."),
    click.option("--log-as-json", is_flag=True, help="Write status lines and logs as JSON objects."),
)
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(ctx: click.Context, /, command: tuple[str, ...], run_file: str | None, log_as_json: bool, **given: Any) -> int:
    """Run COMMAND with a sidecar; without COMMAND the sidecar alone.

    \b
    pillion run --app-id orders --app-port 8000 -- python3 app.py
    pillion run -f .
    """
    as_json = log_as_json or bool(ctx.obj and ctx.obj["log_as_json"])
    say.use_json(as_json)
    if run_file is None:
        return _run_one(command, given, as_json)
    for name, value in given.items():
        if value not in (None, ()):
            say.warning(f"--{name.replace('_', '-')} is ignored: the run file says how applications are run")
    if command:
        say.warning("the command is ignored: the run file says what is run")
    return _run_file(run_file, as_json)


def _run_one(command: tuple[str, ...], given: dict[str, Any], as_json: bool) -> int:
    from pillion.cli import places as places_of
    from pillion.cli import plan
    from pillion.cli.runfile import App, Place
    from pillion.sidecar.presence import running

    places = places_of.of(os.environ)
    here = Path.cwd()
    folders = list(given["resources_path"])
    if given["components_path"]:
        say.warning("--components-path is deprecated: use --resources-path")
        folders = folders or [given["components_path"]]
    flags = {
        flag: str(value).lower() if isinstance(value, bool) else str(value)
        for name, flag in _SIDECAR.items()
        if (value := given[name]) is not None
    }
    config = given["config"]
    app = App(
        where="",
        app_id=given["app_id"] or plan.random_id({record.app_id for record in running(places.home)}),
        folder=Place(here, "the working directory"),
        command=command,
        app_port=_port(given["app_port"]),
        http_port=_port(given["dapr_http_port"]),
        grpc_port=_port(given["dapr_grpc_port"]),
        internal_port=_port(given["dapr_internal_grpc_port"]),
        metrics_port=_port(given["metrics_port"]),
        profile_port=_port(given["profile_port"]),
        flags=flags,
        config=None if config is None else _existing(config, "--config", folder=False),
        resources=tuple(_existing(folder, "--resources-path", folder=True) for folder in folders),
        placement=given["placement_host_address"],
        scheduler=given["scheduler_host_address"],
    )
    return _start([app], places, as_json=as_json)


def _port(given: int | None) -> int:
    return -1 if given is None or given == 0 else given


def _existing(text: str, flag: str, *, folder: bool) -> Any:
    from pillion.cli.runfile import Place

    path = Path(text).expanduser().absolute()
    if path.is_dir() if folder else path.is_file():
        return Place(path, flag)
    what = "folder" if folder else "file"
    said = f"{path} is not a {what}" if path.exists() else f"the {what} {path} does not exist"
    raise ConfigError(said, where=flag, mend="create it or correct the path")


def _run_file(source: str, as_json: bool) -> int:
    from pillion.cli import places as places_of
    from pillion.cli import runfile

    found, path = read_run_file(source)
    for warning in found.warnings:
        say.warning(warning)
    absent = runfile.missing(found)
    if absent is not None:
        raise absent
    return _start(found.apps, places_of.of(os.environ), as_json=as_json, file=path, name=found.name)


def run_file_path(source: str) -> Path:
    """Return the absolute path of a run file that is named by itself or by its folder."""
    path = Path(source).expanduser().resolve()
    if path.is_dir():
        candidates = [path / name for name in RUN_FILES]
        path = next((candidate for candidate in candidates if candidate.is_file()), candidates[0])
    return path


def read_run_file(source: str) -> tuple[RunFile, str]:
    """Read a run file, that of a folder, or standard input (`-`). Return it and its absolute path, "" for the latter.

    Raises `ConfigError`.
    """
    from pillion.cli import runfile

    if source == "-":
        return runfile.parse(sys.stdin.read(), source="standard input", folder=Path.cwd(), home=Path.home()), "-"
    path = run_file_path(source)
    if not path.exists():
        raise ConfigError("does not exist", where=str(path), mend="name a run file or its folder")
    if path.suffix.lower() not in (".yaml", ".yml"):
        raise ConfigError("is no run file: its name must end in .yaml or .yml", where=str(path))
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise ConfigError(
            f"cannot be read: {reason}", where=str(path), mend="it must be text that can be read"
        ) from error
    shown = os.path.relpath(path)
    return runfile.parse(text, source=min(shown, str(path), key=len), folder=path.parent, home=Path.home()), str(path)


def _start(apps: Sequence[App], places: Places, *, as_json: bool, file: str = "", name: str = "") -> int:
    from pillion.cli import places as places_of
    from pillion.cli import plan
    from pillion.sidecar.presence import running

    places_of.prepare(places)
    places_of.forget_old_logs(places)
    with _one_at_a_time(places) as release:
        chosen = plan.with_ports(apps, running(places.home), usual=not file)
        launches = [
            plan.launch(app, places=places, environ=os.environ, single=not file, run_file=file, run_name=name)
            for app in chosen
        ]
        launches = [replace(launch, options=replace(launch.options, log_as_json=as_json)) for launch in launches]
        return _conduct(launches, places, single=not file, started=release)


@contextmanager
def _one_at_a_time(places: Places) -> Iterator[Callable[[], None]]:
    """Hold the lock under which runs of this machine choose their ports; the yielded function lets go of it early.

    Ports are settled when the sidecars listen; until then another run might choose the same ones.
    """
    import fcntl

    path = places.home / "ports.lock"
    try:
        held = [os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)]
    except OSError as error:
        mend = "set PILLION_HOME to a folder that can be written"
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(path), mend=mend) from error

    def release() -> None:
        while held:
            os.close(held.pop())

    try:
        try:
            fcntl.flock(held[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say.pending("waiting for another run that is just starting")
            fcntl.flock(held[0], fcntl.LOCK_EX)
        yield release
    finally:
        release()


def _conduct(launches: Sequence[Launch], places: Places, *, single: bool, started: Callable[[], None]) -> int:
    from pillion.cli import conductor
    from pillion.cli.services import Services, wanted
    from pillion.sidecar.lifecycle import run_loop

    def all_serve() -> None:
        started()
        gc.collect()
        gc.freeze()  # what the start made lives as long as the process: no need to look at it again

    async def conduct() -> int:
        services = Services(places.home, _ports(launches)) if any(map(wanted, launches)) else None
        run = conductor.Run(
            launches, places=places, single=single, sidecar=lambda launch: _sidecar(launch, places, services),
            started=all_serve, services=services,
        )  # fmt: skip
        status = await run.run()
        if run.forced:
            os._exit(status)  # whatever still closes in the background was told to be left
        return status

    return run_loop(conduct())


def _ports(launches: Sequence[Launch]) -> set[int]:
    """The ports that are settled for sidecars and applications."""
    found = set[int]()
    for options in (launch.options for launch in launches):
        found |= {
            options.app_port, options.dapr_http_port, options.dapr_grpc_port, options.dapr_internal_grpc_port or 0,
            options.metrics_port, options.profile_port,
        }  # fmt: skip
    return found


def _sidecar(launch: Launch, places: Places, services: Services | None) -> AnySidecar:
    from pillion.cli.places import NAMES
    from pillion.sidecar.host import Sidecar
    from pillion.sidecar.renewal import RenewableSidecar

    options = launch.options if services is None else services.options(launch)
    scheduler = services.scheduler if services is not None and launch.scheduler is None else None
    return RenewableSidecar(
        lambda restart, doors: Sidecar(
            options, launch.environment, data_dir=str(places.home), components=launch.components, names=NAMES,
            restart=restart, doors=doors, scheduler=scheduler,
        )
    )  # fmt: skip
