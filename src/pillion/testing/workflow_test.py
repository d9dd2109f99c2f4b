"""Workflow code against the real engine, in this process, on a time that the test turns.

    with WorkflowTest({"order": order}, {"charge": charge}) as test:
        id = test.start("order", {"item": 7})
        test.advance(days=30)                         # timers of a month, in milliseconds
        test.raise_event(id, "paid")
        assert test.status(id) == "COMPLETED" and test.result(id) == "shipped"

Workflows are generator functions as in `workflow_worker.py`, or those of an SDK's runtime (`workflow_sdk.py`).
Histories, inboxes, timers, retries and children are the engine's own; what is in memory are the store and the jobs.
Nothing happens between two calls, and each call goes on until there is nothing left to do at its moment. The same seed
is the same run.

Knows: the engine's facade, simulated time. Never knows: sidecars, gRPC.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

from pillion.components.memory import MemoryState, MemoryStateSettings
from pillion.kinds.component import Context as ComponentContext
from pillion.testing.simulation import EPOCH, World
from pillion.testing.workflow_rig import Rig
from pillion.testing.workflow_worker import Executor, InProcess, Worker
from pillion.workflow.hub import Start
from pillion.workflow.snapshot import Status

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from types import TracebackType

    from pillion.kinds.state import TransactionalStore
    from pillion.testing.simulation import Host
    from pillion.wire.messages import taskhub as m
    from pillion.workflow.service import Hub
    from pillion.workflow.snapshot import Snapshot, Wait

T = TypeVar("T")
SETTLE_S = 1e-3
"""Time that passes while a call is dealt with."""
ANSWER_S = 60.0
"""Within this much of the test's time a request must be answered."""


class WorkflowCode(Protocol):
    """What runs turns and activities: requests and responses of the task hub's protocol."""

    def turn(self, request: m.WorkflowRequest, token: str) -> m.WorkflowResponse: ...

    async def activity(self, request: m.ActivityRequest, token: str) -> m.ActivityResponse: ...


class NoSuchWorkflow(LookupError):
    """There is no instance of this id."""


class WorkflowTest:
    """An engine with one worker. `code` is used instead of `workflows` and `activities`; `now` is the time at the
    beginning, None: the first of January 2026.
    """

    def __init__(
        self,
        workflows: Mapping[str, Callable[..., Any]] | None = None,
        activities: Mapping[str, Callable[..., Any]] | None = None,
        *,
        code: WorkflowCode | None = None,
        now: datetime | None = None,
        seed: int = 0,
    ) -> None:
        self._code = code or Executor(workflows or {}, activities)
        self._world = World(seed)
        offset_s = 0.0 if now is None else now.timestamp() - EPOCH
        self._host: Host = self._world.host("test", offset_s=offset_s)
        self._hub: Hub
        self._worker: Worker
        self._jobs: Any = None

    def __enter__(self) -> WorkflowTest:
        self._run(self._open())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._run(self._close())

    async def _open(self) -> None:
        clock = self._host.clock
        store = MemoryState(MemoryStateSettings(), ComponentContext("test", "test", "", ""), clock)
        rig = Rig(cast("TransactionalStore", store), clock=clock)
        self._hub, self._jobs = rig.hub(), rig.jobs
        self._worker = Worker(cast(Executor, self._code), InProcess(self._hub))

    async def _close(self) -> None:
        await self._worker.close()
        await self._hub.close()
        self._jobs.stop()

    # -- time

    @property
    def now(self) -> datetime:
        return datetime.fromtimestamp(self._host.clock.now(), UTC)

    def advance(self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0) -> None:
        """Let time pass, and everything happen that is due in it."""
        passing = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds).total_seconds()
        if passing < 0:
            raise ValueError("time does not go back")
        self._world.run_for(passing)
        self._settle()

    # -- what clients do

    def start(self, name: str, input: Any = None, *, instance_id: str = "", start_at: datetime | None = None) -> str:
        """Start a workflow and return its id; `input` is anything that JSON can say."""
        at = None if start_at is None else start_at.timestamp()
        return self._run(self._hub.start(Start(name, instance_id, _text(input), start_at=at)))

    def raise_event(self, instance_id: str, name: str, data: Any = None) -> None:
        self._run(self._hub.raise_event(instance_id, name, _text(data)))

    def suspend(self, instance_id: str, reason: str = "") -> None:
        self._run(self._hub.suspend(instance_id, reason))

    def resume(self, instance_id: str, reason: str = "") -> None:
        self._run(self._hub.resume(instance_id, reason))

    def terminate(self, instance_id: str, output: Any = None) -> None:
        self._run(self._hub.terminate(instance_id, _text(output)))

    def purge(self, instance_id: str) -> None:
        self._run(self._hub.purge(instance_id))

    # -- how it stands

    def status(self, instance_id: str) -> str:
        """RUNNING, COMPLETED, FAILED, TERMINATED, PENDING, SUSPENDED, ... Raises `NoSuchWorkflow`."""
        return self.snapshot(instance_id).status.name

    def result(self, instance_id: str) -> Any:
        """What a finished workflow returned. Raises `AssertionError` for one that has not, with what it waits for."""
        found = self.snapshot(instance_id)
        if found.status is not Status.COMPLETED:
            failed = "" if found.failure is None else f": {found.failure.errorType}: {found.failure.errorMessage}"
            waits = "" if found.status.terminal else f", and waits for {self.waiting(instance_id)}"
            raise AssertionError(f"workflow '{instance_id}' is {found.status.name}{failed}{waits}")
        return json.loads(found.output) if found.output else None

    def waiting(self, instance_id: str) -> tuple[Wait, ...]:
        """What the workflow waits for: timers, events, activities, children."""
        found = self._run(self._hub.inspect(instance_id))
        if found is None:
            raise NoSuchWorkflow(instance_id)
        return found.waiting

    def snapshot(self, instance_id: str) -> Snapshot:
        found = self._run(self._hub.get(instance_id))
        if found is None:
            raise NoSuchWorkflow(instance_id)
        return found

    def history(self, instance_id: str) -> list[bytes]:
        """The committed history, serialised `HistoryEvent`s: for `workflow_replay.replay`."""
        found = self._run(self._hub.history(instance_id))
        if found is None:
            raise NoSuchWorkflow(instance_id)
        return found

    # -- the world

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the test's world, and all that follows from it at once. Raises what it raises."""

        async def kept() -> tuple[T | None, Exception | None]:
            try:
                return await work, None
            except Exception as error:  # raised below, outside of the world
                return None, error

        task = self._host.start(kept())
        self._world.run(task.done, seconds=ANSWER_S)
        result, error = task.result()
        if error is not None:
            raise error
        self._settle()
        return cast(T, result)

    def _settle(self) -> None:
        self._world.run_for(SETTLE_S)

    def __repr__(self) -> str:
        return f"<WorkflowTest at {self.now}>"


def _text(value: Any) -> str | None:
    return None if value is None else json.dumps(value)
