"""Real schedulers for tests: `pillion-scheduler` as a process on free ports, ended when the test ends."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

from sidecars import START_S, STOP_S, free_ports

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class SchedulerProcess:
    """One `pillion-scheduler`. Use as a context manager; `folder` gets its data and its log."""

    def __init__(self, folder: Path, name: str = "scheduler-0", *, arguments: Sequence[str] = ()) -> None:
        self.folder = folder
        self.port, self.healthz_port, self.metrics_port = free_ports(3)
        self.address = f"127.0.0.1:{self.port}"
        self.log_path = folder / f"{name}-{self.port}.log"
        self.command = [
            sys.executable, "-m", "pillion.control.scheduler_main", "--id", name, "--port", str(self.port),
            "--listen-address", "127.0.0.1", "--healthz-port", str(self.healthz_port), "--healthz-listen-address",
            "127.0.0.1", "--metrics-port", str(self.metrics_port), "--metrics-listen-address", "127.0.0.1",
            "--etcd-data-dir", str(folder / "data"), *arguments,
        ]  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, ready: bool = True) -> SchedulerProcess:
        """Start; with `ready` wait until it is healthy."""
        env = {**os.environ, "PYTHONWARNINGS": "default"}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=env, cwd=self.folder)
        deadline = time.monotonic() + START_S
        while ready and self.healthz() != 200:
            if self.process.poll() is not None:
                raise AssertionError(f"pillion-scheduler ended with {self.process.returncode}:\n{self.log()}")
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)
        return self

    def healthz(self) -> int:
        """The status of the health check, 0 while nobody answers."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self._get(self.healthz_port, "/healthz")[0]
        return 0

    def metrics(self) -> str:
        return self._get(self.metrics_port, "/")[1].decode()

    @staticmethod
    def _get(port: int, path: str) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
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

    def stop(self) -> int:
        """SIGTERM, then wait."""
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(STOP_S)

    def __enter__(self) -> SchedulerProcess:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
