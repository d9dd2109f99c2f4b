"""For what holds only while a machine does not stand still: leases that are renewed in time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TRIALS = 10
_BEAT_S = 0.01


async def steadily(trial: Callable[[], Awaitable[None]], late_s: float) -> None:
    """Run `trial`. When it fails and this loop was late by `late_s` or more meanwhile, it says nothing: once more."""
    for _ in range(TRIALS):
        pulse = Pulse()
        watching = asyncio.create_task(pulse.watch())
        try:
            return await trial()
        except AssertionError:
            if pulse.late_s < late_s:
                raise
        finally:
            watching.cancel()
    raise AssertionError(f"the machine stood still for {late_s:g} s in each of {TRIALS} trials")


class Pulse:
    """How much later than it should this loop has come to its work, at most."""

    def __init__(self) -> None:
        self.late_s = 0.0

    async def watch(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _BEAT_S
            await asyncio.sleep(_BEAT_S)
            self.late_s = max(self.late_s, loop.time() - due)
