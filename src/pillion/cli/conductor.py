"""A run: sidecars and applications started in order, watched, and ended in order.

Knows: the order, and what the end of one means for the others. Never knows: files, flags and the choice of ports, which
are settled (`plan.py`). Sidecars start first and stop last: an application finds its sidecar answering from its first
line to its last one, and what it does on SIGTERM still works.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Protocol

from pillion.cli import plan, ports, say
from pillion.cli.output import Output, SidecarLog, Sink, prefix
from pillion.cli.processes import CannotStart, Guard, GuardLost
from pillion.errors import ComponentError, ConfigError
from pillion.net.exchange import Request
from pillion.net.http_client import HttpClient, HttpError
from pillion.net.listen import CannotListen
from pillion.observe import logs
from pillion.sidecar.presence import announce, record_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillion.cli.places import Places
    from pillion.cli.plan import Launch
    from pillion.cli.processes import Process
    from pillion.sidecar.presence import Presence, Record

GRACE_S = 5.0
"""What applications get between SIGTERM and SIGKILL."""
HINT_S = 10.0
"""When an application that has not opened its port earns a hint."""
LABEL_S = 5.0
FAILED, INTERRUPTED = 1, 130
_ASKED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_FAULTS = (ConfigError, ComponentError, CannotListen, CannotStart, OSError)
"""What can go wrong at the start through no fault of ours; their texts are for people."""
log = logging.getLogger("pillion.cli")


class AnySidecar(Protocol):
    """What a run needs of a sidecar (`pillion.sidecar.host.Sidecar`)."""

    ended: asyncio.Future[int]

    @property
    def http_port(self) -> int: ...

    @property
    def grpc_port(self) -> int: ...

    @property
    def internal_port(self) -> int: ...

    async def start(self) -> None: ...

    async def end_messages(self) -> None: ...

    async def release(self) -> None: ...

    async def stop(self) -> None: ...


class AnyServices(Protocol):
    """What sidecars share (`pillion.cli.services.Services`)."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...


