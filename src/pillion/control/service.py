"""What every program of the control plane has in common: flags, health, metrics, the life of the process.

Spec `control-plane.md` 0. Knows: ports, signals, exit codes. Never knows: what a program is for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pillion import REFERENCE_VERSION
from pillion.blocks.health import Readiness
from pillion.errors import ComponentError, ConfigError
from pillion.net import listen
from pillion.net.exchange import Response
from pillion.net.http_server import HttpServer
from pillion.observe import logs, process
from pillion.observe.endpoint import MAX_BODY, MAX_HEAD, MetricsApi
from pillion.observe.metrics import Registry
from pillion.sidecar import arguments, environment
from pillion.sidecar.arguments import Kind, UsageError, option
from pillion.sidecar.lifecycle import run_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pillion.net.exchange import Headers, HttpService, Request
    from pillion.sidecar.environment import Environment

log = logging.getLogger("pillion.control")
OK, FAILED, USAGE = 0, 1, 2
FORCED_AFTER_S = 5.0
"""A program that has not stopped in order by then ends as it is."""
GRACE_S = 1.0
"""How long a scrape may go on once the program stops."""
STATUS_OK, STATUS_NOT_READY = 200, 503


@dataclass(frozen=True)
class Common:
    """The flags of every program. A program's own are fields of a subclass."""

    listen_address: str = option(Kind.TEXT, "", "address the service listens on; empty: all interfaces")
    healthz_port: int = option(Kind.PORT, 8080, "port of the health check")
    healthz_listen_address: str = option(Kind.TEXT, "", "address the health check listens on; empty: all interfaces")
    enable_metrics: bool = option(Kind.BOOL, True, "open the metrics port")
    metrics_port: int = option(Kind.PORT, 9090, "the metrics port")
    metrics_listen_address: str = option(Kind.TEXT, "0.0.0.0", "address the metrics port listens on")
    log_level: str = option(Kind.TEXT, "info", "least level that is logged: " + ", ".join(logs.LEVELS))
    log_as_json: bool = option(Kind.BOOL, False, "log one JSON object a line")
    tls_enabled: bool = option(Kind.BOOL, False, "mutual TLS; needs a certificate authority")
    trust_domain: str = option(Kind.TEXT, "localhost", "trust domain of the certificates")
    trust_anchors_file: str = option(
        Kind.TEXT, "/var/run/secrets/dapr.io/tls/ca.crt", "file of the certificates that others are verified against"
    )
    sentry_address: str = option(Kind.TEXT, "", "address of the certificate authority")
    mode: str = option(Kind.TEXT, "standalone", "where the program runs: standalone or kubernetes")
    version: bool = option(Kind.BOOL, False, "print the version and exit")


O = TypeVar("O", bound=Common)  # noqa: E741


class Program(Protocol):
    """What a process runs. `open` raises `ConfigError`, `ComponentError` or `CannotListen`; `close` works after half of
    it.
    """

    async def open(self) -> None: ...

    async def close(self) -> None: ...


class Health:
    """`GET /healthz`: 200 when everything is ready, 503 until then; both without a body."""

    def __init__(self, readiness: Readiness) -> None:
        self._readiness = readiness

    def streams(self, method: str, target: bytes, headers: Headers) -> bool:
        return False

    async def serve(self, request: Request) -> Response:
        if request.target.partition(b"?")[0] != b"/healthz":
            return Response(404)
        return Response(STATUS_NOT_READY if self._readiness.missing() else STATUS_OK)


class Outlets:
    """The ports besides a program's own: health and metrics.

    A port that is taken is fatal for health, which others rely on, and an error in the log for metrics.
    """

    def __init__(
        self, options: Common, readiness: Readiness, registry: Registry, front: Callable[[HttpService], HttpService]
    ) -> None:
        self._options = options
        self._readiness = readiness
        self._registry = registry
        self._front = front
        self._stack = AsyncExitStack()
        self.healthz_port = options.healthz_port

    async def open(self) -> None:
        """Raises `CannotListen`."""
        options = self._options
        self.healthz_port = await self._serve(
            self._front(Health(self._readiness)), options.healthz_listen_address, options.healthz_port
        )
        if not options.enable_metrics:
            return
        self._registry.collect(process.text)
        try:
            await self._serve(MetricsApi(self._registry), options.metrics_listen_address, options.metrics_port)
        except listen.CannotListen as error:
            log.error("metrics are not served: %s", error)

    async def _serve(self, service: HttpService, address: str, port: int) -> int:
        server = HttpServer(service, max_body=MAX_BODY, max_head=MAX_HEAD)
        self._stack.push_async_callback(server.close, GRACE_S)
        listeners = await listen.tcp(server, (address,), port)
        self._stack.callback(listeners.close)
        return listeners.port

    async def close(self) -> None:
        await self._stack.aclose()


