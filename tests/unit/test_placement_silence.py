"""That nobody leads is said, once, when it lasts."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from pillion import tasks
from pillion.actors import placement
from pillion.actors.membership import Operation, Promised
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


class Stream:
    """A link whose server leads; `receive` waits for ever, or fails as nobody expects."""

    def __init__(self, surprise: bool) -> None:
        self.said: list[str] = []
        self.closed = False
        self.waits = asyncio.Event()
        self._surprise = surprise

    async def send(self, host: Any) -> None:
        self.said.append(Operation(host.operation).name)

    async def promise(self) -> Promised:
        return Promised()

    async def receive(self) -> Any:
        if self._surprise:
            raise RuntimeError("nobody expects this")
        self.waits.set()
        await asyncio.Event().wait()

    def abort(self) -> None:
        pass

    async def close(self) -> None:
        self.closed = True


def test_a_stream_that_fails_in_an_unexpected_way_is_a_lost_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another is opened, for which the rules of the membership find everything as it must be."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(placement, "PAUSE_S", (0.0, 0.0))

    async def main() -> None:
        streams = [Stream(surprise=True), Stream(surprise=True), Stream(surprise=False)]
        dialled: list[Stream] = []

        async def dial(address: str) -> placement.Link:
            dialled.append(streams[len(dialled)])
            return dialled[-1]

        found = Placement(
            ["one:50005"], host_name="h:1", app_id="a", namespace="n", hosting=Host(), dial=dial, clock=FakeClock(),
            random=random.Random(1),
        )  # fmt: skip
        await found.open()
        await streams[2].waits.wait()
        assert found.connected
        assert [one.closed for one in streams] == [True, True, False]
        await found.close()

    asyncio.run(main())
