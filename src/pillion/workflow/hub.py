"""Workflows as the rest of the sidecar sees them: what clients ask, and what workers take and give back.

Knows: requests and what they mean. Never knows: HTTP, gRPC services, how instances are driven (`engine.py`).

Every call may raise `WorkflowFault`s (`workflow/faults.py`), `ActorError`s of the way to the owner (`NoPlacement`,
`NoStateStore`, ...) and `ComponentError` of the state store or the scheduler. Deadlines are the caller's: wrap a call
in `asyncio.timeout`; every wait ends cleanly when it is cancelled.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from pillion.wire.messages import taskhub
    from pillion.workflow.snapshot import Inspection, Snapshot

STATEFUL_HISTORY = 2
"""`WorkerCapability`: the worker keeps histories, and is sent what is new of them (3.3)."""


@dataclass(frozen=True, slots=True)
class Start:
    """A workflow to be started. `instance_id` "" makes a random one; its form is the caller's business to check.

    `start_at` is seconds since 1970, None: now. `traceparent` is that of the request, "" for none.
    """

    name: str
    instance_id: str = ""
    input: str | None = None
    version: str | None = None
    start_at: float | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    traceparent: str = ""
    tracestate: str = ""


@dataclass(frozen=True, slots=True)
class Rerun:
    """A finished workflow to be run again from one of its events (3.9). None: not given."""

    source_id: str
    event_id: int
    new_id: str | None = None
    input: str | None = None
    overwrite_input: bool = False
    new_child_id: str | None = None


class WorkStream(Protocol):
    """One worker's stream of work. What it holds when it is closed is offered to others at once."""

    async def next(self) -> bytes:
        """Wait for the next item: a serialised `WorkItem`, with its completion token.

        An item is the stream's from now on. Raises `StreamEnded` when the hub closes.
        """

    def close(self, *, left: bool = False) -> None:
        """The worker is gone, or too slow to be sent to; `left`: it went of its own accord, and what it held is not
        to blame. Calling it again does nothing.
        """


class StreamEnded(Exception):
    """No more work comes: the sidecar is shutting down (gRPC CANCELLED, `shutting down`)."""


class Workflows(Protocol):
    """The facade. One for each sidecar; it serves instances wherever they live."""

    async def start(self, order: Start) -> str:
        """Create an instance and return its id; it is durable then, and need not have begun.

        While no worker is connected anywhere this waits. Raises `InstanceActive`, `DescendantsActive`,
        `DescendantsUnknown`, `NoPlacement`, `NoStateStore`.
        """

    async def get(self, instance_id: str) -> Snapshot | None:
        """How the instance stands, as last committed; None when there is none. Never waits for a turn."""

    async def wait_start(self, instance_id: str) -> Snapshot:
        """Wait until the instance exists and is no longer PENDING."""

    async def wait_completion(self, instance_id: str) -> Snapshot:
        """Wait until the instance exists and has reached a terminal status."""

    async def raise_event(self, instance_id: str, name: str, input: str | None = None) -> None:
        """Durable when it returns; a finished instance discards it. Raises `InstanceMissing`, `InstanceStalled`."""

    async def suspend(self, instance_id: str, reason: str | None = None, *, wait: bool = False) -> None:
        """`wait`: return when the instance is SUSPENDED or terminal. Raises `InstanceMissing`."""

    async def resume(self, instance_id: str, reason: str | None = None, *, wait: bool = False) -> None:
        """`wait`: return when the instance is RUNNING or terminal. Raises `InstanceMissing`."""

    async def terminate(
        self, instance_id: str, output: str | None = None, *, recursive: bool = True, wait: bool = False
    ) -> None:
        """`output` becomes the output. `wait`: return when it is terminal. Raises `InstanceMissing`."""

    async def purge(self, instance_id: str, *, recursive: bool = True, force: bool = False) -> int:
        """Delete a finished instance and return how many went, children included.

        `force` deletes whatever its state. Raises `InstanceMissing`, `NotCompleted`.
        """

    async def rerun(self, order: Rerun) -> str:
        """Return the id of the new instance. Raises `RerunRefused`, `RerunMissing`, `RerunExists`."""

    async def list_ids(self, *, token: str = "", page_size: int = 0) -> tuple[list[str], str]:
        """A page of the ids of this application's instances, and the token of the next page, "" at the end.

        `page_size` 0 is the store's choice. Raises `ComponentError` when the store cannot list keys, `TokenInvalid`.
        """

    async def history(self, instance_id: str) -> list[bytes] | None:
        """The committed history, each event a serialised `HistoryEvent`; None when there is no such instance."""

    async def inspect(self, instance_id: str) -> Inspection | None:
        """How the instance stands and what it waits for; None when there is none."""

    async def retry_activity(self, instance_id: str, task_id: int) -> None:
        """Offer a quarantined activity to workers again, with its attempts forgotten. Raises `InstanceMissing`."""

    async def retry_turn(self, instance_id: str) -> None:
        """Offer a quarantined turn to workers again. Raises `InstanceMissing` when no turn is under way."""

    async def skip_activity(self, instance_id: str, task_id: int, result: str | None = None) -> None:
        """Let an unfinished activity count as completed with `result` (JSON text). Raises `InstanceMissing`."""

    def attach(self, capabilities: Collection[int] = ()) -> WorkStream:
        """A worker connected. The first stream registers this application's workflow and activity types."""

    def complete_workflow(self, response: taskhub.WorkflowResponse) -> None:
        """A worker answered a turn. What matches no item in the hands of a worker is ignored."""

    def complete_activity(self, response: taskhub.ActivityResponse) -> None:
        """A worker answered an activity. What matches no item in the hands of a worker is ignored."""

    def oversized(self, instance_id: str, task_id: int, said: str) -> None:
        """What a worker answered was too large to be taken: an activity has failed with that, a turn (`task_id` -1)
        stalls. `said` is what the worker was told.
        """

    @property
    def workers(self) -> int:
        """The number of open streams."""
