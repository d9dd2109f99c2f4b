"""Programs of the control plane for tests: real processes on free ports."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

from ports import free_ports
from sidecars import STOP_S, eventually

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import Self

HOST = "127.0.0.1"


class PlaneProcess:
    """One program, told apart by the name of its module. Use as a context manager."""

    def __init__(self, folder: Path, module: str, *arguments: str) -> None:
        self.port, self.healthz_port = free_ports(2)
        self.log_path = folder / f"{module}-{self.port}.log"
        self.command = [
            sys.executable, "-m", f"pillion.control.{module}", "--port", str(self.port), "--listen-address", HOST,
            "--healthz-port", str(self.healthz_port), "--healthz-listen-address", HOST, "--enable-metrics=false",
            *arguments,
        ]  # fmt: skip
        self.env = {**os.environ, "DAPR_HOST_IP": HOST, "PYTHONWARNINGS": "default"}
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{HOST}:{self.port}"

    def start(self, *, ready: bool = True) -> Self:
        """Start; with `ready` wait until it is healthy."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=self.env)
        if ready:
            try:
                eventually(self._answers)
            except BaseException:
                self.__exit__()
                raise
        return self

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log()
        return self.healthy()

    def healthy(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.ask("/healthz")[0] == 200
        return False

    def ask(self, path: str, port: int = 0) -> tuple[int, bytes]:
        """Ask the health port, or another one."""
        connection = http.client.HTTPConnection(HOST, port or self.healthz_port, timeout=30)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)
        if number == signal.SIGKILL:
            self.process.wait(STOP_S)

    def stop(self) -> None:
        """SIGTERM, then wait; SIGKILL when that takes too long."""
        assert self.process is not None
        self.process.terminate()
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the program did not stop:\n{self.log()}") from None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def placement(folder: Path, *arguments: str) -> PlaneProcess:
    """A placement service."""
    return PlaneProcess(folder, "placement_main", *arguments)


def scheduler(folder: Path, *arguments: str) -> PlaneProcess:
    """A scheduler whose jobs are in `folder`."""
    return PlaneProcess(folder, "scheduler_main", "--etcd-data-dir", str(folder / "jobs"), *arguments)


def flags(*, placement: PlaneProcess | None = None, scheduler: PlaneProcess | None = None) -> Sequence[str]:
    """What tells a sidecar where they are."""
    found: list[str] = []
    if placement is not None:
        found += ["--placement-host-address", placement.address]
    if scheduler is not None:
        found += ["--scheduler-host-address", scheduler.address]
    return found
