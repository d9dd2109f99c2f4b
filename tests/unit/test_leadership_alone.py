"""Who leads alone takes its term from the clock, or from whoever keeps one that grows."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

from pillion import tasks
from pillion.components import candidacy
from pillion.components.candidacy import Candidacy
from pillion.components.leadership_alone import Alone
from pillion.control import candidacy as candidates

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


class Stopped:
    """A clock at one moment."""

    def now(self) -> float:
        return datetime(2026, 1, 1, tzinfo=UTC).timestamp()

    def monotonic(self) -> float:
        return 0.0


def test_terms() -> None:
    assert asyncio.run(Alone(Stopped()).elected()) == int(Stopped().now() * 1000)
    assert asyncio.run(Alone(Stopped(), term=7).elected()) == 7


class Elsewhere(Candidacy):
    """A place that fails in ways that nobody expects, first at standing, then at keeping."""

    def __init__(self) -> None:
        super().__init__("nowhere", Stopped(), (OSError,))
        self.stood = self.turned = 0
        self.keeps = asyncio.Event()

    async def open(self) -> None:
        pass

    async def _stand(self) -> int:
        self.stood += 1
        if self.stood == 1:
            raise RuntimeError("standing")
        self._lead(1.0, self._keep)
        return self.stood

    async def _keep(self) -> None:
        await self.keeps.wait()
        raise RuntimeError("keeping")

    async def _turn_elsewhere(self) -> None:
        self.turned += 1
        raise OSError("nobody is there either")

    async def close(self) -> None:
        await self._tasks.close()


def test_whatever_leadership_is_kept_by_and_fails_is_the_end_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever leads is told: else it would serve nobody, and stand no more."""
    monkeypatch.setattr(candidacy, "RETRY_S", 0.0)

    async def main() -> None:
        place, lost = Elsewhere(), asyncio.get_running_loop().create_future()
        place.lost(lost.set_result)
        assert await place.elected() == 2
        assert place.turned == 1
        assert place.holds()
        place.keeps.set()
        assert await lost == "nowhere: keeping"
        assert not place.holds()
        await place.close()

    asyncio.run(main())


def test_a_leader_that_begins_again_goes_on_with_its_term(monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds the lock already: to stand again would be to wait for itself."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)

    async def main() -> None:
        stood, told = 0, []
        leads = asyncio.Event()

        class Place:
            inherited = False

            def lost(self, tell: Callable[[str], None]) -> None:
                self.tell = tell

            async def elected(self) -> int:
                nonlocal stood
                stood += 1
                return stood

        class Service:
            def lead(self, leadership: object, term: int, *, inherited: bool) -> None:
                told.append(term)

            def resign(self, why: str) -> None:
                told.append(0)

        def led(leads_now: bool) -> None:
            if leads_now and len(told) == 1:
                raise RuntimeError("nobody expects this")
            if leads_now:
                leads.set()

        place = Place()
        candidate = candidates.Candidacy(cast("Any", place), cast("Any", Service()), node="n", led=led)
        owner = tasks.Tasks("test")
        owner.keep(candidate.run, "candidacy")
        await leads.wait()
        assert (stood, told) == (1, [1, 1])
        leads.clear()
        place.tell("the lock is lost")
        await leads.wait()
        assert (stood, told) == (2, [1, 1, 0, 2])
        await owner.close()

    asyncio.run(main())
