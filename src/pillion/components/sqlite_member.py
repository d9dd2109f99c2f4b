"""One subscription of `pubsub.sqlite`: one member of a consumer group, which takes turns with the file.

Knows: the turns, how many messages are taken ahead, what is settled with what. Never knows: publishing. The tables are
`sqlite_queue`'s, waking and watching over other processes `sqlite_hub`'s.
"""

from __future__ import annotations

import asyncio
import logging
import time
from functools import partial
from typing import TYPE_CHECKING

from pillion.components import sqlite_queue as queue
from pillion.components.message_rows import read_metadata
from pillion.components.workers import Outcome, Workers
from pillion.errors import ComponentError
from pillion.kinds.pubsub import Delivery
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.components.sqlite_broker import SqlitePubSub
    from pillion.components.sqlite_hub import Hub
    from pillion.kinds.pacing import Pacing

log = logging.getLogger("pillion.components.sqlite_broker")

TIDY_AFTER = 1000
"""Acknowledgements after which handled messages are deleted at once; fewer wait for `TIDY_S` seconds of company."""
TIDY_S = 1.0
QUICK_S = 0.1
SLOW_S = 1.0
"""A subscription takes more messages ahead when its handlers dealt with a quarter of a full hand within `QUICK_S`, and
few again when one has waited for `SLOW_S`: with slow handlers the other members of the group shall have their share."""
RETRY_S = 1.0
"""The pause after a turn that failed (disk full, another process in the way)."""


class _Leased(Delivery):
    """A delivery with the number of its message."""

    __slots__ = ("came", "id")
    id: int
    came: float
    """Loop time."""

    def __init__(self, topic: str, row: queue.Leased, came: float) -> None:
        self.came = came
        self.id, failures, content_type, metadata, self.data = row
        self.topic = topic
        self.metadata = read_metadata(metadata, f"message {self.id} of topic {topic}") if metadata else {}
        self.content_type = content_type or ""
        self.attempt = failures + 1


