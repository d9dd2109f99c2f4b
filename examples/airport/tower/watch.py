"""`pillion run` as a process, and how far the services are, asked through a sidecar of the tower's own."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tower import show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tower.scene import Scene

STALL_S = 90.0
"""How long nothing may move before the run counts as failed: longer than a broker waits before it delivers again."""
LOOK_S = 0.25
STOP_S = 30.0


class Stalled(Exception):
    """The run does not come to its end; the text says what was seen last."""


@contextlib.contextmanager
def pillion(here: Scene, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`pillion run -f`, ended in the end; it leaves no process behind."""
    programs = Path(sys.executable).parent
    environment = os.environ | here.environment
    environment["PATH"] = f"{programs}{os.pathsep}{environment['PATH']}"
    with log.open("ab") as output:
        process = subprocess.Popen(
            [programs / "pillion", "run", "-f", here.run_file], cwd=here.folder, env=environment,
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


def to_the_end(here: Scene, process: subprocess.Popen[bytes], total: int, repeats: int) -> list[dict[str, Any]]:
    """Wait until all flights are in, and so many repeats; return the tallies of enrich, board and lost.

    Raises `Stalled`.
    """
    until(here, process, total, total)
    last, moved = -1, time.monotonic()
    while True:
        tallies = [ask(here, who) for who in ("enrich", "board", "lost")]
        repeated = tallies[0].get("repeated", -1)
        if all(tallies) and repeated >= repeats:
            return tallies
        if repeated != last:
            last, moved = repeated, time.monotonic()
        _check(process, moved, f"{repeated} of {repeats} repeats")
        time.sleep(LOOK_S)


def until(here: Scene, process: subprocess.Popen[bytes], total: int, number: int) -> int:
    """Show progress until so many of all flights are in; return how many they are. Raises `Stalled`."""
    last, moved = -1, time.monotonic()
    with show.progress(total) as tell:
        while True:
            shown, lost = (ask(here, who).get("flights", 0) for who in ("board", "lost"))
            tell(shown, lost)
            done: int = shown + lost
            if done >= number:
                return done
            if done != last:
                last, moved = done, time.monotonic()
            _check(process, moved, f"{done} of {total} flights")
            time.sleep(LOOK_S)


def _check(process: subprocess.Popen[bytes], moved: float, what: str) -> None:
    if process.poll() is not None:
        raise Stalled(f"pillion run has ended with status {process.returncode}")
    if time.monotonic() - moved > STALL_S:
        raise Stalled(f"nothing moves: {what} after {STALL_S:g} s")


def ask(here: Scene, who: str) -> dict[str, Any]:
    """Ask a service for its tally; nothing while it cannot answer."""
    url = f"http://127.0.0.1:{here.port}/v1.0/invoke/{who}/method/tally"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except (OSError, ValueError):
        return {}


def gone(here: Scene) -> None:
    """Wait until nobody listens on the run's ports any more: applications outlive a killed `pillion run` by a moment.

    Raises `Stalled`.
    """
    deadline = time.monotonic() + STOP_S
    for port in here.ports:
        while _listened(port):
            if time.monotonic() > deadline:
                raise Stalled(f"somebody still listens on port {port}, though pillion run was killed")
            time.sleep(0.05)


def _listened(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
