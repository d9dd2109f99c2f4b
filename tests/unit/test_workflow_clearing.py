"""The jobs of finished instances go together, and none is left."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from pillion.kinds.jobs import SchedulerUnavailable
from pillion.workflow import clearing
from pillion.workflow.hub import Start
from workflow_support import bench, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillion.kinds.jobs import JobKey
    from workflow_support import Bench


def quick(ctx: Any, _: Any) -> str:
    return "done"


class Counted:
    """Counts the calls that delete; `failures` of them fail."""

    def __init__(self, patch: pytest.MonkeyPatch, b: Bench, failures: int = 0) -> None:
        self.calls: list[int] = []
        self._failures = failures
        self._delete_many = b.rig.jobs.delete_many
        patch.setattr(b.rig.jobs, "delete_many", self.delete_many)

    async def delete_many(self, keys: Sequence[JobKey]) -> None:
        self.calls.append(len(keys))
        if len(self.calls) <= self._failures:
            raise SchedulerUnavailable("not now")
        await self._delete_many(keys)


@pytest.mark.parametrize("failures", [0, 1])
def test_the_jobs_of_finished_instances_go_together(failures: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        async with bench({"quick": quick}) as b:
            counted = Counted(monkeypatch, b, failures)
            await asyncio.gather(*(b.hub.start(Start("quick", f"w{n}")) for n in range(30)))
            for n in range(30):
                await b.done(f"w{n}")
            await b.quiet()
            assert not b.rig.jobs.jobs
            assert sum(counted.calls[failures:]) >= 30
            assert max(counted.calls) > 1

    run(test())


def test_so_many_wait_for_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clearing, "GATHER_S", 3600.0)
    monkeypatch.setattr(clearing, "MOST", 5)

    async def test() -> None:
        async with bench({"quick": quick}) as b:
            counted = Counted(monkeypatch, b)
            for n in range(5):
                await b.hub.start(Start("quick", f"w{n}"))
                await b.done(f"w{n}")
            await b.quiet()
            assert counted.calls == [5]

    run(test())


def test_who_begins_anew_waits_for_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """The job of the former use of an id has to go first."""
    monkeypatch.setattr(clearing, "GATHER_S", 3600.0)

    async def test() -> None:
        async with bench({"quick": quick}) as b:
            for _ in range(3):
                await b.hub.start(Start("quick", "w"))
                await b.done("w")

    run(test())


def test_what_was_not_cleared_before_the_end_goes_when_it_fires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clearing, "GATHER_S", 3600.0)

    async def test() -> None:
        async with bench({"quick": quick}) as b:
            await b.hub.start(Start("quick", "w"))
            await b.done("w")
            await b.restart()
            [key] = b.rig.jobs.jobs
            monkeypatch.setattr(clearing, "GATHER_S", 0.0)
            await b.rig.jobs.fire(key)
            await b.quiet()
            assert not b.rig.jobs.jobs

    run(test())
