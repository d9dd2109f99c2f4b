"""Placement and scheduler of a machine's runs: the first `pillion run` has them, and the next one follows when it ends.

Who serves is decided by a lock on a file of the data folder, which the kernel gives to the next process when this one
ends, however it ends. The ports are noted beside it, so that whoever follows is found at the same place by sidecars
that run on, those of other programs too. Jobs lie in a file of the data folder. Knows: ports, order. Never knows: how
actors are placed and jobs fire.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
from dataclasses import replace
from typing import TYPE_CHECKING

from pillion.cli import ports
from pillion.clock import SystemClock
from pillion.components.jobs_sqlite import SqliteJobs
from pillion.components.leadership_alone import Alone
from pillion.components.leadership_file import FileLock
from pillion.control.placement_server import PlacementServer
from pillion.control.scheduler_server import SchedulerServer
from pillion.errors import ComponentError
from pillion.net.listen import CannotListen
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

    from pillion.cli.plan import Launch
    from pillion.kinds.jobs import Scheduler
    from pillion.sidecar.flags import Options

log = logging.getLogger("pillion.cli.services")
HOST = "127.0.0.1"
PLACEMENT_PORT, SCHEDULER_PORT = 50005, 50006
"""Where the reference's services listen; others are taken when these are in use."""
LOCK, PORTS, JOBS = "services.lock", "services.json", "jobs.sqlite"
PATIENCE_S = 2.0
"""How long a lock that was free may take to be got: another may have been faster."""
RETRY_S = 0.5


def wanted(launch: Launch) -> bool:
    """Whether a launch leaves it to us to provide placement or a scheduler."""
    return launch.placement is None or launch.scheduler is None


class Services:
    """`open` returns when somebody serves; `scheduler` is set when that is this process. `taken`: ports of the run."""

    def __init__(self, home: Path, taken: Collection[int] = ()) -> None:
        self.scheduler: Scheduler | None = None
        self._home = home
        self._taken = set(taken)
        self._lock = FileLock(home / LOCK, SystemClock())
        self._placement_port, self._scheduler_port = PLACEMENT_PORT, SCHEDULER_PORT
        self._placement: PlacementServer | None = None
        self._server: SchedulerServer | None = None
        self._elected: asyncio.Task[int] | None = None
        self._tasks = Tasks("services of this machine")

    def options(self, launch: Launch) -> Options:
        """Return the options of a launch, with our addresses where it names none."""
        options = launch.options
        if launch.placement is None:
            options = replace(options, placement_host_address=(f"{HOST}:{self._placement_port}",))
        if launch.scheduler is None:
            options = replace(options, scheduler_host_address=(f"{HOST}:{self._scheduler_port}",))
        return options

    async def open(self) -> None:
        """Serve, or find out where another run serves. Raises `ComponentError` and `CannotListen`."""
        await self._lock.open()
        free = self._is_free()
        elected = self._elected = self._tasks.start(self._lock.elected(), "waiting to serve")
        self._read_ports()
        await asyncio.wait((elected,), timeout=PATIENCE_S if free else 0)
        if elected.done():
            term = elected.result()
            self._placement_port = ports.free(self._taken, wish=self._placement_port)
            self._scheduler_port = ports.free({*self._taken, self._placement_port}, wish=self._scheduler_port)
            await self._serve(term)
            if self._server is not None:
                self.scheduler = self._server.engine
        else:
            self._tasks.keep(self._follow, "following")

    async def close(self) -> None:
        """End what is served; another run follows at once."""
        await self._tasks.close()
        if self._placement is not None:
            await self._placement.close()
        if self._server is not None:
            await self._server.close()
        await self._lock.close()

    def _is_free(self) -> bool:
        """Whether nobody holds the lock at this moment."""
        import fcntl

        handle = os.open(self._home / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(handle)
        return True

    async def _follow(self) -> None:
        """Serve when whoever serves now has ended, at the same ports: sidecars look for it there."""
        term = await self._term()
        self._read_ports()
        while True:
            try:
                await self._serve(term)
                log.info("this run provides placement and scheduler from now on")
                return
            except (CannotListen, ComponentError) as error:
                log.warning("placement and scheduler cannot be provided yet: %s", error)
                await asyncio.sleep(RETRY_S)

    async def _term(self) -> int:
        """Wait for the lock, however often its file cannot be had."""
        while True:
            assert self._elected is not None
            try:
                return await self._elected
            except ComponentError as error:
                log.warning("placement and scheduler cannot be taken over yet: %s", error)
            await asyncio.sleep(RETRY_S)
            self._elected = self._tasks.start(self._lock.elected(), "waiting to serve")

    async def _serve(self, term: int) -> None:
        """Begin to serve; `term` has grown since the run before, whatever the clock has done."""
        clock = SystemClock()
        if self._placement is None:
            placement = PlacementServer(Alone(clock, term), clock=clock, addresses=(HOST,), port=self._placement_port)
            try:
                await placement.open()
            except BaseException:
                await placement.close()
                raise
            self._placement = placement
        server = self._scheduler_server()
        try:
            await server.open()
        except BaseException:
            await server.close()
            raise
        self._server = server
        await asyncio.to_thread(self._write_ports)  # renaming waits for a busy disk, and leases are kept by this loop

    def _scheduler_server(self) -> SchedulerServer:
        return SchedulerServer(
            SqliteJobs(str(self._home / JOBS)), clock=SystemClock(), member_id="pillion-run", addresses=(HOST,),
            port=self._scheduler_port, advertise=f"{HOST}:{{}}".format,
        )  # fmt: skip

    def _read_ports(self) -> None:
        """Where the last ones served; the usual ports when nobody has, or nobody can tell."""
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            noted = json.loads((self._home / PORTS).read_bytes())
            self._placement_port, self._scheduler_port = int(noted["placement"]), int(noted["scheduler"])

    def _write_ports(self) -> None:
        """Note the ports, whole or not at all."""
        path = self._home / PORTS
        fresh = path.with_suffix(f".{os.getpid()}")
        fresh.write_text(json.dumps({"placement": self._placement_port, "scheduler": self._scheduler_port}))
        fresh.replace(path)

    def __repr__(self) -> str:
        serving = "serving" if self._server is not None else "waiting"
        return f"<Services {serving}, placement {self._placement_port}, scheduler {self._scheduler_port}>"
