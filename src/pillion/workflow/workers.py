"""The work queue: items go to the streams of workers, answers come back (spec `actors-workflows-jobs.md` 3.3).

An item is with exactly one stream at a time. When that stream ends it is offered to another one, under a new token, so
that a late answer of the first completes nothing (invariants 33, 34). At once, if the worker said goodbye; otherwise by
its owner, who is told of the loss and counts it: an item that takes one worker down after the other has to stop.

Knows: items, streams, limits. Never knows: instances' states, stores, gRPC.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.wire.messages import taskhub
from pillion.workflow.gates import Gates, share
from pillion.workflow.history import frame
from pillion.workflow.hub import STATEFUL_HISTORY
from pillion.workflow.items import INTERNAL, Item, Oversized
from pillion.workflow.streams import Stream

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Collection

    from pillion.clock import Clock
    from pillion.kinds.config import Workflow
    from pillion.workflow.gates import Gated
    from pillion.workflow.items import Answer

WINDOW = 2000
"""So many turns, and so many activities, are with one stream at most."""
TOO_LARGE = "WorkflowPayloadTooLarge"
"""The kind of failure of an activity whose result no message can carry."""
ALONE = (0, 1)
"""The rank of a host that knows of no other one."""


@dataclass(slots=True)
class Limits:
    """What bounds the queue; see the constant above."""

    window: int = WINDOW


class Workers:
    """The queue of one application. `changed` is called when the first stream came and when the last one went, `taken`
    whenever a worker took an item.
    """

    def __init__(
        self,
        clock: Clock,
        random: random.Random,
        config: Workflow,
        *,
        limits: Limits | None = None,
        changed: Callable[[], None] | None = None,
        taken: Callable[[], None] | None = None,
    ) -> None:
        self._clock = clock
        self._limits = limits or Limits()
        self._changed = changed or (lambda: None)
        self._taken = taken
        self._prefix = f"{random.getrandbits(48):012x}-"
        self._count = 0
        self._streams: list[Stream] = []
        self._idle: deque[Stream] = deque()
        self._turns: deque[Item] = deque()
        self._activities: deque[Item] = deque()
        self._inside: deque[Item] = deque()
        """The sidecar's own items, while nobody in it takes them."""
        self._insider: Callable[[Item], None] | None = None
        self._insiders: Callable[[], int] = lambda: 0
        self._held: dict[str, Item] = {}
        self._by_name: dict[tuple[str, int], Item] = {}
        """Held items by instance and task (-1: the turn), for workers that send no token back."""
        self._activity_next = True
        self._closed = False
        self._config = config
        self._turn_gates = Gates("workflow", *self._shares(ALONE, turns=True))
        self._activity_gates = Gates("activity", *self._shares(ALONE, turns=False))

    # --- limits ---

    def _shares(self, rank: tuple[int, int], *, turns: bool) -> tuple[int, dict[str, int]]:
        """The limits that hold here, of all and by name: this sidecar's own, and its share of those for all."""
        config = self._config
        own = config.max_workflows if turns else config.max_activities
        everywhere = share(config.global_max_workflows if turns else config.global_max_activities, *rank)
        named = config.workflow_limits if turns else config.activity_limits
        least = min((limit for limit in (own, everywhere) if limit > 0), default=0)
        return least, {name: share(limit, *rank) for name, limit in named.items()}

    def divide(self, turns: tuple[int, int], activities: tuple[int, int]) -> None:
        """Share the limits that hold for all replicas: `turns` and `activities` are this host's place among the hosts
        of either type, and how many they are.
        """
        freed = self._turn_gates.change(*self._shares(turns, turns=True))
        freed += self._activity_gates.change(*self._shares(activities, turns=False))
        for item in freed:
            self._ready_again(item)

    # --- streams ---

    def attach(self, capabilities: Collection[int] = ()) -> Stream:
        stream = Stream(self, stateful=STATEFUL_HISTORY in capabilities)
        if self._closed:
            stream.closed = True
            return stream
        self._streams.append(stream)
        if len(self._streams) == 1:
            self._changed()
        return stream

    @property
    def count(self) -> int:
        return len(self._streams)

    @property
    def queued(self) -> int:
        """Items that no worker has taken yet and any may take."""
        return len(self._turns) + len(self._activities) + len(self._inside) + self._insiders()

    def lacks(self, item: Item) -> bool:
        """Whether nobody is there who could take the item."""
        return self._insider is None if item.name.startswith(INTERNAL) else not self._streams

    def lost(self, stream: Stream, *, left: bool = False) -> None:
        """Tell the owners of what the stream held, in the order in which it was given out. `left`: the worker said
        goodbye, which speaks against nothing that it held: all of it is offered again, before anything else.
        """
        if stream in self._streams:
            self._streams.remove(stream)
        cut_off: list[Item] = []
        for item in reversed([*stream.items.values(), *stream.own]):
            held = item.token in self._held and self._held[item.token] is item
            if held:
                self._release(item)
            if item.gone:
                self._leave(item)
                continue
            if held and not left:
                item.gone = True
                self._leave(item)
                cut_off.append(item)
            else:
                self._queue(item).appendleft(item)
        stream.items.clear()
        stream.own.clear()
        stream.cached.clear()
        for item in reversed(cut_off):
            item.lost()
        self._rouse()
        if not self._streams:
            self._changed()

    def close(self) -> None:
        """End every stream; items stay where they are and are never answered."""
        self._closed = True
        for stream in self._streams:
            stream.closed = True
            stream.wake()
        self._streams.clear()

    # --- the sidecar's own ---

    def serve_inside(self, taker: Callable[[Item], None], queued: Callable[[], int]) -> None:
        """Have `taker` run the items whose names begin with `INTERNAL`, behind the same gates as all; it gives each one
        back by `answer_inside`. Those that came before are handed over at once. `queued`: so many wait there.
        """
        self._insider, self._insiders = taker, queued
        while self._inside:
            item = self._inside.popleft()
            if not item.gone:
                taker(item)

    def answer_inside(self, item: Item, answer: taskhub.WorkflowResponse | taskhub.ActivityResponse) -> None:
        """What became of an item that runs in the sidecar; ignored when it was withdrawn."""
        if item.gone:
            return
        self._finish(item, answer)
        if self._taken is not None:
            self._taken()

    # --- offering ---

    def offer(self, item: Item) -> None:
        """Queue `item`, behind its gates."""
        item.offered = self._clock.now()
        gates = self._turn_gates if item.turn is not None else self._activity_gates
        if not gates.limited or gates.enter(item, item.name):
            self._ready(item)

    def withdraw(self, item: Item) -> None:
        """The item is not wanted any more; an answer to it will be ignored. A worker that has it is busy with it all
        the same: its places at the gates and in the worker's window are free when that answers, or is lost.
        """
        if not item.gone:
            item.gone = True
            if item.holder is None:
                self._leave(item)

    def _ready(self, item: Item) -> None:
        if item.name.startswith(INTERNAL):
            if self._insider is None:
                self._inside.append(item)
            else:
                self._insider(item)
            return
        turn = item.turn
        if turn is not None and turn.facts.length:
            for stream in self._streams:
                # The worker that has the history gets the turn, unless it is behind with others.
                if stream.stateful and item.instance_id in stream.cached and stream.turns < self._limits.window:
                    stream.own.append(item)
                    if stream.waiter is not None:
                        stream.wake()
                    return
        self._queue(item).append(item)
        self._rouse()

    def _queue(self, item: Item) -> deque[Item]:
        return self._activities if item.turn is None else self._turns

    def _rouse(self) -> None:
        """Wake the stream that has waited longest of those that can take something."""
        window = self._limits.window
        for _ in range(len(self._idle)):
            stream = self._idle.popleft()
            if stream.closed or stream.waiter is None or stream.waiter.done():
                continue
            if (self._turns and stream.turns < window) or (self._activities and stream.activities < window):
                stream.wake()
                return
            self._idle.append(stream)

    # --- handing out ---

    def idle(self, stream: Stream) -> None:
        self._idle.append(stream)
        if len(self._idle) > 4 * len(self._streams) + 16:  # streams that were woken otherwise left their entries
            self._idle = deque(one for one in self._streams if one.waiter is not None and not one.waiter.done())

    def take(self, stream: Stream) -> Item | None:
        """The next item for this stream: turns and activities by turns, each within its window."""
        window = self._limits.window
        while stream.own:
            item = stream.own.popleft()
            if not item.gone:
                return item
        first = self._activities if self._activity_next else self._turns
        for queue in (first, self._turns if first is self._activities else self._activities):
            if (stream.activities if queue is self._activities else stream.turns) >= window:
                continue
            while queue:
                item = queue.popleft()
                if not item.gone:
                    self._activity_next = queue is self._turns
                    if self._idle and (self._turns or self._activities):
                        self._rouse()
                    return item
        return None

    def hand(self, stream: Stream, item: Item) -> bytes:
        """Note who holds the item, and return it as a serialised `WorkItem`."""
        if self._taken is not None:
            self._taken()
        self._count += 1
        item.token = token = f"{self._prefix}{self._count}"
        item.holder = stream
        item.since = self._clock.now()
        stream.items[token] = item
        self._held[token] = item
        self._by_name[item.instance_id, item.task_id] = item
        tail = frame(0x52, token.encode())
        turn = item.turn
        if turn is None:
            stream.activities += 1
            return frame(0x12, item.payload) + tail
        stream.turns += 1
        known = stream.known(item, turn) if stream.stateful else None
        return frame(0x0A, turn.request(known)) + tail

    # --- answers ---

    def complete_workflow(self, answer: taskhub.WorkflowResponse) -> None:
        item = self._matched(answer.completionToken, answer.instanceId, -1)
        if item is None or item.turn is None:
            return
        stream = item.holder
        if stream is not None and stream.stateful and not item.gone:
            stream.answered(item, item.turn, answer)
        self._finish(item, answer)

    def complete_activity(self, answer: taskhub.ActivityResponse) -> None:
        item = self._matched(answer.completionToken, answer.instanceId, answer.taskId)
        if item is not None and item.turn is None:
            self._finish(item, answer)

    def oversized(self, instance_id: str, task_id: int, said: str) -> None:
        """A worker's answer to a turn (`task_id` -1) or an activity could not be taken; another try would end alike."""
        item = self._by_name.get((instance_id, task_id))
        if item is None:
            return
        if item.turn is not None:
            self._finish(item, Oversized(said))
            return
        failed = taskhub.ActivityResponse(instanceId=instance_id, taskId=task_id)
        details = failed.failureDetails
        details.errorType, details.errorMessage, details.isNonRetriable = TOO_LARGE, said, True
        self._finish(item, failed)

    def _matched(self, token: str, instance_id: str, task_id: int) -> Item | None:
        if not token:
            return self._by_name.get((instance_id, task_id))
        item = self._held.get(token)
        return item if item is not None and item.instance_id == instance_id and item.task_id == task_id else None

    def _finish(self, item: Item, answer: Answer) -> None:
        withdrawn, item.gone = item.gone, True
        self._release(item)
        self._leave(item)
        if not withdrawn:
            item.done(answer)

    def _release(self, item: Item) -> None:
        """The item is with nobody any more."""
        stream, item.holder = item.holder, None
        if stream is None:
            return
        self._held.pop(item.token, None)
        if self._by_name.get((item.instance_id, item.task_id)) is item:
            del self._by_name[item.instance_id, item.task_id]
        if stream.items.pop(item.token, None) is None or stream.closed:
            return
        window = self._limits.window
        if item.turn is None:
            was_full = stream.activities >= window
            stream.activities -= 1
        else:
            was_full = stream.turns >= window
            stream.turns -= 1
        if was_full:
            stream.wake()

    def _leave(self, item: Item) -> None:
        if not item.gates:
            return
        gates = self._turn_gates if item.turn is not None else self._activity_gates
        for freed in gates.leave(item):
            self._ready_again(freed)

    def _ready_again(self, freed: Gated) -> None:
        if isinstance(freed, Item):
            self._ready(freed)

    def __repr__(self) -> str:
        return f"<Workers {len(self._streams)} streams, {self.queued} queued, {len(self._held)} held>"
