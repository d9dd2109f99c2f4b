"""A process that stands for leadership somewhere else: until when it may say that it leads, and whom it tells.

Knows: that what cannot be reached is asked again after a pause, and that the holder vouches for itself by its own
clock. Never knows: where leadership is kept.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.clock import Clock

log = logging.getLogger("pillion.components.leadership")
RETRY_S = 1.0


class Candidacy(ABC):
    """The part of a `Leadership` that all places share. `where` is the place as people call it, `losses` are the
    exceptions that mean that it cannot be reached, or that leadership is lost.
    """

    def __init__(self, where: str, clock: Clock, losses: tuple[type[Exception], ...]) -> None:
        self.inherited = False
        self._where, self._clock, self._losses = where, clock, losses
        self._vouched_until = float("-inf")
        self._leads = False
        self._tell: Callable[[str], None] | None = None
        self._tasks = Tasks("leadership")

    def holds(self) -> bool:
        return self._leads and self._clock.monotonic() < self._vouched_until

    def lost(self, tell: Callable[[str], None]) -> None:
        self._tell = tell

    async def elected(self) -> int:
        while True:
            try:
                return await self._stand()
            except self._losses as error:
                log.warning("leadership: %s: %s; standing again", self._where, _said(error))
            except Exception:
                log.exception("leadership: %s: standing failed in a way that is not expected", self._where)
            self._drop()
            await asyncio.sleep(RETRY_S)
            try:
                await self._turn_elsewhere()
            except self._losses as error:
                log.warning("leadership: %s: %s", self._where, _said(error))

    def _lead(self, until: float, keep: Callable[[], Awaitable[None]]) -> None:
        """Lead from now on; `keep` says so as long as it can, and raises one of `losses`."""
        self._vouched_until, self._leads = until, True
        self._tasks.start(self._kept(keep), "keeping it")

    async def _kept(self, keep: Callable[[], Awaitable[None]]) -> None:
        try:
            await keep()
        except Exception as error:
            if not isinstance(error, self._losses):
                log.exception("leadership: %s: what leadership is kept by has failed; it is given up", self._where)
            self._drop()
            if self._tell is not None:
                self._tell(f"{self._where}: {_said(error)}")

    @abstractmethod
    async def _stand(self) -> int:
        """Wait for leadership, and return the term."""

    @abstractmethod
    async def _turn_elsewhere(self) -> None:
        """After a failure: take another server, where there are several."""

    def _drop(self) -> None:
        """Lead no more."""
        self._leads = False


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
