"""Applications as processes: nothing they start outlives them, or us."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pillion.cli.processes import CannotStart, Guard

SOURCES = str(Path(__file__).parents[2] / "src")
linux = pytest.mark.skipif(sys.platform != "linux", reason="needs a subreaper")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != b"Z"


def until_dead(*pids: int) -> None:
    """Wait until processes that are not ours to wait for have ended."""
    deadline = time.monotonic() + 60
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
            readable, _, _ = select.select([handle], [], [], deadline - time.monotonic())
            os.close(handle)
            assert readable, f"{pid} is still alive"


async def lines_of(handle: int, count: int) -> list[str]:
    def read() -> list[str]:
        with os.fdopen(handle) as pipe:
            return [pipe.readline().strip() for _ in range(count)]

    return await asyncio.wait_for(asyncio.to_thread(read), 90)


def test_a_status_and_a_signal_are_told(tmp_path: Path) -> None:
    """How the first process ends: its status, or minus the signal's number; and both when nothing is left."""

    async def script() -> None:
        guard = await Guard.open()
        three = await guard.start("three", ["sh", "-c", "exit 3"], folder=tmp_path, environment={})
        killed = await guard.start("killed", ["sleep", "60"], folder=tmp_path, environment={})
        assert await three.ended == 3
        await three.gone
        assert await killed.stop(60)
        assert await killed.ended == -signal.SIGTERM
        await guard.close()
        assert guard.child.returncode == 0

    asyncio.run(script())


def test_folder_environment_and_output(tmp_path: Path) -> None:
    """The command runs in its folder, with our variables and those added; both outputs are the handle."""

    async def script() -> None:
        read, write = os.pipe()
        guard = await Guard.open([write])
        command = ["sh", "-c", "echo $WORD $HOME; pwd >&2"]
        process = await guard.start("app", command, folder=tmp_path, environment={"WORD": "yes"}, output=write)
        assert await lines_of(read, 2) == [f"yes {os.environ['HOME']}", str(tmp_path)]
        assert await process.ended == 0
        await guard.close()

    asyncio.run(script())


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("no-such-command", "command not found: no-such-command"),
        ("./our-app", "not permitted to run ./our-app (is it executable?)"),
        ("our-app", "command not found: our-app (write ./our-app)"),
    ],
)
def test_what_cannot_start(tmp_path: Path, command: str, said: str) -> None:
    """The reason is told in words."""
    (tmp_path / "our-app").write_text("#!/bin/sh\n")

    async def script() -> str:
        guard = await Guard.open()
        with pytest.raises(CannotStart) as caught:
            await guard.start("app", [command], folder=tmp_path, environment={})
        await guard.close()
        return str(caught.value)

    assert asyncio.run(script()) == said


@linux
def test_wrappers_and_their_children_end_together(tmp_path: Path) -> None:
    """A shell that waits for a child, a child that left the session, and one nobody waits for: all end."""
    program = f"""{sys.executable} -c 'import os,time; os.setsid(); time.sleep(600)' & echo $!
    sleep 600 & echo $!
    sleep 600"""

    async def script() -> None:
        read, write = os.pipe()
        guard = await Guard.open([write])
        process = await guard.start(
            "app", ["sh", "-c", program], folder=tmp_path, environment={"APP_ID": "app"}, output=write
        )
        pids = [int(line) for line in await lines_of(read, 2)]
        assert await process.stop(60)
        assert not any(map(alive, [*pids, process.pid]))
        await guard.close()

    asyncio.run(script())


@linux
def test_a_wrapper_that_is_just_starting_its_child(tmp_path: Path) -> None:
    """However early SIGTERM comes, the child that the wrapper was about to start does not survive it."""

    async def script() -> None:
        guard = await Guard.open()
        for number in range(20):
            wrapper = ["sh", "-c", "sleep 600; true"]
            process = await guard.start(str(number), wrapper, folder=tmp_path, environment={})
            assert await process.stop(60)
        await guard.close()

    asyncio.run(asyncio.wait_for(script(), 90))


@linux
def test_what_ignores_the_signal_is_killed(tmp_path: Path) -> None:
    """After the grace comes SIGKILL, also for children."""
    program = "trap '' TERM; sleep 600 & echo $!; while :; do sleep 600; done"

    async def script() -> None:
        read, write = os.pipe()
        guard = await Guard.open([write])
        process = await guard.start("app", ["sh", "-c", program], folder=tmp_path, environment={}, output=write)
        [pid] = [int(line) for line in await lines_of(read, 1)]
        assert not await process.stop(0.2)
        assert await process.ended == -signal.SIGKILL
        assert not alive(pid)
        await guard.close()

    asyncio.run(script())


@linux
def test_a_daemon_left_behind_is_found(tmp_path: Path) -> None:
    """A process that left session and parent before its application ended belongs to it still."""
    program = f"""{sys.executable} -c '
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        print(os.getpid(), flush=True)
        time.sleep(600)
'"""

    async def script() -> None:
        read, write = os.pipe()
        guard = await Guard.open([write])
        process = await guard.start(
            "app", ["sh", "-c", program], folder=tmp_path, environment={"APP_ID": "app"}, output=write
        )
        [pid] = [int(line) for line in await lines_of(read, 1)]
        assert await process.ended == 0
        assert not process.gone.done()
        assert await process.stop(60)
        assert not alive(pid)
        await guard.close()

    asyncio.run(script())


HOLDER = f"""
import asyncio, os, sys
sys.path.insert(0, {SOURCES!r})
from pathlib import Path
from pillion.cli.processes import Guard

async def main():
    guard = await Guard.open()
    os.write(1, b"%d\\n" % guard.child.pid)
    for number in range(2):
        await guard.start(str(number), ["sh", "-c", "sleep 600 & echo $$ $!; wait"], folder=Path("/"),
                          environment={{"APP_ID": str(number)}})
    os.write(1, b"started\\n")
    await asyncio.Event().wait()

asyncio.run(main())
"""


@linux
@pytest.mark.parametrize("whom", ["holder", "guard"])
def test_nothing_survives_kill_9(whom: str) -> None:
    """Whoever is killed, the one that asked for the applications or the guard: no application is left."""
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        try:
            guard = int(holder.stdout.readline())
            said = [word for _ in range(3) for word in holder.stdout.readline().split()]
            os.kill(holder.pid if whom == "holder" else guard, signal.SIGKILL)
            until_dead(*(int(word) for word in said if word != "started"))
        finally:
            holder.kill()