def main(
    program: str,
    options: type[O],
    make: Callable[[O, Environment, Readiness, Registry], Program],
    check: Callable[[O, frozenset[str]], Sequence[str]],
    argv: Sequence[str] | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    front: Callable[[Any, HttpService], HttpService] | None = None,
) -> int:
    """Read the command line and run a program until a signal ends it; return the exit status.

    `check` is given the options and the names of the flags that were written; it raises `ConfigError`, or returns what
    deserves a warning. `front`, given the program and the health check, returns what serves on the health port.
    """
    environ = os.environ if environ is None else environ
    rows = arguments.rows_of(options)
    try:
        said = arguments.read(rows, sys.argv[1:] if argv is None else argv, environ)
        if said.help:
            _print(arguments.usage(program, rows))
            return OK
        chosen = options(**{name.replace("-", "_"): value for name, value in said.values.items()})
        if chosen.version:
            _print(f"{REFERENCE_VERSION}\n")
            return OK
        _check(chosen)
        warnings = [*said.warnings, *check(chosen, said.given)]
    except UsageError as error:
        _print(f"{error}\n{arguments.usage(program, rows)}", sys.stderr)
        return USAGE
    except ConfigError as error:
        _print(f"{program}: {error}\n", sys.stderr)
        return FAILED
    _print("".join(f"{program}: {warning}\n" for warning in warnings), sys.stderr)
    logs.setup(level=chosen.log_level.lower(), as_json=chosen.log_as_json)
    readiness, registry = Readiness(), Registry({})
    surroundings = environment.read(environ)

    async def run() -> int:
        made = make(chosen, surroundings, readiness, registry)
        outlets = Outlets(chosen, readiness, registry, lambda health: front(made, health) if front else health)
        return await _run(program, made, outlets)

    try:
        return run_loop(run())
    except (ConfigError, ComponentError, listen.CannotListen) as error:
        log.critical("%s cannot start: %s", program, error)
        return FAILED


def _check(options: Common) -> None:
    if options.log_level.lower() not in logs.LEVELS:
        raise ConfigError(
            f"unknown level {options.log_level!r}", where="--log-level", mend="one of " + ", ".join(logs.LEVELS)
        )
    if options.tls_enabled:
        raise ConfigError(
            "mutual TLS is not offered by this program", where="--tls-enabled", mend="leave it out, or use a network "
            "that is closed to others",
        )  # fmt: skip
    if options.mode != "standalone":
        raise ConfigError("this program runs in standalone mode alone", where="--mode", mend="leave it out")


async def _run(name: str, program: Program, outlets: Outlets) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()

    def asked() -> None:
        if stop.is_set():
            log.critical("stopping at once")
            logging.shutdown()
            os._exit(FAILED)
        stop.set()

    _on_signals(loop, asked)
    try:
        await outlets.open()
        opening = asyncio.ensure_future(program.open())
        stopping = asyncio.ensure_future(stop.wait())
        try:
            await asyncio.wait((opening, stopping), return_when=asyncio.FIRST_COMPLETED)
            if opening.done():
                opening.result()
                log.info("%s is running", name)
                await stopping
        finally:
            opening.cancel()
            stopping.cancel()
            await asyncio.gather(opening, stopping, return_exceptions=True)
    finally:
        code = await _end(program, outlets)
    if not code:
        log.info("%s stopped", name)
    return code


async def _end(program: Program, outlets: Outlets) -> int:
    try:
        async with asyncio.timeout(FORCED_AFTER_S):
            await program.close()
            await outlets.close()
    except TimeoutError:
        log.critical("not stopped within %g s: ending as it is", FORCED_AFTER_S)
        return FAILED
    return OK


def _on_signals(loop: asyncio.AbstractEventLoop, asked: Callable[[], None]) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        if sys.platform == "win32":
            signal.signal(number, lambda *_: loop.call_soon_threadsafe(asked))
        else:
            loop.add_signal_handler(number, asked)


def _print(text: str, stream: Any = None) -> None:
    print(text, end="", file=stream or sys.stdout, flush=True)
