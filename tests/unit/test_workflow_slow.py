"""When the results in a turn are written down before its end: the more turns are under way, the later."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from pillion.workflow.slow import MOST_S, SlowTurns


def turn(written: list[Any]) -> Any:
    one = SimpleNamespace(
        serial=1, item=object(), closed=False, engine=SimpleNamespace(loop=asyncio.get_running_loop())
    )
    one.wrote = asyncio.Event()

    def persist() -> None:
        written.append(one)
        one.wrote.set()

    one.persist = persist
    return one


def test_a_turn_that_takes_long_is_written_down_and_one_that_is_over_is_not() -> None:
    async def main() -> None:
        written: list[Any] = []
        slow = SlowTurns(0.01)
        over, long = turn(written), turn(written)
        slow.watch(over)
        slow.watch(long)
        over.serial += 1
        async with asyncio.timeout(30):
            await long.wrote.wait()
        assert written == [long]
        slow.close()

    asyncio.run(main())


def test_the_bound_grows_with_what_is_under_way_and_has_an_end() -> None:
    async def main() -> None:
        slow = SlowTurns(0.2)
        loop, first = asyncio.get_running_loop(), turn([])
        slow.watch(first)
        alone = slow._due()
        for _ in range(100):
            slow.watch(turn([]))
        assert abs(slow._due() - alone - 0.2) < 1e-6
        for _ in range(10_000):
            slow.watch(first)
        assert slow._due() <= loop.time() + MOST_S
        slow.close()

    asyncio.run(main())
