"""What is tried again when a call did not get to its actor, and when (spec `actors-workflows-jobs.md` 1.4).

Knows: the built-in policy of routing, that a new round of placement is worth another try. Never knows: where actors
live, what users' policies say.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

from pillion.kinds.actors import ActorClosed, ActorError, LostPlace, Moved

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from pillion.resiliency.machine import Retry

    Classes = type[ActorError] | tuple[type[ActorError], ...]

T = TypeVar("T")
log = logging.getLogger("pillion.actors")

SAFE = (ActorClosed, Moved, LostPlace)
"""Failures of routing: the call had not begun, or was cut because its actor left. Policies of users do not see them."""
MOST_CLOSED = 8
"""So often a call may find its actor closed and try again at once; then it pauses as after other failures."""


class Retries:
    """Tries again under the policy that `retry` returns when the first try has failed; `wake` ends all pauses."""

    def __init__(self, retry: Callable[[], Retry], random: random.Random) -> None:
        self._retry = retry
        self._random = random
        self._round = asyncio.Event()

    async def run(self, attempt: Callable[[], Awaitable[T]], again: Classes) -> T:
        """Return what `attempt` returns, the first or a later one."""
        try:
            return await attempt()
        except ActorError as error:
            return await self.again(attempt, error, again)

    async def again(self, attempt: Callable[[], Awaitable[T]], error: ActorError, again: Classes) -> T:
        """Try again what failed with `error`, where that is among `again` and another try may help.

        An instance that was closed is gone when its calls are told, or its type is being placed: the next try waits by
        itself. Otherwise there is a pause, which a new round of placement ends.
        """
        loop = asyncio.get_running_loop()
        retry = self._retry()
        retries, closed, began = 0, 0, loop.time()
        while True:
            if not error.retryable or not isinstance(error, again):
                raise error
            closed += isinstance(error, ActorClosed)
            if not isinstance(error, ActorClosed) or closed > MOST_CLOSED:
                wait_s = retry.wait(retries, loop.time() - began, self._random.random)
                if wait_s is None:
                    raise error
                log.debug("trying again in %g s: %s", wait_s, error)
                retries += await self._pause(wait_s)
            try:
                return await attempt()
            except ActorError as another:
                error = another

    async def _pause(self, seconds: float) -> bool:
        """Pause; False when a new round ended it early: what is tried then is another thing, and counts as no retry."""
        try:
            async with asyncio.timeout(seconds):
                await self._round.wait()
        except TimeoutError:
            return True
        return False

    def wake(self) -> None:
        """The owners of some actors may be others now."""
        self._round.set()
        self._round = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Retries by {self._retry().name}>"
