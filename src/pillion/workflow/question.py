"""What a worker is asked, and what comes of its answer: the values of a turn (`turn.py`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pillion.wire.messages import taskhub as m
from pillion.workflow.history import NEW, Event, frame, frames

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.workflow.facts import Facts
    from pillion.workflow.instance import Mail
    from pillion.workflow.snapshot import Status

Pair = tuple[Event, bytes]


def pair(event: Event) -> Pair:
    return event, event.SerializeToString()


@dataclass(slots=True)
class Setting:
    """What a turn knows of its surroundings: `app_id` is this application's, `new_id` makes execution ids."""

    app_id: str
    new_id: Callable[[], str]


@dataclass(slots=True)
class Turn:
    """A question for a worker. `facts` and `framed` are the past; `fresh` are the new events, the first of which marks
    the turn; `reset` tells that the past was given up by continuing as new, `rounds` how often.
    """

    instance_id: str
    facts: Facts
    framed: bytes | bytearray
    generation: int
    fresh: list[Pair]
    propagated: bytes | None
    reset: bool = False
    rounds: int = 0
    sends: list[m.WorkflowAction] = field(default_factory=list)
    terminating: Event | None = None

    @property
    def started(self) -> Event | None:
        """The start event, of the past or among the new ones."""
        if self.facts.started is not None:
            return self.facts.started
        return next((event for event, _ in self.fresh if event.HasField("executionStarted")), None)

    @property
    def past_count(self) -> int:
        return self.facts.length

    def request(self, known: tuple[int, int] | None = None) -> bytes:
        """The serialised `WorkflowRequest`. `known`: number and framed bytes of the past events that the worker has."""
        head = frame(0x0A, self.instance_id.encode())
        past = self.framed if known is None else memoryview(self.framed)[known[1] :]
        parts = [head, past, frames(NEW, [raw for _, raw in self.fresh])]
        if self.propagated is not None:
            parts.append(frame(0x42, self.propagated))
        if known is not None:
            parts.append(frame(0x4A, m.CachedHistory(eventCount=known[0]).SerializeToString()))
        return b"".join(parts)


@dataclass(slots=True)
class Decision:
    """What a turn came to.

    `events` are appended to the history, or are the whole of it when `reset`. The inbox rows that were in the turn go,
    unless `keeps_inbox`; `carried` are put into the inbox instead. `sends` go to the outbox. `again` asks a worker once
    more before anything is written: then all else is empty. `stalled` tells that the turn's output was dropped.
    """

    generation: int
    events: list[Pair] = field(default_factory=list)
    reset: bool = False
    custom_status: bytes | None = None
    writes_status: bool = False
    carried: list[Mail] = field(default_factory=list)
    keeps_inbox: bool = False
    sends: list[m.WorkflowAction] = field(default_factory=list)
    terminal: Status | None = None
    stalled: bool = False
    again: Turn | None = None
