"""Calls at a host that lost their actor are given up, also when placement is unsure at the moment of the look."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pillion.actors import away
from pillion.kinds.actors import ActorClosed, NoHost, NoPlacement, Owner
from pillion.tasks import Tasks

OLD, NEW = (Owner(f"10.0.0.{number}:50002", "app", "ns", local=False) for number in (1, 2))


class _Placement:
    """Knows the owner at first, and again when somebody says it."""

    def __init__(self) -> None:
        self.known: Any = NEW
        self.asked = asyncio.Event()
        self.told: asyncio.Future[Owner] = asyncio.get_running_loop().create_future()

    def lookup(self, actor_type: str, actor_id: str) -> Owner | None:
        found: Owner | None = self.known
        return found

    async def owner(self, actor_type: str, actor_id: str) -> Owner:
        self.asked.set()
        return await self.told


@pytest.mark.parametrize("then", [NEW, NoHost("nobody"), OLD, NoPlacement("left")], ids=repr)
def test_an_unsure_moment_is_waited_for(then: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(away, "LATE_S", 0.0)

    async def play() -> None:
        placement: Any = _Placement()
        tasks = Tasks("test")
        errands = away.Away(placement, tasks)
        answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        call = asyncio.create_task(errands.run(OLD, "t", "1", answer))
        await asyncio.sleep(0)
        errands.settled()
        placement.known = None
        await placement.asked.wait()
        if isinstance(then, Exception):
            placement.told.set_exception(then)
        else:
            placement.told.set_result(then)
        if then is OLD or isinstance(then, NoPlacement):
            for _ in range(3):
                await asyncio.sleep(0)
            answer.set_result("well")
            assert await call == "well"
        else:
            with pytest.raises(ActorClosed, match=r"has left 10\.0\.0\.1:50002"):
                await call
        await tasks.close()

    asyncio.run(play())
