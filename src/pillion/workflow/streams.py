"""One worker's stream: what it holds, and what it keeps of histories (spec `actors-workflows-jobs.md` 3.3).

Knows: the items of one worker. Never knows: who else is there.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import TYPE_CHECKING

from pillion.workflow.hub import StreamEnded

if TYPE_CHECKING:
    from pillion.wire.messages import taskhub
    from pillion.workflow.items import Item
    from pillion.workflow.question import Turn
    from pillion.workflow.workers import Workers

REMEMBERED = 4096
"""So many instances are known to be in the cache of a worker with STATEFUL_HISTORY."""


class Stream:
    """One worker's stream; satisfies `hub.WorkStream`."""

    def __init__(self, workers: Workers, *, stateful: bool) -> None:
        self._workers = workers
        self.stateful = stateful
        self.items: dict[str, Item] = {}
        self.turns = 0
        self.activities = 0
        self.own: deque[Item] = deque()
        """Turns of instances whose history this worker has."""
        self.cached: OrderedDict[str, tuple[int, int]] = OrderedDict()
        """Generation and number of events that the worker has of an instance."""
        self.waiter: asyncio.Future[None] | None = None
        self.closed = False

    async def next(self) -> bytes:
        loop = asyncio.get_running_loop()
        while True:
            if self.closed:
                raise StreamEnded("shutting down")
            item = self._workers.take(self)
            if item is not None:
                return self._workers.hand(self, item)
            self.waiter = loop.create_future()
            self._workers.idle(self)
            try:
                await self.waiter
            finally:
                self.waiter = None

    def wake(self) -> None:
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)

    def known(self, item: Item, turn: Turn) -> tuple[int, int] | None:
        """Events, and bytes, of the turn's past that the worker has kept; None: it is sent all. It is asked once."""
        has = self.cached.pop(item.instance_id, None)
        return item.mark if has is not None and has == (turn.generation, item.mark[0]) and item.mark[0] else None

    def answered(self, item: Item, turn: Turn, answer: taskhub.WorkflowResponse) -> None:
        """The worker keeps the past of a turn that goes on."""
        if any(action.HasField("completeWorkflow") for action in answer.actions):
            self.cached.pop(item.instance_id, None)
        else:
            self.cached[item.instance_id] = (turn.generation, turn.past_count)
            if len(self.cached) > REMEMBERED:
                self.cached.popitem(last=False)

    def close(self, *, left: bool = False) -> None:
        if not self.closed:
            self.closed = True
            self.wake()
            self._workers.lost(self, left=left)

    def __repr__(self) -> str:
        return f"<Stream {self.turns} turns, {self.activities} activities{', closed' if self.closed else ''}>"
