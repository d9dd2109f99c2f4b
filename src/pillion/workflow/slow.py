"""Turns that take long: the results in them are written to the inbox after all, so that a restart does not lose them.

A result that is lost costs no more than its activity's being run again, and writing it costs as much as the turn's own
write: where many turns are under way each of them takes longer, and none of them is slow for that.

Knows: when a turn began. Never knows: what is in it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pillion.workflow.runner import Runner


EACH_S, MOST_S = 0.002, 5.0
"""So much longer a turn may take for each other one that has begun beside it, and so long in all."""


class SlowTurns:
    """Turns under way, in the order in which they began, under one alarm. `after_s`: from then on a turn is slow that
    is alone.
    """

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._turns: deque[tuple[float, Runner, int]] = deque()
        self._handle: asyncio.TimerHandle | None = None

    def watch(self, runner: Runner) -> None:
        """Have the results in this turn written down if it takes long."""
        loop = runner.engine.loop
        self._turns.append((loop.time(), runner, runner.serial))
        if self._handle is None:
            self._handle = loop.call_at(self._due(), self._persist)

    def _due(self) -> float:
        """When the oldest turn is slow."""
        return self._turns[0][0] + min(self._after_s + EACH_S * len(self._turns), MOST_S)

    def _persist(self) -> None:
        self._handle = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._turns and (self._is_over(*self._turns[0]) or self._due() <= now):
            _, runner, serial = self._turns.popleft()
            if not self._is_over(0.0, runner, serial):
                runner.persist()
        if self._turns:
            self._handle = loop.call_at(self._due(), self._persist)

    @staticmethod
    def _is_over(_began: float, runner: Runner, serial: int) -> bool:
        return runner.serial != serial or runner.item is None or runner.closed

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def __repr__(self) -> str:
        return f"<SlowTurns {len(self._turns)} watched>"
