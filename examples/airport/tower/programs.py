"""`pillion run` as processes: the run itself, and the second instances, which are killed in the middle of it.

Knows: how to start, kill and end them. Never knows: what they do.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tower import show
from tower.watch import STOP_S, Stalled, gone, listened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tower.scene import Scene

START_S = 60.0


@contextlib.contextmanager
def pillion(here: Scene, log: Path, file: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`pillion run -f`, ended in the end; it leaves no process behind."""
    programs = Path(sys.executable).parent
    environment = os.environ | here.environment
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [programs / "pillion", "run", "-f", file], cwd=here.folder, env=environment,
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            show.fail("pillion run does not end: killed")
            process.kill()
            process.wait()


@contextlib.contextmanager
def both(here: Scene, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], Second]]:
    """The run, and the second instances, which join its placement and scheduler when it has them."""
    with pillion(here, log, here.run_file) as process:
        _wait(process, here.port)  # the last sidecar of the run: whoever comes first provides placement and scheduler
        second = Second(here, log)
        with second.ended:
            second.start()
            yield process, second


def _wait(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until a sidecar serves. Raises `Stalled`."""
    deadline = time.monotonic() + START_S
    while not listened(port):
        if process.poll() is not None:
            raise Stalled(f"pillion run has ended with status {process.returncode}")
        if time.monotonic() > deadline:
            raise Stalled(f"pillion run does not start within {START_S:g} s")
        time.sleep(0.05)


class Second:
    """The second instances of those that run twice, with their sidecars in one process. `ended` ends them."""

    def __init__(self, here: Scene, log: Path) -> None:
        self._here, self._log = here, log
        self.ended = contextlib.ExitStack()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when the sidecars serve. Raises `Stalled`."""
        self._process = self.ended.enter_context(pillion(self._here, self._log, self._here.second_file))
        _wait(self._process, list(self._here.sidecars.values())[-1][1])

    def kill(self) -> None:
        """SIGKILL: no goodbye to anybody. Raises `Stalled` when an application survives it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        gone(self._here.second_ports)
