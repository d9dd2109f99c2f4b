"""That nobody leads is said, once, when it lasts."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

from pillion.actors import placement
from pillion.actors.placement import LinkLost, Placement
from pillion.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest


class Host:
    """Nothing lives here."""

    async def drain(self, types: frozenset[str], is_local: Callable[[str, str], bool]) -> None:
        pass

    async def halt_all(self) -> None:
        pass

    def settled(self, types: frozenset[str]) -> None:
        pass


def test_an_address_without_a_server_is_told_when_it_stays_so(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at once - a server may just be starting - and not with each attempt."""
    monkeypatch.setattr(placement, "PAUSE_S", (0.0, 0.0))
    clock = FakeClock()
    said: list[int] = []

    async def main() -> None:
        tried = asyncio.Event()

        async def dial(address: str) -> placement.Link:
            said.append(len(caplog.records))
            if len(said) == 12:
                tried.set()
            clock.advance(1)
            raise LinkLost("connection refused", gone=True)

        found = Placement(
            ["nowhere:50005"], host_name="h:1", app_id="a", namespace="n", hosting=Host(), dial=dial, clock=clock,
            random=random.Random(1),
        )  # fmt: skip
        await found.open()
        await tried.wait()
        await found.close()

    with caplog.at_level("WARNING"):
        asyncio.run(main())
    assert [record.message for record in caplog.records] == [
        "no placement service serves at nowhere:50005: connection refused"
    ]
    assert said == [0] * 5 + [1] * 7
