"""The simulated world: time is invented, a seed is a story, dead hosts do nothing."""

from __future__ import annotations

import asyncio
import gc

import pytest

from pillion.errors import ComponentError
from pillion.testing.simulation import EPOCH, Disk, Stuck, Wire, World, tell


def _story(seed: int) -> tuple[list[str], int]:
    world = World(seed)
    one, two = world.host("one"), world.host("two")
    wire, disk = Wire(world, loss=0.1), Disk(world, failing=0.1)
    rows: dict[int, int] = {}

    async def serve(number: int) -> int:
        await asyncio.sleep(0.1)
        world.tell(f"served {number}")
        return 2 * number

    async def ask(number: int) -> None:
        try:
            answer = await wire.call(one, two, lambda: serve(number))
            await disk.do(one, lambda: rows.__setitem__(number, answer))
            world.tell(f"kept {number}")
        except ComponentError as error:
            world.tell(f"{number}: {error}")

    async def everything() -> None:
        await asyncio.gather(*(ask(number) for number in range(50)))

    done = one.start(everything())
    world.run(done.done)
    assert all(value == 2 * key for key, value in rows.items())
    return list(world.story), world.events


def test_a_seed_is_a_story() -> None:
    """The same seed tells the same story, another seed another one."""
    assert _story(1) == _story(1)
    assert _story(1) != _story(2)


def test_months_pass_in_no_time() -> None:
    world = World(1)
    host = world.host("one", offset_s=60.0)

    async def wait() -> float:
        await asyncio.sleep(90 * 86400)
        return host.clock.now()

    task = host.start(wait())
    world.run(task.done, seconds=100 * 86400)
    assert task.result() == pytest.approx(EPOCH + 60 + 90 * 86400)


def test_a_killed_host_does_nothing_more_and_its_callers_notice() -> None:
    world = World(1)
    one, two = world.host("one"), world.host("two")
    wire = Wire(world)
    acted: list[str] = []

    async def slow() -> str:
        await asyncio.sleep(1)
        acted.append("acted")
        return "done"

    async def ask() -> str:
        try:
            return await wire.call(one, two, slow)
        except ComponentError as error:
            return str(error)

    task = one.start(ask())
    world.later(0.5, two.kill)
    world.run(task.done)
    assert task.result() == "the connection broke"
    assert acted == []


def test_a_paused_host_runs_late() -> None:
    world = World(1)
    host = world.host("one")

    async def wait() -> float:
        await asyncio.sleep(1)
        return asyncio.get_running_loop().time()

    task = host.start(wait())
    world.later(0.5, host.pause)
    world.later(9.0, host.resume)
    world.run(task.done)
    assert task.result() == pytest.approx(9.0)


def test_a_failure_ends_the_world_with_its_story() -> None:
    world = World(5)
    host = world.host("one")

    async def fail() -> None:
        world.tell("about to fail")
        raise ValueError("broken on purpose")

    host.start(fail())
    with pytest.raises(AssertionError, match=r"(?s)seed 5.*one failed: ValueError.*about to fail"):
        world.run(lambda: False)


def test_what_never_comes_is_stuck() -> None:
    world = World(5)
    with pytest.raises(Stuck, match="not there after 0 events"):
        world.run(lambda: False)


def test_what_never_began_is_not_complained_of(recwarn: pytest.WarningsRecorder) -> None:
    """Not even when the world outlives its story, held by the record of a log."""
    held: list[World] = []

    async def never() -> None:
        raise AssertionError

    def story() -> None:
        held.append(World(1))
        held[0].host("one").start(never())

    tell(story)
    held.clear()
    gc.collect()
    assert not recwarn.list
