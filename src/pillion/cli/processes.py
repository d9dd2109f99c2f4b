"""Applications as processes: started by the guard, watched, signalled, ended with everything they started.

Knows: the guard's lines (`guard.py`). Never knows: sidecars.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

GUARD = Path(__file__).with_name("guard.py")
_LAST_WAIT_S = 7.0
"""The guard itself needs up to its own grace and a second."""


class CannotStart(Exception):
    """A command could not be started; the text is for people."""


class GuardLost(Exception):
    """The guard has ended, so nothing more can be started or told."""


class Process:
    """One application. `ended` resolves with the status of its first process, minus the number of a signal that killed
    it; `gone` when nothing that it started is left.
    """

    def __init__(self, guard: Guard, app: str, pid: int) -> None:
        loop = asyncio.get_running_loop()
        self.app, self.pid = app, pid
        self.ended: asyncio.Future[int] = loop.create_future()
        self.gone: asyncio.Future[None] = loop.create_future()
        self._guard = guard

    def signal(self, number: int) -> None:
        """Send a signal to all processes of the application that live."""
        if not self.gone.done():
            self._guard.send(do="signal", app=self.app, number=number)

    async def stop(self, grace_s: float) -> bool:
        """SIGTERM, after `grace_s` SIGKILL; return when all is gone: True when SIGTERM was enough."""
        self.signal(signal.SIGTERM)
        if await self._is_gone_in(grace_s):
            return True
        self.signal(signal.SIGKILL)
        await self._is_gone_in(1.0)  # what the kernel cannot kill yet (a disk that does not answer) is left behind
        return False

    async def _is_gone_in(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.shield(self.gone), seconds)
        return self.gone.done()

    def __repr__(self) -> str:
        state = "gone" if self.gone.done() else f"ended {self.ended.result()}" if self.ended.done() else "running"
        return f"<Process {self.app}, pid {self.pid}: {state}>"


class Guard:
    """The other end of the guard's socket."""

    def __init__(self, child: subprocess.Popen[bytes]) -> None:
        self.child = child
        self._writer: asyncio.StreamWriter
        self._starting: dict[str, asyncio.Future[Process]] = {}
        self._processes: dict[str, Process] = {}
        self._reading: asyncio.Task[None]

    @classmethod
    async def open(cls, handles: Sequence[int] = ()) -> Guard:
        """Start the guard. `handles` are open files that applications will be given as their output; they are closed
        on this side.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            child = _guard(theirs.fileno(), handles)
        for handle in handles:
            os.close(handle)
        guard = cls(child)
        ours.setblocking(False)
        reader, guard._writer = await asyncio.open_unix_connection(sock=ours)
        guard._reading = asyncio.create_task(guard._read(reader), name="guard")
        return guard

    async def start(
        self, app: str, argv: Sequence[str], *, folder: Path, environment: Mapping[str, str], output: int | None = None
    ) -> Process:
        """Start a command in `folder` with `environment` added to ours. Without `output`, one of the handles given to
        `open`, it has our own input and outputs. Raises `CannotStart` and `GuardLost`.
        """
        if self._reading.done():
            raise GuardLost
        answer: asyncio.Future[Process] = asyncio.get_running_loop().create_future()
        self._starting[app] = answer
        self.send(
            do="start", app=app, argv=list(argv), folder=str(folder), environment=dict(environment), output=output
        )
        return await answer

    def send(self, **order: Any) -> None:
        """Write one line; a guard that is gone has told so already."""
        if not self._writer.is_closing():
            self._writer.write(json.dumps(order).encode() + b"\n")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            async for line in reader:
                self._heard(json.loads(line))
        self._lost()

    def _heard(self, event: dict[str, Any]) -> None:
        app = event["app"]
        match event["event"]:
            case "started":
                process = self._processes[app] = Process(self, app, event["pid"])
                answer = self._starting.pop(app)
                if not answer.done():  # nobody waits any more: it ends with the guard
                    answer.set_result(process)
            case "failed":
                answer = self._starting.pop(app)
                if not answer.done():
                    answer.set_exception(CannotStart(event["error"]))
            case "ended":
                self._processes[app].ended.set_result(event["status"])
            case "gone":
                self._processes.pop(app).gone.set_result(None)

    def _lost(self) -> None:
        """The guard is gone: on Linux the kernel has killed the applications with it, elsewhere we do."""
        for answer in self._starting.values():
            if not answer.done():
                answer.set_exception(GuardLost())
        for process in self._processes.values():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            if not process.ended.done():
                process.ended.set_result(-signal.SIGKILL)
            process.gone.set_result(None)
        self._starting.clear()
        self._processes.clear()

    async def close(self) -> None:
        """End whatever is left and the guard itself."""
        self._writer.close()
        with contextlib.suppress(ConnectionError):
            await self._writer.wait_closed()
        await self._reading
        try:
            await asyncio.to_thread(self.child.wait, _LAST_WAIT_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()


def _guard(control: int, handles: Sequence[int]) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-I", "-S", str(GUARD), str(control)]
    return subprocess.Popen(command, pass_fds=(control, *handles), start_new_session=True)
