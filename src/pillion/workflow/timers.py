"""Timers of the instances that this host owns: those that are near, in one heap under one alarm of the loop.

A timer is derived from committed history, so the heap is never the truth: what fires is looked up in its instance, and
one that has become pointless, or belongs to an older generation or to an earlier use of the id, does nothing. Far
timers are the due time of the instance's `wake` job instead (spec `actors-workflows-jobs.md` 3.9; invariant 27).
"""

from __future__ import annotations

import asyncio
import heapq
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.clock import Clock
    from pillion.workflow.runner import Runner

log = logging.getLogger("pillion.workflow")

START = -1
"""In the place of a timer's id: the instance is to begin."""


@dataclass(order=True, slots=True)
class Alarm:
    """One entry of the heap. `due` is seconds since 1970."""

    due: float
    number: int
    instance_id: str = field(compare=False)
    generation: int = field(compare=False)
    timer_id: int = field(compare=False)
    fire_ns: int = field(compare=False)


class Timers:
    """The heap. `ring` is called for each alarm that is due."""

    def __init__(self, clock: Clock, near_s: float, ring: Callable[[Alarm], None]) -> None:
        self._clock = clock
        self._near_s = near_s
        self._ring = ring
        self._heap: list[Alarm] = []
        self._armed: set[tuple[str, int, int, int]] = set()
        self._count = 0
        self._handle: asyncio.TimerHandle | None = None
        self._closed = False

    def arm(self, instance_id: str, generation: int, timer_id: int, fire_ns: int) -> bool:
        """Arm a timer if it is near; False when it is for the `wake` job. Arming it again does nothing."""
        due = fire_ns / 1e9
        if due - self._clock.now() > self._near_s:
            return False
        key = (instance_id, generation, timer_id, fire_ns)
        if key in self._armed or self._closed:
            return True
        self._armed.add(key)
        self._count += 1
        heapq.heappush(self._heap, Alarm(due, self._count, instance_id, generation, timer_id, fire_ns))
        if self._heap[0].number == self._count:
            self._set()
        return True

    def arm_start(self, runner: Runner, at_ns: int) -> bool:
        return self.arm(runner.instance_id, runner.instance.generation, START, at_ns)

    def _set(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._heap and not self._closed:
            delay = max(0.0, self._heap[0].due - self._clock.now())
            self._handle = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        self._handle = None
        # The wall clock decides, not the loop's: a timer never fires early (it may have been set back meanwhile).
        now = self._clock.now()
        while self._heap and self._heap[0].due <= now:
            alarm = heapq.heappop(self._heap)
            self._armed.discard((alarm.instance_id, alarm.generation, alarm.timer_id, alarm.fire_ns))
            try:
                self._ring(alarm)
            except Exception:  # the others ring all the same
                log.exception("workflow '%s': its timer could not be rung", alarm.instance_id)
        self._set()

    def close(self) -> None:
        self._closed = True
        if self._handle is not None:
            self._handle.cancel()

    def __len__(self) -> int:
        return len(self._heap)
