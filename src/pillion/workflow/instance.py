"""One workflow instance as it is committed: its history, its inbox, and what follows from them.

Pure: no I/O, no clock. Nothing here changes before the store has taken it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pillion.workflow.facts import Facts
from pillion.workflow.history import PAST, Event, StringValue, absent_or, frame, frames, nanoseconds, split
from pillion.workflow.snapshot import Snapshot, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(slots=True)
class Mail:
    """One event for an instance, as it came. `stored`: it has a row of its own in the inbox."""

    event: Event
    raw: bytes
    stored: bool = False
    execution: str | None = None
    """The execution that it is for, None for whichever there is; known as long as it has no row."""

    @classmethod
    def of(cls, event: Event, execution: str | None = None) -> Mail:
        return cls(event, event.SerializeToString(), execution=execution)

    @classmethod
    def loaded(cls, raw: bytes) -> Mail:
        return cls(Event.FromString(raw), raw, True)


@dataclass(slots=True)
class Instance:
    """A committed instance. `framed` is its history as `pastEvents` frames; `inbox` the events that have rows.

    `custom_status` and `propagated` are serialised (`StringValue`, `PropagatedHistory`), None when there is none;
    `outbox` is what is still to be told to others (`WorkflowResponse.actions`, serialised), b"" for nothing.
    """

    instance_id: str
    generation: int = 1
    framed: bytearray = field(default_factory=bytearray)
    facts: Facts = field(default_factory=Facts)
    inbox: list[Mail] = field(default_factory=list)
    custom_status: bytes | None = None
    propagated: bytes | None = None
    outbox: bytes = b""
    heard: bytes = b""
    """What former generations of the instance took: the mark of the start that began it, then those of events, the
    newest last; see `start_mark` and `mark_of`.
    """
    losses: bytes = b""
    """What was lost over its work, as `Losses.pack` has it."""
    writer: bytes = b""
    """The process that wrote it last (`Rows.mark`), b"" for one that does not say: a reference sidecar."""
    etag: str | None = None
    mark: tuple[int, int] = (0, 0)
    """Events, and bytes of `framed`, that were the past in the newest turn: what its worker keeps of the history. New
    events are not committed when a worker sees them, so it does not keep them (3.3)."""
    signatures: tuple[int, int, int] = (0, 0, 0)
    """Lengths of the rows of history signing, which are not ours but are kept in mind (3.1)."""

    @property
    def exists(self) -> bool:
        return self.facts.length > 0 or bool(self.inbox)

    @property
    def status(self) -> Status:
        return self.facts.status

    @property
    def size(self) -> int:
        """Bytes of history, inbox and propagated history."""
        return len(self.framed) + sum(len(mail.raw) for mail in self.inbox) + len(self.propagated or b"")

    def extend(self, events: list[tuple[Event, bytes]]) -> None:
        """Append committed events."""
        add = self.facts.add
        for event, _ in events:
            add(event)
        self.framed += frames(PAST, [raw for _, raw in events])

    def load(self, raws: list[bytes]) -> None:
        """Take a history that was read from a store."""
        add = self.facts.add
        parse = Event.FromString
        for raw in raws:
            add(parse(raw))
        self.framed += b"".join([frame(PAST, raw) for raw in raws])

    def forget(self) -> None:
        """Begin a history anew."""
        self.framed = bytearray()
        self.facts = Facts()
        self.mark = (0, 0)

    def rows(self) -> Iterator[bytes]:
        """Each event of the history, serialised."""
        return split(self.framed)

    @property
    def start_event(self) -> Event | None:
        """The start event, from the history or still in the inbox."""
        if self.facts.started is not None:
            return self.facts.started
        return next((mail.event for mail in self.inbox if mail.event.HasField("executionStarted")), None)

    @property
    def execution_id(self) -> str | None:
        """What tells this execution from those before: of an earlier generation, or of an earlier use of the id."""
        start = self.start_event
        return None if start is None else absent_or(start.executionStarted.workflowInstance, "executionId")

    def is_for(self, mail: Mail) -> bool:
        """Whether mail is for this execution."""
        return mail.execution is None or mail.execution == self.execution_id

    def snapshot(self) -> Snapshot:
        facts = self.facts
        if facts.started is None:
            waiting = self.start_event
            if waiting is None:
                return Snapshot(self.instance_id, facts.status)
            asked = waiting.executionStarted
            scheduled = asked.HasField("scheduledStartTimestamp")
            return Snapshot(
                self.instance_id, facts.status, asked_name=asked.name, asked_ns=nanoseconds(waiting.timestamp),
                scheduled_ns=nanoseconds(asked.scheduledStartTimestamp) if scheduled else None,
            )  # fmt: skip
        started = facts.started.executionStarted
        done = None if facts.completed is None else facts.completed.executionCompleted
        parent = started.parentInstance if started.HasField("parentInstance") else None
        instance = started.workflowInstance
        return Snapshot(
            instance_id=self.instance_id,
            status=facts.status,
            name=started.name,
            version=absent_or(started, "version") if facts.version_name is None else facts.version_name,
            created_ns=nanoseconds(facts.started.timestamp),
            updated_ns=facts.last_ns,
            started_ns=facts.first_ns,
            completed_ns=None if facts.completed is None else nanoseconds(facts.completed.timestamp),
            scheduled_ns=nanoseconds(started.scheduledStartTimestamp)
            if started.HasField("scheduledStartTimestamp")
            else None,
            input=absent_or(started, "input"),
            output=None if done is None else absent_or(done, "result"),
            custom_status=_status_text(self.custom_status),
            failure=done.failureDetails if done is not None and done.HasField("failureDetails") else None,
            execution_id=absent_or(instance, "executionId"),
            parent_id="" if parent is None else parent.workflowInstance.instanceId,
            parent_app=parent.appID if parent is not None and parent.HasField("appID") else "",
            tags=dict(started.tags),
        )

    def __repr__(self) -> str:
        return f"<Instance {self.instance_id!r} gen {self.generation}, inbox {len(self.inbox)}, {self.facts!r}>"


MARK_BYTES, MOST_HEARD = 8, 128


def mark_of(name: str, at_ns: int) -> bytes:
    """What stands for a raised event: one that is sent again has the same name and the same time."""
    return hashlib.blake2b(f"{at_ns} {name}".encode(), digest_size=MARK_BYTES).digest()


def start_mark(execution_id: str) -> bytes:
    """What stands for the start of an execution, once it has continued as new."""
    return mark_of(f"start {execution_id}", 0)


def has_heard(heard: bytes, mark: bytes) -> bool:
    return any(heard[at : at + MARK_BYTES] == mark for at in range(0, len(heard), MARK_BYTES))


def heard_by_now(instance: Instance, mail: Iterable[Mail]) -> bytes:
    """`heard` of the generation that follows this one, which ends with the events of `mail`."""
    raised = sorted(instance.facts.raised, key=lambda one: one[1])
    raised += [
        (one.event.eventRaised.name, nanoseconds(one.event.timestamp))
        for one in mail
        if one.event.HasField("eventRaised")
    ]
    heard = instance.heard
    if not heard and (began := instance.execution_id) is not None:
        heard = start_mark(began)
    first, later = heard[:MARK_BYTES], heard[MARK_BYTES:] + b"".join([mark_of(*one) for one in raised])
    return first + later[-MARK_BYTES * (MOST_HEARD - 1) :]


def _status_text(raw: bytes | None) -> str | None:
    return None if raw is None else StringValue.FromString(raw).value
