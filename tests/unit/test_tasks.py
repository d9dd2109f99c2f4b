"""Background tasks: what nobody waits for is not lost in silence."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion import tasks
from pillion.tasks import Tasks

if TYPE_CHECKING:
    import pytest


def test_a_kept_loop_begins_again(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)

    async def main() -> None:
        owner, began, well = Tasks("owner"), 0, asyncio.Event()

        async def run() -> None:
            nonlocal began
            began += 1
            if began < 3:
                raise ValueError(f"surprise {began}")
            well.set()
            await asyncio.Event().wait()

        kept = owner.keep(run, "loop")
        await well.wait()
        await owner.close()
        assert kept.cancelled()
        assert began == 3

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
    assert [record.exc_info[1].args for record in caplog.records if record.exc_info and record.exc_info[1]] == [
        ("surprise 1",),
        ("surprise 2",),
    ]
    assert "owner: loop; it begins again in 0.002 s" in caplog.text


def test_a_kept_loop_may_end() -> None:
    async def main() -> None:
        owner = Tasks("owner")

        async def run() -> None:
            return

        await owner.keep(run)
        assert not len(owner)

    asyncio.run(main())
