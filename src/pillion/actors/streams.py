"""Methods that answer many times, of an actor that lives here: a pump with a bound, and a claim that can be cut.

Knows: how items get from a handler to whoever reads them. Never knows: routing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pillion.kinds.actors import MethodMissing

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pillion.kinds.actors import ActorCall, Handler
    from pillion.tasks import Tasks

    Turn = Callable[[Callable[[Handler], Awaitable[None]]], Awaitable[None]]
    """Runs work as a turn of the actor."""

AHEAD = 16
"""Items that are kept for a reader that is slow."""


async def local_stream(call: ActorCall, turn: Turn, tasks: Tasks) -> AsyncIterator[bytes]:
    """Yield what the handler's `stream` yields, in a task of its own: a cut ends that task, not the reader's.

    Raises what the handler raised; `MethodMissing` when it has no such methods.
    """
    items: asyncio.Queue[bytes | None] = asyncio.Queue(AHEAD)

    async def read(handler: Any) -> None:
        if not hasattr(handler, "stream"):
            raise MethodMissing(f"actor method not found: actors/{call.actor_type}/{call.actor_id}/{call.method}")
        async for item in handler.stream(call):
            await items.put(item)

    async def pump() -> Exception | None:
        try:
            await turn(read)
        except Exception as error:
            return error
        finally:
            await items.put(None)
        return None

    pumping = tasks.start(pump(), f"stream of {call.actor_type}||{call.actor_id}")
    try:
        while (item := await items.get()) is not None:
            yield item
        error = await pumping
        if error is not None:
            raise error
    finally:
        pumping.cancel()
