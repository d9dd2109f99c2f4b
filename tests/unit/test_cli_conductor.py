"""The order of a run, with real processes and sidecars that only take notes."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from pillion.cli import conductor, plan
from pillion.cli.conductor import Run
from pillion.cli.places import Places
from pillion.cli.runfile import App, Place
from pillion.errors import ConfigError
from pillion.sidecar.presence import running
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from pillion.cli.plan import Launch


class Noting:
    """A sidecar that serves nothing."""

    def __init__(self, launch: Launch, notes: list[str], problem: Exception | None = None) -> None:
        self.launch, self.notes, self.problem = launch, notes, problem
        self.http_port, self.grpc_port, self.internal_port = launch.options.dapr_http_port, 2, 3
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        self.notes.append(f"start {self.launch.app_id}")
        if self.problem is not None:
            raise self.problem

    async def end_messages(self) -> None:
        """There are none."""

    async def release(self) -> None:
        """There are no actors."""

    async def stop(self) -> None:
        self.notes.append(f"stop {self.launch.app_id}")
        if not self.ended.done():
            self.ended.set_result(0)


class Rig:
    """A run in a folder. `sidecars` are those it made."""

    def __init__(self, folder: Path, *apps: tuple[str, str], single: bool = False, app_port: int = -1) -> None:
        self.folder, self.single = folder, single
        self.notes: list[str] = []
        self.sidecars: dict[str, Noting] = {}
        self.problems: dict[str, Exception] = {}
        self.places = Places(folder / "home")
        self.launches = [
            plan.launch(
                App("", name, Place(folder, ""), ("sh", "-c", script) if script else (), http_port=free_port(),
                    app_port=app_port),
                places=self.places, environ={}, single=single, run_file="" if single else "f.yaml",
            )
            for name, script in apps
        ]  # fmt: skip

    def make(self, launch: Launch) -> Noting:
        made = Noting(launch, self.notes, self.problems.get(launch.app_id))
        self.sidecars[launch.app_id] = made
        return made

    async def start(self) -> asyncio.Task[int]:
        """Start the run and return when all sidecars serve."""
        served = asyncio.Event()
        self.run = Run(self.launches, places=self.places, single=self.single, sidecar=self.make, started=served.set)
        task = asyncio.create_task(self.run.run())
        waiting = asyncio.create_task(served.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        return task

    def script_to_end(self) -> int:
        async def main() -> int:
            return await (await self.start())

        return asyncio.run(asyncio.wait_for(main(), 90))


async def until(true: Callable[[], bool]) -> None:
    """Wait for something that real processes do, of which nothing tells us."""
    while not true():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def test_messages_and_actors_end_before_any_application(tmp_path: Path) -> None:
    """All messages first, then all actors, both while every application can answer; then the applications."""
    note = tmp_path / "notes"
    script = f"trap 'echo end >> {note}; exit 0' TERM; echo up >> {note}; while :; do sleep .02; done"
    rig = Rig(tmp_path, ("a", script), ("b", script))
    seen: list[str] = []

    def noting(what: str) -> Callable[[], Coroutine[None, None, None]]:
        async def told() -> None:
            assert "end" not in note.read_text()
            seen.append(what)

        return told

    async def main() -> int:
        task = await rig.start()
        await until(lambda: note.exists() and note.read_text().count("up") == 2)
        for sidecar in rig.sidecars.values():
            sidecar.end_messages = noting("messages")  # type: ignore[method-assign]
            sidecar.release = noting("actors")  # type: ignore[method-assign]
        os.kill(os.getpid(), signal.SIGTERM)
        return await task

    assert asyncio.run(asyncio.wait_for(main(), 30)) == 0
    assert seen == ["messages", "messages", "actors", "actors"]
    assert note.read_text().count("end") == 2


def test_sidecars_are_there_first_and_last(tmp_path: Path) -> None:
    """All sidecars start before any application, and stop after the last one has ended."""
    note = tmp_path / "notes"
    script = f"trap 'echo end $APP_ID >> {note}; exit 0' TERM; echo up >> {note}; while :; do sleep .02; done"
    rig = Rig(tmp_path, ("a", script), ("b", script))

    async def main() -> int:
        task = await rig.start()
        assert [record.app_id for record in running(rig.places.home)] == ["a", "b"]
        await until(lambda: note.exists() and note.read_text().count("up") == 2)
        os.kill(os.getpid(), signal.SIGTERM)
        rig.notes.append("signal")
        stop = Noting.stop

        async def noting_stop(self: Noting) -> None:
            rig.notes.extend(sorted(line for line in note.read_text().splitlines() if line.startswith("end")))
            note.write_text("")
            await stop(self)

        for sidecar in rig.sidecars.values():
            sidecar.stop = noting_stop.__get__(sidecar)  # type: ignore[method-assign]
        return await task

    assert asyncio.run(asyncio.wait_for(main(), 90)) == 0
    assert rig.notes == ["start a", "start b", "signal", "end a", "end b", "stop a", "stop b"]
    assert running(rig.places.home) == []


def test_a_sidecar_that_cannot_start_ends_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What started before is stopped, nothing is run, and the reason is told."""
    rig = Rig(tmp_path, ("a", "true"), ("b", "true"), ("c", "true"))
    rig.problems["b"] = ConfigError("no such store", where="store.yaml:3", mend="name one")
    assert rig.script_to_end() == 1
    assert rig.notes == ["start a", "start b", "stop a", "stop b"]
    assert "b: store.yaml:3: no such store (name one)" in capsys.readouterr().err


