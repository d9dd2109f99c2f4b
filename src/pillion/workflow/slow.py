"""Turns that take long: the results in them are written to the inbox after all, so that a restart does not lose them.

Knows: when a turn began. Never knows: what is in it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pillion.workflow.runner import Runner


class SlowTurns:
    """Turns under way, in the order in which they began, under one alarm. `after_s`: from then on a turn is slow."""

    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._turns: deque[tuple[float, Runner, int]] = deque()
        self._handle: asyncio.TimerHandle | None = None

    def watch(self, runner: Runner) -> None:
        """Have the results in this turn written down if it takes long."""
        loop = runner.engine.loop
        self._turns.append((loop.time() + self._after_s, runner, runner.serial))
        if self._handle is None:
            self._handle = loop.call_at(self._turns[0][0], self._persist)

    def _persist(self) -> None:
        self._handle = None
        loop = asyncio.get_running_loop()
        now = loop.time()
        while self._turns and self._turns[0][0] <= now:
            _, runner, serial = self._turns.popleft()
            if runner.serial == serial and runner.item is not None and not runner.closed:
                runner.persist()
        if self._turns:
            self._handle = loop.call_at(self._turns[0][0], self._persist)

    def close(self) -> None:
        if self._handle is not None:
            self._handle.cancel()

    def __repr__(self) -> str:
        return f"<SlowTurns {len(self._turns)} watched>"