@dataclass(slots=True)
class Part:
    """One application and its sidecar. `handle` is the writing end of its output, None when it has our own."""

    launch: Launch
    sidecar_sink: Sink
    handle: int | None = None
    sidecar: AnySidecar | None = None
    starting: asyncio.Task[Process] | None = None
    process: Process | None = None
    presence: Presence | None = None
    code: int | None = None
    """The exit code it stands for; None while it runs."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Run:
    """All of one `pillion run`. `forced` is set when somebody asked twice: there is nothing to wait for then."""

    def __init__(
        self,
        launches: Sequence[Launch],
        *,
        places: Places,
        single: bool,
        sidecar: Callable[[Launch], AnySidecar],
        started: Callable[[], None] = lambda: None,
        services: AnyServices | None = None,
    ) -> None:
        """`sidecar` makes one, once the `services` are open; `started` is called when all of them serve."""
        self.forced = False
        self._started = started
        self._services = services
        self._places, self._single, self._make = places, single, sidecar
        self._output = Output()
        self._parts = [self._part(number, launch) for number, launch in enumerate(launches)]
        self._guard: Guard | None = None
        self._asked: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._asked_again = asyncio.Event()
        self._logging = SidecarLog(
            self._output,
            {part.launch.app_id: part.sidecar_sink for part in self._parts} | {"": self._parts[0].sidecar_sink},
            as_json=launches[0].options.log_as_json,
            coloured=say.coloured(2 if single else 1),
        )

    def _part(self, number: int, launch: Launch) -> Part:
        console = 2 if self._single else 1
        colours = say.coloured(console)
        level = logs.LEVELS[launch.options.log_level]
        sink = Sink(
            prefix(f"SIDECAR - {launch.app_id}", number, coloured=colours),
            console if launch.sidecar_console else -1,
            launch.sidecar_log,
            console_level=launch.console_level,
            file_level=level,
        )
        part = Part(launch, sink)
        if not self._single and launch.command:
            label = prefix(f"APP - {launch.app_id}", number, coloured=colours)
            part.handle = self._output.pipe(Sink(label, 1 if launch.app_console else -1, launch.app_log))
        return part

    # -- the whole

    async def run(self) -> int:
        """Run to the end; return the exit status."""
        loop = asyncio.get_running_loop()
        for number in _ASKED:
            loop.add_signal_handler(number, self._ask, number)
        self._listen_to_log()
        work = loop.create_task(self._work())
        try:
            await asyncio.wait({work, self._asked}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                say.pending("stopping (again to stop at once)")
                work.cancel()
            outcome = (await asyncio.gather(work, return_exceptions=True))[0]
            await self._end()
            if isinstance(outcome, Exception):
                raise outcome
            return self._status(outcome)
        finally:
            logging.getLogger().removeHandler(self._logging)
            await asyncio.to_thread(self._output.close, 0.2 if self.forced else 2.0)

    def _ask(self, number: int) -> None:
        if not self._asked.done():
            self._asked.set_result(number)
        else:
            self._asked_again.set()

    def _listen_to_log(self) -> None:
        levels = [min(part.sidecar_sink.file_level, part.sidecar_sink.console_level) for part in self._parts]
        for part in self._parts:
            self._output.adopt(part.sidecar_sink)
        logging.getLogger().addHandler(self._logging)
        logging.getLogger("pillion").setLevel(min(levels))
        self._output.start()

    def _status(self, outcome: object) -> int:
        if isinstance(outcome, int) and outcome:
            return outcome
        failed = [part.code for part in self._parts if part.code not in (None, 0, 128 + signal.SIGTERM)]
        if self._asked.done() and self._asked.result() == signal.SIGINT:
            return INTERRUPTED
        if not failed:
            return 0
        return failed[0] or FAILED if self._single else FAILED

    async def _work(self) -> int:
        """Start everything and follow it until all has ended; a status of its own when the start fails."""
        part = self._parts[0]
        try:
            self._guard = await Guard.open([part.handle for part in self._parts if part.handle is not None])
            if self._services is not None:
                await self._services.open()
            for part in self._parts:
                await self._start_sidecar(part)
            self._started()
            for part in self._parts:
                await self._start_application(part)
        except GuardLost:
            say.failure("the process that guards the applications was killed")
            return FAILED
        except _FAULTS as error:
            say.failure(f"{part.launch.app_id}: {error}")
            return FAILED
        await asyncio.gather(*(self._follow(part) for part in self._parts))
        return 0

    # -- start

    async def _start_sidecar(self, part: Part) -> None:
        launch = part.launch
        with logs.of_app(launch.app_id):
            part.sidecar = self._make(launch)
            await part.sidecar.start()
        record = record_of(
            launch.options, http_port=part.sidecar.http_port, grpc_port=part.sidecar.grpc_port,
            internal_port=part.sidecar.internal_port, created=time.time(), command=plan.command_line(launch.command),
        )  # fmt: skip
        record = replace(
            record, cli_pid=os.getpid(), run_file=launch.run_file, run_name=launch.run_name,
            app_log=str(launch.app_log or ""), sidecar_log=str(launch.sidecar_log or ""),
        )  # fmt: skip
        part.presence = await asyncio.to_thread(announce, record, self._places.home)  # the disk may be busy
        say.success(f"{launch.app_id}: {_addresses(record, launch.options.socket_path('grpc'))}")

    async def _start_application(self, part: Part) -> None:
        launch = part.launch
        labels = {"cliPID": str(os.getpid())}
        if launch.command:
            assert self._guard is not None
            assert part.presence is not None
            start = self._guard.start(
                launch.app_id, launch.command, folder=launch.folder, environment=launch.variables, output=part.handle
            )
            part.starting = asyncio.create_task(start)
            part.process = await asyncio.shield(part.starting)  # what has begun to start must be known to be stopped
            await asyncio.to_thread(part.presence.update, app_pid=part.process.pid)
            labels |= {"appPID": str(part.process.pid), "appCommand": plan.command_line(launch.command)}
            if launch.options.app_port > 0:
                part.tasks.append(asyncio.create_task(self._hint(part, part.process)))
        if launch.run_file:
            labels |= {"runTemplatePath": launch.run_file, "runTemplateName": launch.run_name}
            labels |= {"appLogPath": str(launch.app_log or ""), "daprdLogPath": str(launch.sidecar_log or "")}
        part.tasks.append(asyncio.create_task(self._label(part, labels)))

    async def _label(self, part: Part, labels: dict[str, str]) -> None:
        """Tell the sidecar who belongs to it (spec 8.2); tools read it from its metadata."""
        assert part.presence is not None
        record, token = part.presence.record, part.launch.environment.api_token
        headers = [(b"dapr-api-token", token.encode())] if token else []
        client = HttpClient(record.host, record.http_port, unix=record.socket or None)
        try:
            for name, value in labels.items():
                request = Request("PUT", f"/v1.0/metadata/{name}".encode(), headers, value.encode())
                await client.request(request, timeout_s=LABEL_S)
        except (HttpError, TimeoutError, OSError) as error:
            log.info("the labels of %s could not be set: %s", part.launch.app_id, error)
        finally:
            await client.close()

    async def _hint(self, part: Part, process: Process) -> None:
        """Say what an application that does not open its port might listen on instead."""
        await asyncio.wait({process.ended}, timeout=HINT_S)
        options = part.launch.options
        port, host = options.app_port, options.app_channel_address
        if process.ended.done() or await asyncio.to_thread(ports.listens, port, host):
            return
        found = await asyncio.to_thread(ports.listened_by, process.pid)
        text = f"{part.launch.app_id} has not opened port {port} yet; its sidecar waits for it"
        if found:
            known = ", ".join(map(str, found))
            flag = "appPort:" if part.launch.run_file else "--app-port"
            text += f". It listens on {known}: perhaps {flag} {found[0]} is meant, or an address other than {host}"
        say.warning(text)

    # -- the way

    async def _follow(self, part: Part) -> None:
        """Wait until the application or its sidecar ends, and end the other."""
        assert part.sidecar is not None
        ends: set[asyncio.Future[int]] = {part.sidecar.ended}
        if part.process is not None:
            ends.add(part.process.ended)
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        if part.process is not None and part.process.ended.done():
            part.code = self._report_application(part, part.process.ended.result())
        else:
            part.code = self._report_sidecar(part, part.sidecar.ended.result())
        await self._stop_application(part)
        await self._stop_sidecar(part)

    def _report_application(self, part: Part, status: int) -> int:
        who = part.launch.app_id
        if status == 0:
            say.success(f"{who} has ended")
        elif status > 0:
            say.failure(f"{who} ended with status {status}")
        elif status == -signal.SIGTERM:
            say.success(f"{who} was ended by SIGTERM")
        else:
            say.failure(f"{who} was killed by {_name_of(-status)}")
        return status if status >= 0 else 128 - status

    def _report_sidecar(self, part: Part, code: int) -> int:
        who, path = part.launch.app_id, part.launch.sidecar_log
        if code == 0:
            say.note(f"the sidecar of {who} was asked to shut down")
        else:
            say.failure(f"the sidecar of {who} has failed" + (f"; its log: {path}" if path else ""))
        return code

    # -- end

    async def _end(self) -> None:
        """End everything in order; at once when somebody asks again."""
        ending = asyncio.create_task(self._stop_all())
        again = asyncio.create_task(self._asked_again.wait())
        await asyncio.wait({ending, again}, return_when=asyncio.FIRST_COMPLETED)
        again.cancel()
        if ending.done():
            ending.result()
            return
        self.forced = True
        ending.cancel()
        left = [part.process for part in self._parts if part.process is not None and not part.process.gone.done()]
        for process in left:
            process.signal(signal.SIGKILL)
        if left:
            await asyncio.wait({process.gone for process in left}, timeout=1.0)
        for part in self._parts:
            if part.presence is not None:
                part.presence.withdraw()

    async def _stop_all(self) -> None:
        """Messages first, of all: applications can still answer and call each other, and each other's actors; then
        actors, which hear of their end; then applications, then sidecars.
        """
        sidecars = [part.sidecar for part in self._parts if part.sidecar is not None]
        await asyncio.gather(*(sidecar.end_messages() for sidecar in sidecars))
        await asyncio.gather(*(sidecar.release() for sidecar in sidecars))
        await asyncio.gather(*(self._stop_application(part) for part in self._parts))
        await asyncio.gather(*(self._stop_sidecar(part) for part in self._parts))
        if self._services is not None:
            await self._services.close()
        if self._guard is not None:
            await self._guard.close()

    async def _stop_application(self, part: Part) -> None:
        for task in part.tasks:
            task.cancel()
        if part.starting is not None:
            with contextlib.suppress(CannotStart, GuardLost):
                part.process = await part.starting
        process = part.process
        if process is None or process.gone.done():
            return
        if not await process.stop(GRACE_S):
            what = (
                "left processes behind that"
                if process.ended.done() and part.code is not None
                else "was told to end and"
            )
            say.warning(f"{part.launch.app_id} {what} did not end in {GRACE_S:g} s: killed")
        if part.code is None and process.ended.done():
            status = process.ended.result()
            part.code = status if status >= 0 else 128 - status

    async def _stop_sidecar(self, part: Part) -> None:
        if part.sidecar is not None:
            with logs.of_app(part.launch.app_id):
                await part.sidecar.stop()
        if part.presence is not None:
            part.presence.withdraw()


def _addresses(record: Record, grpc_socket: str) -> str:
    if record.socket:
        return f"HTTP {record.socket}, gRPC {grpc_socket}"
    host = f"[{record.host}]" if ":" in record.host else record.host
    return f"HTTP http://{host}:{record.http_port}, gRPC {host}:{record.grpc_port}"


def _name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
