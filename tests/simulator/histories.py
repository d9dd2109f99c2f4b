"""What is committed of workflows, judged after every transaction (invariants 18, 19, 21, 22, 25 and 27).

The judge reads rows as they lie in the store, with nothing of the engine's own reading.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pillion.wire.messages import backend
from pillion.wire.messages import taskhub as m
from pillion.workflow.history import nanoseconds
from pillion.workflow.snapshot import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from simulator.stores import Rows

_RESULTS = {
    "taskCompleted": ("task", "taskScheduledId"),
    "taskFailed": ("task", "taskScheduledId"),
    "childWorkflowInstanceCompleted": ("child", "taskScheduledId"),
    "childWorkflowInstanceFailed": ("child", "taskScheduledId"),
    "timerFired": ("timer", "timerId"),
}
_SCHEDULED = {"taskScheduled": "task", "childWorkflowInstanceCreated": "child", "timerCreated": "timer"}


@dataclass
class Committed:
    """One instance as its rows say."""

    generation: int = 0
    raw: list[bytes] = field(default_factory=list)
    events: list[m.HistoryEvent] = field(default_factory=list)
    inbox: int = 0

    @property
    def ended(self) -> m.ExecutionCompletedEvent | None:
        return next((one.executionCompleted for one in self.events if one.HasField("executionCompleted")), None)

    @property
    def status(self) -> Status | None:
        return None if self.ended is None else Status(self.ended.workflowStatus)

    @property
    def result(self) -> str | None:
        ended = self.ended
        return ended.result.value if ended is not None and ended.HasField("result") else None


class Histories:
    """All instances of one application. `wrong` is called with what must not be.

    `anew` is called when a finished instance is begun anew, with its id, what it was, and what it is now; without it
    none may be. `gone` hears of those that are deleted.
    """

    def __init__(self, rows: Rows, wrong: Callable[[str], None], app: str = "app") -> None:
        self._rows, self._wrong = rows, wrong
        self._prefix = f"{app}||dapr.internal.default.{app}.workflow||"
        self.anew: Callable[[str, Committed, Committed], object] | None = None
        self.gone: Callable[[str, Committed], object] | None = None
        self.instances: dict[str, Committed] = {}
        self.ends: Counter[str] = Counter()
        self.purged: set[str] = set()
        rows.judges.append(self._judge)

    def _judge(self, before: dict[str, bytes | None], value: Callable[[str], bytes | None]) -> None:
        for instance_id in dict.fromkeys(key.split("||")[2] for key in before if key.startswith(self._prefix)):
            known = self.instances.get(instance_id)
            now = self._read(instance_id, value)
            if now is None:
                self._gone(instance_id, known)
                continue
            if known is not None:
                self._follows(instance_id, known, now)
            self._sound(instance_id, now)
            if now.ended is not None and (known is None or known.ended is None):
                self.ends[instance_id] += 1
            self.instances[instance_id] = now

    def _read(self, instance_id: str, value: Callable[[str], bytes | None]) -> Committed | None:
        prefix = f"{self._prefix}{instance_id}||"
        head = value(f"{prefix}metadata")
        if not head:
            return None
        lengths = backend.BackendWorkflowStateMetadata.FromString(head)
        rows: list[bytes] = []
        for name, length in (("history", lengths.historyLength), ("inbox", lengths.inboxLength)):
            found = [value(f"{prefix}{name}-{number:06d}") for number in range(length + 1)]
            if any(one is None for one in found[:-1]) or found[-1] is not None:
                self._wrong(f"{instance_id}: {name} has other rows than the {length} that its metadata names")
            if name == "history":
                rows = [one or b"" for one in found[:-1]]
        known = self.instances.get(instance_id)
        same = 0 if known is None or known.raw != rows[: len(known.raw)] else len(known.raw)
        events = [] if known is None else known.events[:same]
        events += [m.HistoryEvent.FromString(one) for one in rows[same:]]
        return Committed(lengths.generation, rows, events, lengths.inboxLength)

    def _gone(self, instance_id: str, known: Committed | None) -> None:
        if known is not None:
            self.purged.add(instance_id)
            del self.instances[instance_id]
            if self.gone is not None:
                self.gone(instance_id, known)
        left = [key for key in self._rows.keys() if key.startswith(f"{self._prefix}{instance_id}||")]  # noqa: SIM118
        if left:
            self._wrong(f"{instance_id} was deleted, but for {left}")

    def _follows(self, instance_id: str, old: Committed, new: Committed) -> None:
        """What is committed only grows; a new generation begins anew, and only where the old one had not ended."""
        if new.generation == old.generation:
            if new.raw[: len(old.raw)] != old.raw:
                self._wrong(f"{instance_id}: its history was changed, not continued")
        elif new.generation < old.generation:  # several may pass in one turn
            self._wrong(f"{instance_id}: generation {new.generation} follows {old.generation}")
        if old.ended is not None and (new.generation != old.generation or len(new.raw) > len(old.raw)):
            if self.anew is None or new.generation != old.generation + 1 or new.events:
                self._wrong(f"{instance_id} had ended, and goes on")
            else:
                self.anew(instance_id, old, new)

    def _sound(self, instance_id: str, now: Committed) -> None:
        """A history makes sense: what is resolved was scheduled before, and is resolved once; nothing is early."""
        open_: dict[tuple[str, int], m.HistoryEvent] = {}
        done: set[tuple[str, int]] = set()
        raised: set[tuple[str, int]] = set()
        for number, event in enumerate(now.events):
            kind = event.WhichOneof("eventType") or ""
            if kind in _SCHEDULED:
                key = (_SCHEDULED[kind], event.eventId)
                if key in open_ or key in done:
                    self._wrong(f"{instance_id}: {key} was scheduled twice")
                open_[key] = event
            elif kind in _RESULTS:
                what, field_name = _RESULTS[kind]
                key = (what, getattr(getattr(event, kind), field_name))
                if key not in open_:
                    self._wrong(f"{instance_id}: {key} is resolved {'again' if key in done else 'unasked'}")
                    continue
                asked = open_.pop(key)
                done.add(key)
                if kind == "timerFired" and nanoseconds(event.timestamp) < nanoseconds(asked.timerCreated.fireAt):
                    self._wrong(f"{instance_id}: timer {key[1]} fired early")
            elif kind == "eventRaised":
                mark = (event.eventRaised.name, nanoseconds(event.timestamp))
                if mark in raised:
                    self._wrong(f"{instance_id}: the event {mark} was delivered twice")
                raised.add(mark)
            elif kind == "executionStarted" and number > 1:
                self._wrong(f"{instance_id} was started again")
            elif kind == "executionCompleted" and number + 1 < len(now.events):
                self._wrong(f"{instance_id} had ended, and its history goes on")
