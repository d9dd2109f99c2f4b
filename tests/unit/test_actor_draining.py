"""Deactivation of many instances: some beside each other, and no more work than there are instances."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pillion.actors import draining
from pillion.actors.instances import Kind
from pillion.actors.meter import Uncounted
from pillion.kinds.actors import Hosted


class _Handler:
    """Counts how many deactivations run at the same time."""

    def __init__(self) -> None:
        self.now = self.most = self.all = 0

    async def deactivate(self, actor_type: str, actor_id: str) -> None:
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(2 * draining.BESIDE):
            await asyncio.sleep(0)
        self.now -= 1
        self.all += 1


@pytest.mark.parametrize(("count", "most"), [(0, 0), (1, 1), (3, 2), (500, draining.BESIDE)])
def test_few_instances_cost_few_tasks(count: int, most: int) -> None:
    """The first one is alone: it tells whether the application is there."""

    async def play() -> tuple[_Handler, int]:
        handler: Any = _Handler()
        kind, hosted = Kind("t"), Hosted("t", handler)
        kind.host(hosted)
        instances = [kind.activate(str(number), 1) for number in range(count)]
        for instance in instances:
            instance.begin_to_close()
        tasks = 0

        def make(loop: asyncio.AbstractEventLoop, coro: Any, **named: Any) -> asyncio.Task[Any]:
            nonlocal tasks
            tasks += 1
            return asyncio.Task(coro, loop=loop, **named)

        loop = asyncio.get_running_loop()
        loop.set_task_factory(make)
        await draining.deactivate_all(kind, hosted, iter(instances), Uncounted())
        loop.set_task_factory(None)
        assert not kind.instances
        assert all(one.closing is not None and one.closing.gone.is_set() for one in instances)
        return handler, tasks

    handler, tasks = asyncio.run(play())
    assert handler.all == count
    assert handler.most == most
    assert tasks <= min(count, draining.BESIDE)
