"""Questions are gathered, answers are not older than their calls, and one caller's end is not another's."""

from __future__ import annotations

import asyncio

import pytest

from pillion.components.gathered import Gathered
from pillion.errors import ComponentError


def test_calls_of_a_turn_go_together_and_later_ones_wait_for_the_next_question() -> None:
    async def main() -> None:
        questions: list[list[int]] = []
        gate = asyncio.Event()

        async def ask(keys: list[int]) -> list[str]:
            questions.append(keys)
            await gate.wait()
            return [str(key) for key in keys]

        gathered = Gathered("t", ask, parallel=1, most=3)
        first = [gathered.get(key) for key in (1, 2)]
        await asyncio.sleep(0)
        second = [gathered.get(key) for key in (1, 3, 4, 5)]
        second[1].cancel()
        await asyncio.sleep(0)
        assert questions == [[1, 2]]
        gate.set()
        assert await asyncio.gather(*first, *second, return_exceptions=True)
        assert questions == [[1, 2], [1, 4], [5]]
        await gathered.close()

    asyncio.run(main())


def test_a_failed_question_fails_its_callers_alone_and_closing_fails_the_rest() -> None:
    async def main() -> None:
        async def ask(keys: list[str]) -> list[str]:
            if "bad" in keys:
                raise ComponentError("no")
            await asyncio.sleep(3600 if "slow" in keys else 0)
            return keys

        gathered = Gathered("t", ask, parallel=1)
        with pytest.raises(ComponentError, match="no"):
            await gathered.get("bad")
        assert await gathered.get("good") == "good"
        slow = gathered.get("slow")
        await asyncio.sleep(0)
        behind = gathered.get("behind")
        await gathered.close()
        for future in (slow, behind):
            with pytest.raises(ComponentError, match="closed"):
                await future

    asyncio.run(main())


def test_a_question_that_fails_in_an_unexpected_way_fails_its_callers_alone() -> None:
    """Also with the wrong number of answers. Those who wait for the next question are not forgotten."""

    async def main() -> None:
        async def ask(keys: list[str]) -> list[str]:
            await asyncio.sleep(0)
            if "bad" in keys:
                raise RuntimeError("nobody expects this")
            return keys[: 0 if "short" in keys else None]

        gathered = Gathered("t", ask, parallel=1, most=1)
        calls = [gathered.get(key) for key in ("bad", "short", "good")]
        bad, short, good = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(bad, ComponentError)
        assert isinstance(bad.__cause__, RuntimeError)
        assert isinstance(short, ComponentError)
        assert good == "good"
        await gathered.close()

    asyncio.run(main())
