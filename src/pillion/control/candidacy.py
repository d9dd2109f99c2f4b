"""A placement service's candidacy: it leads while the engine says so, and stands again after each loss.

Knows: the order in which leadership is won, served and lost. Never knows: engines, ports.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, NoReturn

from pillion.errors import ComponentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.control.placement import PlacementService
    from pillion.kinds.leadership import Leadership

log = logging.getLogger("pillion.control.placement")
RETRY_S = 1.0


class Candidacy:
    """`leadership` is open. `led` is told of each change."""

    def __init__(
        self, leadership: Leadership, service: PlacementService, *, node: str, led: Callable[[bool], None]
    ) -> None:
        self._leadership, self._service, self._node, self._led = leadership, service, node, led
        self._over: asyncio.Future[str] | None = None
        self._term: int | None = None

    async def run(self) -> NoReturn:
        """Stand, lead, lose, and stand again, until cancelled. Called again after a failure it goes on with the term
        that it has: an engine would make whoever holds it wait for itself.
        """
        while True:
            over = self._over
            if over is None or self._term is None:
                over = self._over = asyncio.get_running_loop().create_future()
                self._leadership.lost(self._lost)
                try:
                    self._term = await self._leadership.elected()
                except ComponentError as error:
                    log.error("placement server %s cannot stand: %s", self._node, error)
                    await asyncio.sleep(RETRY_S)
                    continue
            if not over.done():
                self._service.lead(self._leadership, self._term, inherited=self._leadership.inherited)
                self._led(True)
                log.info("placement server %s leads, term %d", self._node, self._term)
                await over
            self._over = self._term = None
            self._led(False)

    def _lost(self, why: str) -> None:
        over = self._over
        self._service.resign(why)
        if over is not None and not over.done():
            over.set_result(why)
