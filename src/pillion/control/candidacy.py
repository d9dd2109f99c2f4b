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

    async def run(self) -> NoReturn:
        """Stand, lead, lose, and stand again, until cancelled."""
        over: asyncio.Future[str]
        loop = asyncio.get_running_loop()

        def lost(why: str) -> None:
            self._service.resign(why)
            if not over.done():
                over.set_result(why)

        while True:
            over = loop.create_future()
            self._leadership.lost(lost)
            try:
                term = await self._leadership.elected()
            except ComponentError as error:
                log.error("placement server %s cannot stand: %s", self._node, error)
                await asyncio.sleep(RETRY_S)
                continue
            self._service.lead(self._leadership, term, inherited=self._leadership.inherited)
            self._led(True)
            log.info("placement server %s leads, term %d", self._node, term)
            await over
            self._led(False)
