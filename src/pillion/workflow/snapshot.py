"""How an instance stands, as it is shown to clients, operators and other sidecars. Values only."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.wire.messages import taskhub


class Status(IntEnum):
    """Runtime status; numbers as on the wire (spec 3.7)."""

    RUNNING = 0
    COMPLETED = 1
    CONTINUED_AS_NEW = 2
    FAILED = 3
    CANCELED = 4
    TERMINATED = 5
    PENDING = 6
    SUSPENDED = 7
    STALLED = 8

    @property
    def terminal(self) -> bool:
        return self in TERMINAL


TERMINAL = frozenset({Status.COMPLETED, Status.FAILED, Status.CANCELED, Status.TERMINATED})


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One instance as it was committed. Times are nanoseconds since 1970, None: not yet, or not known.

    Texts that are None were never set; an empty text was set to nothing. Before its first turn an instance has, as in
    the reference, neither name nor times: `asked_name` and `asked_ns` are what its start says.
    """

    instance_id: str
    status: Status
    name: str = ""
    version: str | None = None
    created_ns: int | None = None
    updated_ns: int | None = None
    started_ns: int | None = None
    completed_ns: int | None = None
    scheduled_ns: int | None = None
    input: str | None = None
    output: str | None = None
    custom_status: str | None = None
    failure: taskhub.TaskFailureDetails | None = None
    execution_id: str | None = None
    parent_id: str = ""
    parent_app: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    asked_name: str = ""
    asked_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Wait:
    """One thing that an instance waits for. `since` and `until` are seconds since 1970.

    `kind` is one of: timer, event, activity, child, worker, turn, start, store, delivery, policy, stalled, quarantine,
    suspended. `name` tells which: the event's, activity's or child's; `task_id` is its number in the history.
    """

    kind: str
    name: str = ""
    task_id: int | None = None
    attempts: int = 0
    error: str = ""
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Inspection:
    """What an operator sees of an instance: how it stands, what it waits for, how large it is."""

    snapshot: Snapshot
    waiting: tuple[Wait, ...]
    generation: int
    history_length: int
    inbox_length: int
    size_bytes: int
    owner: str = ""
    """`host:port` of the sidecar that drives it, "" when nobody does at present."""
