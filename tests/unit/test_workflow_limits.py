"""What may run at once, and how long what has ended is kept (spec 3.9, 3.11)."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from pillion.clock import SystemClock
from pillion.kinds.actors import Tick
from pillion.kinds.config import Retention, Workflow
from pillion.testing.workflow_rig import Rig
from pillion.wire.messages import taskhub as m
from pillion.workflow.hub import Start
from pillion.workflow.items import Item
from pillion.workflow.workers import Workers
from workflow_support import WAIT_S, bench, memory_store

if TYPE_CHECKING:
    from pillion.workflow.streams import Stream


def activity(name: str, heard: list[str]) -> Item:
    return Item(name, "scarce", lambda _: heard.append(name), lambda: heard.append(f"{name} is lost"), task_id=1)


@pytest.mark.parametrize("end", ["answers", "is lost"])
def test_a_worker_that_has_what_was_withdrawn_has_its_place_until_it_has_done_with_it(end: str) -> None:
    async def test() -> None:
        workers = Workers(SystemClock(), random.Random(1), Workflow(activity_limits={"scarce": 1}))
        heard: list[str] = []
        one, other = workers.attach(), workers.attach()
        first, second = activity("first", heard), activity("second", heard)
        workers.offer(first)
        given = m.WorkItem.FromString(await one.next())
        workers.withdraw(first)
        workers.offer(second)
        assert workers.take(other) is None, "the first is still being run"
        if end == "answers":
            workers.complete_activity(answer(given.completionToken, "first"))
        else:
            one.close()
        assert workers.take(other) is second
        assert heard == [], "nobody hears of what was withdrawn"
        one.close()
        other.close()

    asyncio.run(test())


def answer(token: str, instance_id: str) -> m.ActivityResponse:
    return m.ActivityResponse(instanceId=instance_id, taskId=1, completionToken=token)


def test_the_window_of_a_worker_counts_what_was_withdrawn_until_it_is_answered() -> None:
    async def test() -> None:
        workers = Workers(SystemClock(), random.Random(1), Workflow())
        stream: Stream = workers.attach()
        item = activity("one", [])
        workers.offer(item)
        given = m.WorkItem.FromString(await stream.next())
        workers.withdraw(item)
        assert stream.activities == 1
        workers.complete_activity(answer(given.completionToken, "one"))
        assert stream.activities == 0
        stream.close()

    asyncio.run(test())


def test_an_id_that_was_used_again_is_kept_as_long_as_its_last_end_demands() -> None:
    def quick(ctx: Any, _: Any) -> str:
        return "done"

    async def test() -> None:
        rig = Rig(memory_store(), config=Workflow(retention=Retention(3600.0, 3600.0, 3600.0)))
        async with asyncio.timeout(WAIT_S), bench({"quick": quick}, rig=rig) as b:
            names = b.hub.engine.surroundings.names
            key = names.key(names.retentioner(), "q", "retention")
            payloads: list[bytes] = []
            for _ in range(2):
                await b.hub.start(Start("quick", "q"))
                await b.done("q")
                await b.quiet()
                payloads.append(b.rig.jobs.jobs[key].payload or b"")
            handler = b.rig.actors.types[names.retentioner()].handler
            await handler.tick(Tick(names.retentioner(), "q", "retention", payload=payloads[0]))
            assert await b.hub.get("q") is not None, "that was the job of the first one"
            await b.rig.jobs.fire(key)
            assert await b.hub.get("q") is None
            assert b.rig.jobs.jobs == {}

    asyncio.run(test())
