"""The processes that workflows need, for tests: placement, scheduler, sidecars with a store of actors, and workers."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

import planes
from sidecars import STOP_S, SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

APP = Path(__file__).parent / "workflow_app.py"


class WorkerProcess:
    """A program that runs workflows and activities beside a sidecar. It says `ready`, and ends when its input does."""

    def __init__(self, sidecar: SidecarProcess, program: Path, *arguments: str) -> None:
        self.sidecar = sidecar
        self.command = [sys.executable, str(program), *arguments]
        self.log_path = sidecar.folder / f"worker-{sidecar.http_port}.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, ready: bool = True) -> Self:
        env = {
            **os.environ, "DAPR_HTTP_PORT": str(self.sidecar.http_port), "DAPR_GRPC_PORT": str(self.sidecar.grpc_port),
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "GRPC_VERBOSITY": "NONE",
        }  # fmt: skip
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=env
            )
        if ready:
            assert self.process.stdout is not None
            for line in self.process.stdout:
                if line == b"ready\n":
                    break
            else:
                raise AssertionError(f"the worker ended:\n{self.log()}{self.sidecar.log()}")
        return self

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """End its input, then wait."""
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(STOP_S)

    @property
    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def restart(self) -> Self:
        """Start again, when it has ended or not."""
        self.end()
        return self.start()

    def end(self) -> None:
        """Kill it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.end()


def sqlite(folder: Path) -> str:
    """A store of actors in a file that several sidecars may share."""
    return component("store", "state.sqlite", connectionString=str(folder / "state.db"), actorStateStore="true")


def redis(address: str) -> str:
    return component("store", "state.redis", redisHost=address, actorStateStore="true")


@contextlib.contextmanager
def plane(folder: Path) -> Iterator[Sequence[str]]:
    """Placement and scheduler; gives what tells sidecars where they are."""
    with planes.placement(folder) as placement, planes.scheduler(folder) as scheduler:
        yield list(planes.flags(placement=placement, scheduler=scheduler))


def sidecar(
    folder: Path,
    flags: Sequence[str],
    app_id: str = "shop",
    *,
    store: str = "",
    more: Mapping[str, str] | None = None,
    arguments: Sequence[str] = (),
) -> SidecarProcess:
    """A sidecar with a store of actors; not started yet."""
    resources = {"store.yaml": store or sqlite(folder), **(more or {})}
    return SidecarProcess(folder, app_id, resources=resources, arguments=[*flags, *arguments])


def worker(sidecar: SidecarProcess, ledger: Path | None = None) -> WorkerProcess:
    """Our own worker; not started yet."""
    return WorkerProcess(sidecar, APP, str(ledger or sidecar.folder / "ledger"))
