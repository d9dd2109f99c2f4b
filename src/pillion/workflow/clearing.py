"""The jobs of finished instances go several at a time: nobody waits for that, and a call for each costs like a step.

Knows: keys of jobs. Never knows: whose they are, when they may go.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

    from pillion.kinds.jobs import JobKey
    from pillion.workflow.engine import Engine

GATHER_S = 0.05
"""So long a job waits for others that are to go."""
MOST = 500
"""So many go in one call."""


class Clearing:
    """Deletes jobs for one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._asked: dict[JobKey, list[asyncio.Future[None]]] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def delete(self, key: JobKey, *, at_once: bool = False) -> None:
        """Return when the job is gone; `at_once`: somebody waits for that. Raises `ComponentError`."""
        loop = self._engine.loop
        gone: asyncio.Future[None] = loop.create_future()
        self._asked.setdefault(key, []).append(gone)
        if at_once or len(self._asked) >= MOST:
            self.hurry()
        elif self._timer is None:
            self._timer = loop.call_later(GATHER_S, self.hurry)
        await gone

    def hurry(self) -> None:
        """Wait for no others."""
        self.close()
        asked, self._asked = self._asked, {}
        if asked:
            self._engine.tasks.start(self._delete(asked), "clearing")

    def close(self) -> None:
        """What has been asked for is left: its jobs fire, find nothing to do, and go."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def _delete(self, asked: dict[JobKey, list[asyncio.Future[None]]]) -> None:
        error: Exception | None = None
        try:
            await self._engine.surroundings.scheduler.delete_many(list(asked))
        except Exception as caught:
            error = caught
        for gone in [each for waiting in asked.values() for each in waiting if not each.done()]:
            if error is None:
                gone.set_result(None)
            else:
                gone.set_exception(error)

    def __repr__(self) -> str:
        return f"<Clearing, {len(self._asked)} jobs>"
