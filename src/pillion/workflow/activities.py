"""Activities of the instances that live here: from a scheduled event to its result.

The owner of a workflow dispatches after the save and waits for the answer. The ring of the activity type says where it
runs; here means straight into the work queue. Elsewhere means one call of `Execute` that is held open until the result
is there (header `pillion-activity`). What runs, runs once: a host that is asked again joins the two (`errands.py`).

A worker that is lost is counted here, for all replicas: the host that ran the activity says so in its answer. When
that host is lost itself nobody knows what ran: it is asked again (`pillion-again`), and a host that knows of no such
activity says that it was lost with the other one. What is under suspicion (`losses.py`) is run by the owner, apart from
all else that is; in another application by a host of that one.

Knows: where an activity runs, what becomes of it. Never knows: turns.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.wire.messages import taskhub as m
from pillion.workflow import history, traces
from pillion.workflow.elsewhere import run_elsewhere
from pillion.workflow.family import propagate
from pillion.workflow.history import Event
from pillion.workflow.instance import Mail
from pillion.workflow.invocations import activity_id, key_of, lost_in, request
from pillion.workflow.items import Item
from pillion.workflow.losses import Lost
from pillion.workflow.snapshot import Wait

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.observe.tracing import Span
    from pillion.workflow.engine import Engine
    from pillion.workflow.items import Answer
    from pillion.workflow.runner import Runner

log = logging.getLogger("pillion.workflow")


class Run:
    """One activity under way for an instance here."""

    __slots__ = (
        "attempts", "error", "event", "generation", "handed", "hurry", "item", "over", "span", "started", "target",
        "task", "unsure",
    )  # fmt: skip

    def __init__(self, event: Event, generation: int, started: float) -> None:
        self.event = event
        self.generation = generation
        self.started = started
        self.target = event.router.targetAppID if event.HasField("router") else ""
        self.item: Item | None = None
        self.span: Span | None = None
        self.task: asyncio.Task[None] | None = None
        self.attempts = 0
        self.error = ""
        self.hurry = asyncio.Event()
        """Set to try again at once."""
        self.over: asyncio.Event | None = None
        """Of one that runs apart: set when another suspect may have its place."""
        self.unsure = False
        """It may have run on a host that gave no answer."""
        self.handed = False
        """A reference sidecar has taken it over: the result comes as an event."""

    def is_ours(self, engine: Engine) -> bool:
        """Whether it runs in this application, here or on a replica."""
        return self.target in ("", engine.surroundings.names.app_id)

    def wait(self, engine: Engine, since: float) -> Wait:
        name, task_id = self.event.taskScheduled.name, self.event.eventId
        item = self.item
        if item is None:
            return Wait("activity", name, task_id, attempts=self.attempts, error=self.error, since=since)
        return engine.errands.wait_of(item, since)

    def leave(self) -> None:
        if self.over is not None:
            self.over.set()


class Activities:
    """Dispatches the activities of instances here, until each has its result or is put aside."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def dispatch(self, runner: Runner, event: Event) -> None:
        """Have an activity run; nothing happens when it is under way already, or put aside."""
        if event.eventId in runner.activities or runner.losses.aside(event.eventId):
            return
        engine = self._engine
        instance = runner.instance
        started = instance.facts.started
        run = runner.activities[event.eventId] = Run(event, instance.generation, engine.surroundings.clock.monotonic())
        if started is not None and started.executionStarted.HasField("parentTraceContext"):
            self._trace(run, started)
        await self._begin(runner, run)

    async def _begin(self, runner: Runner, run: Run) -> None:
        """Have it run where it belongs."""
        engine, event = self._engine, run.event
        if run.is_ours(engine):
            if runner.losses.suspicious(event.eventId):
                run.task = self._start(runner, partial(self._apart, runner, run))
                return
            try:
                owner = await engine.surroundings.actors.owner(
                    engine.activity_type, activity_id(runner.instance_id, event.eventId, run.generation)
                )
            except ComponentError as error:
                run.error = str(error)
            else:
                if owner.local:
                    self.local(runner, run)
                    return
        if not runner.closed:
            run.task = self._start(runner, partial(run_elsewhere, engine, runner, run))

    def _trace(self, run: Run, started: Event) -> None:
        """Have the worker go on with the trace that the workflow belongs to."""
        tracer = self._engine.surroundings.tracer
        parent, state = traces.parent_below(started.executionStarted)
        if tracer is not None:
            run.span = traces.activity_begun(tracer, started.executionStarted)
            parent = parent if run.span is None else run.span.traceparent
        if parent and not run.event.taskScheduled.HasField("parentTraceContext"):
            told = Event()
            told.CopyFrom(run.event)
            told.taskScheduled.parentTraceContext.traceParent = parent
            if state:
                told.taskScheduled.parentTraceContext.traceState.value = state
            run.event = told

    def local(self, runner: Runner, run: Run) -> None:
        """Into the work queue of this process."""
        if runner.closed or runner.activities.get(run.event.eventId) is not run:
            run.leave()
            return
        event, instance, errands = run.event, runner.instance, self._engine.errands
        key = key_of(activity_id(instance.instance_id, event.eventId, run.generation), event)
        if key[1] and (running := errands.find(key)) is not None:
            # It has been running here since before the instance moved: its result is as good as a new one.
            run.item, run.unsure = running.item, False
            running.result.add_done_callback(partial(self._joined, runner, run))
            return
        if run.unsure:
            self.lost(runner, run, Lost.HOST)
            return
        scope = event.taskScheduled.historyPropagationScope
        payload = request(
            event, instance.instance_id, self._engine.execution_id(instance),
            propagate(instance, scope, self._engine.surroundings.names.app_id) if scope else None,
        )  # fmt: skip
        item = Item(
            instance.instance_id, event.taskScheduled.name, partial(self._answered, runner, run),
            partial(self.lost, runner, run, Lost.WORKER), task_id=event.eventId, payload=payload,
        )  # fmt: skip
        run.item = item
        surroundings = self._engine.surroundings
        surroundings.meter.activity_payload("", event.taskScheduled.name, len(payload) / surroundings.bounds.max_body)
        elapsed_ms = (surroundings.clock.monotonic() - run.started) * 1000
        surroundings.meter.activity_operation(event.taskScheduled.name, "success", elapsed_ms)
        self._engine.workers.offer(item)

    def _joined(self, runner: Runner, run: Run, running: asyncio.Future[Event]) -> None:
        if running.cancelled():
            return
        error = running.exception()
        if error is None:
            self.settle(runner, run, running.result())
        elif (what := lost_in(error)) is not None:
            self.lost(runner, run, what)

    def _answered(self, runner: Runner, run: Run, answer: Answer) -> None:
        if isinstance(answer, m.ActivityResponse):
            now_ns = self._engine.surroundings.now_ns()
            self.settle(runner, run, history.task_result(now_ns, answer, run.event.taskScheduled.taskExecutionId))

    def settle(self, runner: Runner, run: Run, event: Event) -> None:
        """Give a result to the instance, if it is still the one that waits for it."""
        task_id = run.event.eventId
        if runner.activities.get(task_id) is not run or runner.instance.generation != run.generation:
            return
        self._end(runner, run)
        surroundings = self._engine.surroundings
        status = "success" if event.HasField("taskCompleted") else "failed"
        if run.span is not None and surroundings.tracer is not None:
            error = None if status == "success" else event.taskFailed.failureDetails.errorMessage
            name = run.event.taskScheduled.name
            traces.activity_ended(surroundings.tracer, run.span, name, runner.instance_id, task_id, error)
        elapsed_ms = (surroundings.clock.monotonic() - run.started) * 1000
        surroundings.meter.activity_execution(run.event.taskScheduled.name, status, elapsed_ms)
        runner.deliver(Mail.of(event))

    def _end(self, runner: Runner, run: Run) -> None:
        """It is not under way any more."""
        del runner.activities[run.event.eventId]
        run.leave()
        for future in runner.settled:
            if not future.done():
                future.set_result(None)
        runner.settled.clear()

    async def settled(self, runner: Runner) -> None:
        """Wait until one of the activities under way has its result, or is put aside."""
        future = asyncio.get_running_loop().create_future()
        runner.settled.append(future)
        await future

    def cancel(self, runner: Runner) -> None:
        """Nobody waits for the activities of this instance any more; those that run are let finish."""
        for run in runner.activities.values():
            if run.item is not None and not (runner.closed and self._keep(runner, run, run.item)):
                self._engine.workers.withdraw(run.item)
            run.leave()
            if run.task is not None and run.task is not asyncio.current_task():
                run.task.cancel()
        runner.activities.clear()

    def _keep(self, runner: Runner, run: Run, item: Item) -> bool:
        """Whether a worker has the activity of an instance that leaves: then its next owner is given the result, if it
        asks in time, instead of having it run again.
        """
        key = key_of(activity_id(runner.instance_id, run.event.eventId, run.generation), run.event)
        if item.holder is None or not key[1] or runner.instance.facts.completed is not None:
            return False
        self._engine.errands.adopt(key, item)
        return True

    def hurry(self) -> None:
        """The owners of activities may be others now: whoever pauses before another try goes on."""
        for runner in self._engine.runners.values():
            for run in runner.activities.values():
                run.hurry.set()

    # --- losses ---

    def lost(self, runner: Runner, run: Run, what: Lost) -> None:
        """A worker or a host was lost with it, or so it seems: count, write that down, then have it run again."""
        task_id = run.event.eventId
        if runner.closed or runner.activities.get(task_id) is not run or runner.instance.generation != run.generation:
            return
        run.item, run.unsure, run.error = None, False, ""
        run.leave()
        runner.losses.lost(task_id, what)
        run.task = self._start(runner, partial(self._again, runner, run))

    def _start(self, runner: Runner, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        return self._engine.tasks.start(self._guarded(runner, work), "activity")

    async def _guarded(self, runner: Runner, work: Callable[[], Awaitable[None]]) -> None:
        """Nobody else would notice that an activity is not under way any more: its instance is read anew then."""
        try:
            await work()
        except Exception as error:
            log.exception("workflow '%s': one of its activities cannot be run", runner.instance_id)
            if not runner.closed:
                self._engine.failed(runner, error)

    async def _again(self, runner: Runner, run: Run) -> None:
        task_id = run.event.eventId
        if not await runner.record() or runner.activities.get(task_id) is not run:
            return
        run.task = None
        if runner.losses.aside(task_id):
            name, why = run.event.taskScheduled.name, runner.losses.of(task_id).why
            log.warning("workflow '%s': activity %d, %s, is put aside: %s", runner.instance_id, task_id, name, why)
            self._end(runner, run)
            self._engine.rest(runner)
            return
        await self._begin(runner, run)

    async def _apart(self, runner: Runner, run: Run) -> None:
        """Run a suspect here, while no other one is with a worker of this host."""
        async with self._engine.apart:
            if not await runner.tries(run.event.eventId):
                return
            over = run.over = asyncio.Event()
            self.local(runner, run)
            await over.wait()

    def __repr__(self) -> str:
        return f"<Activities of {self._engine!r}>"