class Member:
    """One member of a consumer group. One task takes turns with the file: each turn settles what handlers have done
    since the last one and leases as many messages as there is room for.
    """

    def __init__(
        self,
        hub: Hub,
        settings: SqlitePubSub.Settings,
        topic: str,
        group: str,
        handler: Callable[[Delivery], Awaitable[None]],
        ended: Callable[[Member], None],
        *,
        pacing: Pacing,
    ) -> None:
        self.topic = topic
        self.group = 0
        self._group_name = group
        self._hub = hub
        self._settings = settings
        self._ended = ended
        self._tasks = Tasks(f"subscription {topic}")
        handlers = pacing.handlers(settings.concurrency, settings.queue_depth)
        self._workers: Workers[_Leased] = Workers(
            self._tasks,
            handler,
            self._settle,
            concurrency=handlers,
            timeout_s=0.0 if pacing.ordered else settings.processing_timeout,
        )
        self._depth = max(1, settings.queue_depth, handlers)
        self._base = self._limit = min(self._depth, 2 * max(1, handlers))
        self._full_at = float("-inf")
        self._done: list[int] = []
        self._failed: list[tuple[int, float]] = []
        self._returned: list[int] = []
        self._more = True
        self._stopping = False
        self._ending = False
        self._handled = 0
        self._signal = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._tidy: asyncio.TimerHandle | None = None
        self._turns: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._join()
        self._hub.add(self)
        self._signal.set()
        self._turns = self._tasks.keep(self._run, "turns")

    async def _join(self) -> None:
        self.group = await self._hub.engine.write(
            partial(queue.join, topic=self.topic, name=self._group_name, now=time.time())
        )

    # --- what the hub calls ---

    def wake(self) -> None:
        """There may be something new."""
        if not self._stopping:
            self._more = True
            self._signal.set()

    def holds(self) -> bool:
        return self._workers.held > 0

    def let_go(self) -> None:
        self._workers.withdraw()

    # --- what handlers have done ---

    def _settle(self, delivery: _Leased, outcome: Outcome) -> None:
        if outcome is Outcome.DONE:
            self._done.append(delivery.id)
        elif outcome is Outcome.CUT_SHORT:
            self._returned.append(delivery.id)
        else:
            self._failed.append((delivery.id, time.time() + self._settings.redeliver_interval))
        self._signal.set()

    # --- turns ---

    async def _run(self) -> None:
        self._signal.set()  # the turn before the beginning may have failed
        while True:
            await self._signal.wait()
            self._signal.clear()
            self._adapt()
            want = 0 if self._stopping or not self._more else max(0, self._limit - self._workers.held)
            if want or self._unsettled or self._handled >= TIDY_AFTER:
                went_well = await self._turn(want)
                if not went_well and self._ending:
                    return
            if self._ending and not self._unsettled:
                return

    def _adapt(self) -> None:
        """Choose how many messages to hold, from `2 * concurrency` to `queueDepth`."""
        now = asyncio.get_running_loop().time()
        oldest = self._workers.oldest
        if oldest is not None and now - oldest.came > SLOW_S:
            self._limit = self._base
        elif now - self._full_at < QUICK_S and self._workers.held <= self._limit * 3 // 4:
            self._limit = min(self._depth, self._limit * 2)

    @property
    def _unsettled(self) -> bool:
        return bool(self._done or self._failed or self._returned)

    async def _turn(self, want: int) -> bool:
        """Take one turn; False when it failed and nothing has changed."""
        settings = self._settings
        now = time.time()
        turn = queue.Turn(
            topic=self.topic,
            group=self.group,
            owner=self._hub.owner,
            lease_s=self._hub.noted(now) if want else 0.0,
            now=now,
            want=want,
            done=self._done,
            failed=self._failed,
            returned=self._returned,
            max_deliveries=settings.max_deliveries,
            dead_letter_topic=settings.dead_letter_topic,
            tidy=self._handled >= TIDY_AFTER,
        )
        self._done, self._failed, self._returned = [], [], []
        if want:
            self._more = False
        if turn.tidy:
            self._handled = 0
        try:
            given = await self._hub.engine.write(partial(queue.exchange, turn=turn))
        except ComponentError as error:
            log.warning("topic %s: a turn failed and is tried again: %s", self.topic, error)
            self._take_back(turn)
            self._signal.clear()
            self._wake_at(now + RETRY_S)
            return False
        except Exception:
            self._take_back(turn)
            if not self._ending:
                raise
            log.exception("topic %s: the last turn failed", self.topic)
            return False
        self._receive(turn, given)
        if not given.group_known:
            await self._join_again()
        return True

    def _take_back(self, turn: queue.Turn) -> None:
        """What a turn was to settle is for the next one. To settle a thing twice does nothing the second time."""
        self._done[:0], self._failed[:0], self._returned[:0] = turn.done, turn.failed, turn.returned
        self._more = True

    async def _join_again(self) -> None:
        """The group was forgotten. As long as it cannot be made anew, the next turn finds that out again."""
        self._more = True
        try:
            await self._join()
            self._signal.set()
        except ComponentError as error:
            log.warning("topic %s: the group %s cannot be made anew yet: %s", self.topic, self._group_name, error)
            self._wake_at(time.time() + RETRY_S)

    def _receive(self, turn: queue.Turn, given: queue.Given) -> None:
        if given.lost:
            self._hub.lost()
        if given.rows:
            now = asyncio.get_running_loop().time()
            fresh = [_Leased(self.topic, row, now) for row in given.rows]
            if self._stopping:
                self._returned += [delivery.id for delivery in fresh]
                self._signal.set()
            else:
                self._workers.put(fresh)
        self._bury(turn, given.buried)
        if turn.returned:
            self._hub.ring(self.topic)
        if given.more:
            self._full_at = asyncio.get_running_loop().time()
            self._more = True
            self._signal.set()
        if given.next_due is not None:
            self._wake_at(given.next_due)
        self._tidy_later(len(turn.done) + len(given.buried))

    def _bury(self, turn: queue.Turn, buried: list[int]) -> None:
        if not buried:
            return
        if turn.dead_letter_topic:
            log.warning("%d messages of topic %s went to topic %s", len(buried), self.topic, turn.dead_letter_topic)
            self._hub.ring(turn.dead_letter_topic)
        else:
            log.error("%d messages of topic %s failed too often and are dropped", len(buried), self.topic)

    def _wake_at(self, when: float) -> None:
        """Take a turn at a time (seconds since 1970)."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(max(0.0, when - time.time()) + 0.001, self._timed)

    def _timed(self) -> None:
        self._timer = None
        self._more = self._more or not self._stopping
        self._signal.set()

    def _tidy_later(self, handled: int) -> None:
        self._handled += handled
        if 0 < self._handled < TIDY_AFTER and self._tidy is None and not self._stopping:
            self._tidy = asyncio.get_running_loop().call_later(TIDY_S, self._tidy_now)
        elif self._handled >= TIDY_AFTER:
            self._signal.set()

    def _tidy_now(self) -> None:
        self._tidy = None
        if self._handled:
            self._handled = max(self._handled, TIDY_AFTER)
            self._signal.set()

    # --- the end ---

    async def pause(self) -> None:
        self._stopping = True
        self._hub.remove(self)
        untouched = self._workers.withdraw()
        if untouched:
            self._returned += [delivery.id for delivery in untouched]
            self._signal.set()

    async def close(self) -> None:
        """Wait for running handlers, then settle everything. What fails here becomes free with the owner's end."""
        await self.pause()
        await self._workers.finish()
        self._workers.stop()
        for timer in (self._timer, self._tidy):
            if timer is not None:
                timer.cancel()
        self._ending = True
        self._signal.set()
        if self._turns is not None:
            await asyncio.wait([self._turns])
        await self._tasks.close()
        self._ended(self)

    def __repr__(self) -> str:
        return f"<subscription of {self.topic} as {self._group_name}: {self._workers!r}>"
