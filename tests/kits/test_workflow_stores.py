"""Workflows over real stores: what one process wrote another one goes on with, and a stale writer changes nothing."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import pytest

from pillion.components.postgresql import PostgresState2
from pillion.components.redis import RedisState
from pillion.components.sqlite import SqliteState
from pillion.kinds.actors import LostPlace
from pillion.kinds.component import Context as ComponentContext
from pillion.kinds.component import decode
from pillion.testing.workflow_rig import Rig
from pillion.wire.messages import taskhub
from pillion.workflow import history
from pillion.workflow.hub import Start
from pillion.workflow.instance import Instance, Mail
from pillion.workflow.rows import Rows, Step
from pillion.workflow.snapshot import Status
from workflow_support import Bench, memory_store

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from pillion.testing.workflow_worker import Context


def sqlite(request: pytest.FixtureRequest) -> Any:
    path: Path = request.getfixturevalue("tmp_path")
    return made(SqliteState, {"connectionString": str(path / "w.db")})


def redis(request: pytest.FixtureRequest) -> Any:
    return made(RedisState, {"redisHost": request.getfixturevalue("redis_server").address})


def postgresql(request: pytest.FixtureRequest) -> Any:
    server = request.getfixturevalue("postgres_server")
    return made(PostgresState2, {"url": server.url, "tablePrefix": "workflow_"})


def memory(request: pytest.FixtureRequest) -> Any:
    return memory_store()


def made(store: Any, metadata: dict[str, str]) -> Any:
    return store(decode(store.Settings, metadata, where="test"), ComponentContext(name="store"))


STORES = [
    memory,
    sqlite,
    pytest.param(redis, marks=pytest.mark.redis),
    pytest.param(postgresql, marks=pytest.mark.postgresql),
]


def parent(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
    one = yield ctx.call_activity("add", 1)
    two = yield ctx.call_child("kid", one, instance_id=f"{ctx.instance_id}-kid")
    got = yield ctx.wait_for_event("go")
    ctx.continue_as_new([two, got])


def renewed(ctx: Context, state: Any) -> Generator[Any, Any, Any]:
    if state is None:
        return (yield from parent(ctx, state))
    return [*state, (yield ctx.call_activity("add", 9))]


def kid(ctx: Context, value: int) -> Generator[Any, Any, Any]:
    return (yield ctx.call_activity("add", value))


@pytest.mark.parametrize("store", STORES, ids=lambda one: one.__name__)
def test_a_workflow_survives_its_process(
    store: Callable[[pytest.FixtureRequest], Any], request: pytest.FixtureRequest
) -> None:
    async def test() -> None:
        opened = store(request)
        await opened.open()
        app_id = f"app{random.getrandbits(40)}"
        b = Bench({"parent": renewed, "kid": kid}, {"add": lambda n: n + 1}, rig=Rig(opened, app_id=app_id))
        b.connect()
        try:
            async with asyncio.timeout(90):
                await b.hub.start(Start("parent", "p"))
                await b.done("p-kid")
                await b.restart()
                await b.hub.raise_event("p", "go", '"now"')
                done = await b.done("p")
                assert (done.status, done.output) == (Status.COMPLETED, '[3, "now", 10]')
                await b.quiet()
                assert sorted((await b.hub.list_ids())[0]) == ["p", "p-kid"]
                await b.hub.purge("p")
                await b.hub.purge("p-kid")
                assert await b.hub.list_ids() == ([], "")
        finally:
            await b.kill()
            await opened.close()

    asyncio.run(test())


@pytest.mark.parametrize("store", STORES, ids=lambda one: one.__name__)
def test_a_stale_writer_has_no_effect(
    store: Callable[[pytest.FixtureRequest], Any], request: pytest.FixtureRequest
) -> None:
    """Invariants 19 and 20: of two who loaded the same version one writes, whole; the other's step leaves no row."""

    async def test() -> None:
        opened = store(request)
        await opened.open()
        try:
            rows = Rows(f"app{random.getrandbits(40)}", "T", lambda: opened, random.Random(7))
            first = Instance("i")
            start = history.execution_started(5, taskhub.ExecutionStartedEvent(name="w"))
            await rows.save(first, Step([Mail.of(start)], 1))
            with pytest.raises(LostPlace):
                await rows.save(Instance("i"), Step([Mail.of(start)], 1))
            second = await rows.load("i")
            assert second is not None
            event = history.turn_started(7)
            await rows.save(second, Step([], 1, events=[(event, event.SerializeToString())]))
            other = history.event_raised(9, "x" * 100, None)
            with pytest.raises(LostPlace):
                await rows.save(first, Step([Mail.of(start), Mail.of(other)], 1))
            now = await rows.load("i")
            assert now is not None
            assert (len(now.inbox), now.facts.length, list(now.rows())) == (0, 1, [event.SerializeToString()])
            await rows.save(second, Step([Mail.of(other)], 2))
            with pytest.raises(LostPlace):
                await rows.delete(first)
            await rows.delete(second)
            assert await rows.load("i") is None
        finally:
            await opened.close()

    asyncio.run(test())
