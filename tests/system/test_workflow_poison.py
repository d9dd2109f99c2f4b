"""Two replicas, and an activity that takes down whatever runs it: one count for both, which restarts do not begin anew.
The neighbours come to their end."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from http.client import HTTPException
from typing import TYPE_CHECKING, Any

import pytest

import workflow_processes as processes
from cli_processes import pillion
from sidecars import SidecarProcess, eventually
from workflow_client import OWN, noted, output, start

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

MOST = 5
"""So many deaths."""


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[str]]:
    with processes.plane(tmp_path_factory.mktemp("planes")) as found:
        yield found


class Replicas:
    """Two sidecars of one application on one store, each with a worker. `tend` starts again what has died."""

    def __init__(self, folder: Path, flags: Sequence[str], app_id: str, stack: ExitStack) -> None:
        self.ledger, self.numbers = folder / "ledger", folder / "numbers"
        self.numbers.mkdir()
        self.sidecars: list[SidecarProcess] = []
        self.workers: list[processes.WorkerProcess] = []
        for name in ("a", "b"):
            (folder / name).mkdir()
            sidecar = processes.sidecar(folder / name, flags, app_id, store=processes.sqlite(folder))
            stack.enter_context(sidecar)
            self.sidecars.append(sidecar)
            self.workers.append(stack.enter_context(processes.worker(sidecar, self.ledger)))
        self.number()

    def number(self) -> None:
        for sidecar in self.sidecars:
            assert sidecar.process is not None
            fresh = self.numbers / f"{sidecar.http_port}.new"
            fresh.write_text(str(sidecar.process.pid))
            fresh.rename(self.numbers / str(sidecar.http_port))

    def tend(self) -> None:
        for sidecar, worker in zip(self.sidecars, self.workers, strict=True):
            assert sidecar.process is not None
            if sidecar.process.poll() is not None:
                sidecar.start()
                self.number()
            if worker.ended:
                worker.restart()

    def until_aside(self, instance_id: str) -> dict[str, Any]:
        """The wait for people, as either sidecar tells it, once both do."""
        found: list[dict[str, Any]] = []

        def told(sidecar: SidecarProcess) -> bool:
            try:
                reply = sidecar.request("GET", f"{OWN}/{instance_id}")
            except (OSError, HTTPException):
                return False  # it has just died
            there = reply.json()["waiting"] if reply.status == 200 else ()
            found[:] = [one for one in there if one["kind"] == "quarantine"]
            return bool(found)

        def both() -> bool:
            self.tend()
            return all(map(told, self.sidecars))

        eventually(both, 90)
        return found[0]


@pytest.mark.parametrize("what", ["poison", "venom"])
def test_five_deaths_in_all(tmp_path: Path, flags: Sequence[str], what: str) -> None:
    """`poison` kills its worker, `venom` the sidecar as well."""
    antidote = tmp_path / "antidote"
    with ExitStack() as stack:
        both = Replicas(tmp_path, flags, what, stack)
        first, second = both.sidecars
        given: object = str(antidote) if what == "poison" else [str(antidote), str(both.numbers)]
        neighbours = [start(first, "one", ["slow", 0.5], f"near-{number}") for number in range(6)]
        ill = "ill"
        with suppress(OSError):  # its sidecar may be faster to die than to answer
            start(first, "one", [what, given], ill)
        wait = both.until_aside(ill)
        assert (wait["name"], wait["task"], wait["attempts"]) == (what, 0, MOST)
        assert wait["error"].endswith("lost while they ran it")
        deaths = noted(both.ledger).count("poisoned")
        assert deaths <= MOST
        if what == "poison":
            assert (deaths, wait["error"]) == (MOST, f"{MOST} workers were lost while they ran it")
        both.tend()
        assert {output(second, each) for each in neighbours} == {'"slept"'}

        shown = pillion(["workflow", "show", ill], home=second.folder / "home", folder=tmp_path)
        assert "quarantine" in shown.stdout
        assert f"{MOST} attempts" in shown.stdout
        for sidecar in both.sidecars:  # it is written down: a restart knows of it
            sidecar.stop()
            sidecar.start()
        both.number()
        assert both.until_aside(ill) == wait
        assert noted(both.ledger).count("poisoned") == deaths
        antidote.touch()
        done = pillion(["workflow", "retry", ill, "0"], home=second.folder / "home", folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert output(first, ill) == '"cured"'
