"""What the history of an instance says, as an incremental view: each event is looked at once, when it is appended or
loaded, and memory follows what is open, not what has been (spec `actors-workflows-jobs.md` 3.4, 3.7). Pure.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.workflow.history import FAR_NS, Event, nanoseconds
from pillion.workflow.snapshot import Status

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.wire.messages import taskhub as m


@dataclass(slots=True)
class OpenTimer:
    """A timer that has neither fired nor become pointless. `event_name` is upper-case, "" for one of another origin."""

    fire_ns: int
    event_name: str = ""

    @property
    def endless(self) -> bool:
        return self.fire_ns >= FAR_NS


@dataclass(frozen=True, slots=True)
class Child:
    """A child workflow that this instance created; `app_id` "" is its own application."""

    task_id: int
    instance_id: str
    app_id: str


class Facts:
    """What a history says. `tasks` and `children` are those without a result, by the id of the action."""

    __slots__ = (
        "children", "completed", "descendants", "first_ns", "last_ns", "last_turn", "length", "patches", "raised",
        "satisfied", "stalled", "started", "suspended", "tasks", "terminated", "timers", "version_name",
    )  # fmt: skip

    def __init__(self) -> None:
        self.started: Event | None = None
        self.completed: Event | None = None
        self.terminated: Event | None = None
        self.suspended: Event | None = None
        self.stalled: m.ExecutionStalledEvent | None = None
        self.tasks: dict[int, Event] = {}
        self.timers: dict[int, OpenTimer] = {}
        self.children: dict[int, Event] = {}
        self.descendants: list[Child] = []
        self.raised: set[tuple[str, int]] = set()
        self.satisfied: list[int] = []
        """Timers that an event has made pointless, since the driver last asked."""
        self.patches: list[str] = []
        self.version_name: str | None = None
        self.first_ns: int | None = None
        self.last_ns: int | None = None
        self.last_turn = 0
        """Index of the first event of the newest turn."""
        self.length = 0

    def add(self, event: Event) -> None:
        """Append one event to the view."""
        kind = event.WhichOneof("eventType")
        stamp = event.timestamp
        now_ns = stamp.seconds * 1_000_000_000 + stamp.nanos
        if self.first_ns is None:
            self.first_ns = now_ns
        self.last_ns = now_ns
        if kind != "executionStalled":
            self.stalled = None
        fold = _FOLD.get(kind or "")
        if fold is not None:
            fold(self, event)
        self.length += 1

    # --- one for each kind that matters ---

    def _turn(self, event: Event) -> None:
        self.last_turn = self.length
        if event.workflowStarted.HasField("version"):
            version = event.workflowStarted.version
            self.patches.extend(version.patches)
            if version.HasField("name"):
                self.version_name = version.name

    def _started(self, event: Event) -> None:
        self.started = self.started or event

    def _completed(self, event: Event) -> None:
        self.completed = self.completed or event

    def _terminated(self, event: Event) -> None:
        self.terminated = self.terminated or event

    def _suspended(self, event: Event) -> None:
        self.suspended = event

    def _resumed(self, event: Event) -> None:
        self.suspended = None

    def _stalled(self, event: Event) -> None:
        self.stalled = event.executionStalled

    def _task(self, event: Event) -> None:
        self.tasks[event.eventId] = event

    def _task_completed(self, event: Event) -> None:
        self.tasks.pop(event.taskCompleted.taskScheduledId, None)

    def _task_failed(self, event: Event) -> None:
        self.tasks.pop(event.taskFailed.taskScheduledId, None)

    def _child(self, event: Event) -> None:
        self.children[event.eventId] = event
        target = event.router.targetAppID if event.HasField("router") else ""
        self.descendants.append(Child(event.eventId, event.childWorkflowInstanceCreated.instanceId, target))

    def _child_completed(self, event: Event) -> None:
        self.children.pop(event.childWorkflowInstanceCompleted.taskScheduledId, None)

    def _child_failed(self, event: Event) -> None:
        self.children.pop(event.childWorkflowInstanceFailed.taskScheduledId, None)

    def _timer(self, event: Event) -> None:
        created = event.timerCreated
        name = created.externalEvent.name.upper() if created.HasField("externalEvent") else ""
        self.timers[event.eventId] = OpenTimer(nanoseconds(created.fireAt), name)

    def _timer_fired(self, event: Event) -> None:
        self.timers.pop(event.timerFired.timerId, None)

    def _raised(self, event: Event) -> None:
        name = event.eventRaised.name
        self.raised.add((name, nanoseconds(event.timestamp)))
        wanted = name.upper()
        # The oldest wait for this event ends (3.6.7); a dictionary keeps the order in which timers were created.
        for timer_id, timer in self.timers.items():
            if timer.event_name == wanted and timer.event_name:
                del self.timers[timer_id]
                self.satisfied.append(timer_id)
                return

    @property
    def status(self) -> Status:
        """Runtime status (3.7)."""
        if self.started is None:
            return Status.PENDING if self.stalled is None else Status.STALLED
        if self.completed is not None:
            return Status(self.completed.executionCompleted.workflowStatus)
        if self.stalled is not None:
            return Status.STALLED
        return Status.RUNNING if self.suspended is None else Status.SUSPENDED

    def __repr__(self) -> str:
        return (
            f"<Facts {self.status.name}, {self.length} events, open: {len(self.tasks)} tasks, {len(self.timers)}"
            f" timers, {len(self.children)} children>"
        )


_FOLD: dict[str, Callable[[Facts, Event], None]] = {
    "workflowStarted": Facts._turn,
    "executionStarted": Facts._started,
    "executionCompleted": Facts._completed,
    "executionTerminated": Facts._terminated,
    "executionSuspended": Facts._suspended,
    "executionResumed": Facts._resumed,
    "executionStalled": Facts._stalled,
    "taskScheduled": Facts._task,
    "taskCompleted": Facts._task_completed,
    "taskFailed": Facts._task_failed,
    "childWorkflowInstanceCreated": Facts._child,
    "childWorkflowInstanceCompleted": Facts._child_completed,
    "childWorkflowInstanceFailed": Facts._child_failed,
    "timerCreated": Facts._timer,
    "timerFired": Facts._timer_fired,
    "eventRaised": Facts._raised,
}