@pytest.mark.parametrize(("single", "status"), [(True, 3), (False, 1)])
def test_the_status_of_a_failed_application(tmp_path: Path, single: bool, status: int) -> None:
    """Alone it is the run's; of a run file's any failure is 1."""
    assert Rig(tmp_path, ("a", "exit 3"), single=single).script_to_end() == status


def test_all_well_that_ends_well(tmp_path: Path) -> None:
    """Applications that end with 0 give 0."""
    assert Rig(tmp_path, ("a", "true"), ("b", "true")).script_to_end() == 0


def test_a_sidecar_that_fails_ends_its_application(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its code is the status; where its log is is told."""

    async def main() -> int:
        rig = Rig(tmp_path, ("a", "sleep 600"), single=True)
        task = await rig.start()
        rig.sidecars["a"].ended.set_result(5)
        return await task

    assert asyncio.run(asyncio.wait_for(main(), 90)) == 5
    told = capsys.readouterr().err
    assert "the sidecar of a has failed; its log: " in told


def test_what_does_not_end_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After the grace, and it is told."""
    monkeypatch.setattr(conductor, "GRACE_S", 0.1)
    deaf = tmp_path / "deaf"
    script = f"(trap '' TERM; touch {deaf}; sleep 600) & until [ -e {deaf} ]; do sleep .02; done"
    assert Rig(tmp_path, ("a", script), single=True).script_to_end() == 0
    assert "a left processes behind that did not end in 0.1 s: killed" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_a_hint_about_the_port(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An application on another port than the given one earns a hint that names both."""
    monkeypatch.setattr(conductor, "HINT_S", 0.5)
    program = "import socket, time; s = socket.create_server(('127.0.0.1', {})); time.sleep(600)"
    wanted, opened = free_port(), free_port()
    script = f'exec {sys.executable} -c "{program.format(opened)}"'

    async def main() -> str:
        rig = Rig(tmp_path, ("a", script), single=True, app_port=wanted)
        task = await rig.start()
        told: list[str] = []

        def seen() -> bool:
            told.append(capsys.readouterr().err)
            return "has not opened port" in "".join(told)

        await until(seen)
        os.kill(os.getpid(), signal.SIGTERM)
        await task
        return "".join(told)

    told = asyncio.run(asyncio.wait_for(main(), 90))
    assert f"a has not opened port {wanted} yet" in told
    assert f"It listens on {opened}: perhaps --app-port {opened} is meant" in told
