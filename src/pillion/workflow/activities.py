"""Activities: from a scheduled event to its result, in this process, on a replica, or in another application.

The owner of a workflow dispatches after the save and waits for the answer. The ring of the activity type says where it
runs; here means straight into the work queue. Elsewhere means one call of `Execute` that is held open until the result
is there (header `pillion-activity`): a connection that breaks dispatches it again, and a host that still runs it joins
the two. A call without the header comes from a reference sidecar, and gets its behaviour: a durable reminder, the
result by `AddWorkflowEvent` (spec `actors-workflows-jobs.md` 3.2, 3.6).
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.kinds.actors import ActorCall, ActorReply, RemoteFailure
from pillion.kinds.jobs import Constant, Job
from pillion.wire.messages import backend, wellknown
from pillion.wire.messages import taskhub as m
from pillion.workflow import history, traces
from pillion.workflow.faults import AccessDenied, InstanceMissing, NotReady, from_remote
from pillion.workflow.history import Event
from pillion.workflow.instance import Mail
from pillion.workflow.policy import ACCESS_DENIED, DENIED_TEXT
from pillion.workflow.snapshot import Wait
from pillion.workflow.surroundings import moment
from pillion.workflow.turn import propagate
from pillion.workflow.workers import Item

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.kinds.actors import Tick
    from pillion.observe.tracing import Span
    from pillion.workflow.engine import Engine
    from pillion.workflow.runner import Runner

log = logging.getLogger("pillion.workflow")

AWAIT = (b"pillion-activity", b"await")
EXECUTE = "Execute"
RUN_REMINDER = "run-activity"
CACHED_S = 60.0
MOST_CACHED = 2048
"""Results of activities run for others that are remembered, so that a repeated call finds them."""
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
_ANY = "type.googleapis.com/"
_BYTES = "google.protobuf.BytesValue"


class Run:
    """One activity under way for an instance here."""

    __slots__ = ("attempts", "error", "event", "generation", "handed", "hurry", "item", "span", "started", "task")

    def __init__(self, event: Event, generation: int, started: float) -> None:
        self.event = event
        self.generation = generation
        self.started = started
        self.item: Item | None = None
        self.span: Span | None = None
        self.task: asyncio.Task[None] | None = None
        self.attempts = 0
        self.error = ""
        self.hurry = asyncio.Event()
        """Set to try again at once."""
        self.handed = False
        """A reference sidecar has taken it over: the result comes as an event."""

    def is_ours(self, engine: Engine) -> bool:
        """Whether it runs in this application, here or on a replica."""
        target = self.event.router.targetAppID if self.event.HasField("router") else ""
        return target in ("", engine.surroundings.names.app_id)

    def wait(self, engine: Engine, since: float) -> Wait:
        name, task_id = self.event.taskScheduled.name, self.event.eventId
        item = self.item
        if item is None:
            return Wait("activity", name, task_id, attempts=self.attempts, error=self.error, since=since)
        return engine.activities.wait_of(item, since)


def activity_id(instance_id: str, task_id: int, generation: int) -> str:
    return f"{instance_id}::{task_id}::{generation}"


Key = tuple[str, str, int]
"""One activity as it was scheduled: actor id, execution id, and when. The time tells it from one of an instance of the
same id that was purged: generations begin anew then, and workers may make the same execution ids again."""


def _key(actor_id: str, event: Event) -> Key:
    return actor_id, event.taskScheduled.taskExecutionId, history.nanoseconds(event.timestamp)


def request(event: Event, instance_id: str, execution_id: str | None, propagated: bytes | None) -> bytes:
    """The serialised `ActivityRequest` of a scheduled event."""
    body = event.taskScheduled
    asked = m.ActivityRequest(name=body.name, taskId=event.eventId, taskExecutionId=body.taskExecutionId)
    asked.workflowInstance.instanceId = instance_id
    if execution_id is not None:
        asked.workflowInstance.executionId.value = execution_id
    if body.HasField("version"):
        asked.version.value = body.version.value
    if body.HasField("input"):
        asked.input.value = body.input.value
    if body.HasField("parentTraceContext"):
        asked.parentTraceContext.CopyFrom(body.parentTraceContext)
    raw = asked.SerializeToString()
    return raw if propagated is None else raw + history.frame(0x42, propagated)


class Activities:
    """Dispatches the activities of instances here, and runs those that others dispatch to this host."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running: dict[Key, tuple[asyncio.Future[Event], Item]] = {}
        self.asked: Callable[[ActorCall], Awaitable[bytes]] | None = None
        """Answers what sidecars of this application ask of activities that run here."""
        self._results: OrderedDict[Key, tuple[float, bytes]] = OrderedDict()

    # --- for instances of this host ---

    async def dispatch(self, runner: Runner, event: Event) -> None:
        """Have an activity run; nothing happens when it is under way already."""
        if event.eventId in runner.activities:
            return
        engine = self._engine
        instance = runner.instance
        started = instance.facts.started
        run = runner.activities[event.eventId] = Run(event, instance.generation, engine.surroundings.clock.monotonic())
        if started is not None and started.executionStarted.HasField("parentTraceContext"):
            self._trace(run, started)
        target = event.router.targetAppID if event.HasField("router") else ""
        if target in ("", engine.surroundings.names.app_id):
            try:
                owner = await engine.surroundings.actors.owner(
                    engine.activity_type, activity_id(instance.instance_id, event.eventId, instance.generation)
                )
            except ComponentError as error:
                run.error = str(error)
            else:
                if owner.local:
                    self._local(runner, run)
                    return
        if not runner.closed:
            run.task = engine.tasks.start(self._remote(runner, run, target), "activity")

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

    def _local(self, runner: Runner, run: Run) -> None:
        """Into the work queue of this process."""
        if runner.closed:
            return
        event, instance = run.event, runner.instance
        key = _key(activity_id(instance.instance_id, event.eventId, run.generation), event)
        if key[1] and (running := self._running.get(key)) is not None:
            # It has been running here since before the instance moved: its result is as good as a new one.
            run.item = running[1]
            running[0].add_done_callback(partial(self._joined, runner, run))
            return
        scope = event.taskScheduled.historyPropagationScope
        payload = request(
            event, instance.instance_id, self._engine.execution_id(instance),
            propagate(instance, scope, self._engine.surroundings.names.app_id) if scope else None,
        )  # fmt: skip
        item = Item(
            instance.instance_id, event.taskScheduled.name, partial(self._answered, runner, run),
            task_id=event.eventId, payload=payload,
        )  # fmt: skip
        run.item = item
        surroundings = self._engine.surroundings
        surroundings.meter.activity_payload("", event.taskScheduled.name, len(payload) / surroundings.bounds.max_body)
        elapsed_ms = (surroundings.clock.monotonic() - run.started) * 1000
        surroundings.meter.activity_operation(event.taskScheduled.name, "success", elapsed_ms)
        self._engine.workers.offer(item)

    def _joined(self, runner: Runner, run: Run, running: asyncio.Future[Event]) -> None:
        if running.cancelled() or running.exception() is not None:
            return
        self.settle(runner, run, running.result())

    def _answered(self, runner: Runner, run: Run, answer: m.WorkflowResponse | m.ActivityResponse) -> None:
        if isinstance(answer, m.ActivityResponse):
            now_ns = self._engine.surroundings.now_ns()
            self.settle(runner, run, history.task_result(now_ns, answer, run.event.taskScheduled.taskExecutionId))

    def settle(self, runner: Runner, run: Run, event: Event) -> None:
        """Give a result to the instance, if it is still the one that waits for it."""
        task_id = run.event.eventId
        if runner.activities.get(task_id) is not run or runner.instance.generation != run.generation:
            return
        del runner.activities[task_id]
        for future in runner.settled:
            if not future.done():
                future.set_result(None)
        runner.settled.clear()
        surroundings = self._engine.surroundings
        status = "success" if event.HasField("taskCompleted") else "failed"
        if run.span is not None and surroundings.tracer is not None:
            error = None if status == "success" else event.taskFailed.failureDetails.errorMessage
            name = run.event.taskScheduled.name
            traces.activity_ended(surroundings.tracer, run.span, name, runner.instance_id, task_id, error)
        elapsed_ms = (surroundings.clock.monotonic() - run.started) * 1000
        surroundings.meter.activity_execution(run.event.taskScheduled.name, status, elapsed_ms)
        runner.deliver(Mail.of(event))

    async def settled(self, runner: Runner) -> None:
        """Wait until one of the activities under way has its result."""
        future = asyncio.get_running_loop().create_future()
        runner.settled.append(future)
        await future

    def cancel(self, runner: Runner) -> None:
        """Nobody waits for the activities of this instance any more; those that run are let finish."""
        for run in runner.activities.values():
            if run.item is not None and not (runner.closed and self._keep(runner, run, run.item)):
                self._engine.workers.withdraw(run.item)
            if run.task is not None and run.task is not asyncio.current_task():
                run.task.cancel()
        runner.activities.clear()

    def _keep(self, runner: Runner, run: Run, item: Item) -> bool:
        """Whether a worker has the activity of an instance that leaves: then its next owner is given the result, if it
        asks in time, instead of having it run again.
        """
        key = _key(activity_id(runner.instance_id, run.event.eventId, run.generation), run.event)
        if item.holder is None or not key[1] or runner.instance.facts.completed is not None:
            return False
        if key not in self._running:
            item.done = partial(self._ran, key)
            self._running[key] = (self._engine.loop.create_future(), item)
        return True

    async def _remote(self, runner: Runner, run: Run, target: str) -> None:
        """Have it run by the host that the ring names, until there is a result."""
        surroundings = self._engine.surroundings
        event, instance = run.event, runner.instance
        actor_type = surroundings.names.activity(target)
        actor_id = activity_id(instance.instance_id, event.eventId, run.generation)
        scope = event.taskScheduled.historyPropagationScope
        asked = backend.ActivityInvocation(historyEvent=event)
        if scope and (carried := propagate(instance, scope, surroundings.names.app_id)) is not None:
            asked.propagatedHistory.MergeFromString(carried)
        call = ActorCall(
            actor_type, actor_id, EXECUTE, body=asked.SerializeToString(),
            headers=[AWAIT, *self._engine.calls.caller()], content_type=b"application/x-protobuf", verb="",
        )  # fmt: skip
        name, execution_id = event.taskScheduled.name, event.taskScheduled.taskExecutionId
        pause_s = FIRST_PAUSE_S
        while not runner.closed:
            try:
                if not target or target == surroundings.names.app_id:
                    owner = await surroundings.actors.owner(actor_type, actor_id)
                    if owner.local:
                        run.task = None
                        self._local(runner, run)
                        return
                reply = await surroundings.actors.invoke(call)
            except RemoteFailure as error:
                if isinstance(from_remote(error), AccessDenied):
                    now_ns = surroundings.now_ns()
                    denied = history.task_failed(now_ns, event.eventId, execution_id, ACCESS_DENIED, DENIED_TEXT)
                    self.settle(runner, run, denied)
                    return
                run.error = str(error)
            except ComponentError as error:
                run.error = str(error)
            except Exception as error:
                log.exception("activity %s: its dispatch failed and is tried again", actor_id)
                run.error = repr(error)
            else:
                if not reply.body:
                    run.handed = True
                    return
                self.settle(runner, run, Event.FromString(reply.body))
                return
            run.attempts += 1
            surroundings.meter.activity_operation(name, "recoverable", 0.0)
            run.hurry.clear()
            try:
                async with asyncio.timeout(pause_s):
                    await run.hurry.wait()
            except TimeoutError:
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)

    # --- for others: the actor type `activity` ---

    async def invoke(self, call: ActorCall) -> ActorReply:
        """`Execute`: run it and answer with its result, or leave a reminder for a reference sidecar's call."""
        if call.method in ("pillion.Inspect", "pillion.Mend") and self.asked is not None:
            return ActorReply(await self.asked(call))
        if call.method != EXECUTE:
            raise ComponentError(f"no such method: {call.method}")
        asked = backend.ActivityInvocation.FromString(call.body)
        self._engine.calls.check_activity(call, asked.historyEvent.taskScheduled.name)
        if AWAIT in call.headers:
            return ActorReply(await self._execute(call.actor_id, asked))
        await self._remind(call.actor_id, asked)
        return ActorReply()

    async def _remind(self, actor_id: str, asked: backend.ActivityInvocation) -> None:
        surroundings = self._engine.surroundings
        payload = wellknown.Any()
        payload.Pack(asked)
        job = Job(
            due_time=moment(surroundings.clock.now()), payload=payload.SerializeToString(),
            failure_policy=Constant(1.0, None), concurrency_key=asked.historyEvent.taskScheduled.name,
        )  # fmt: skip
        await surroundings.scheduler.schedule(
            self._engine.key(self._engine.activity_type, actor_id, RUN_REMINDER), job, overwrite=True
        )

    async def _execute(self, actor_id: str, asked: backend.ActivityInvocation) -> bytes:
        """Run it once, however often it is asked for; successes are remembered for a while."""
        event = asked.historyEvent
        key = _key(actor_id, event)
        now = self._engine.surroundings.clock.monotonic()
        while self._results and next(iter(self._results.values()))[0] < now - CACHED_S:
            self._results.popitem(last=False)
        if (known := self._results.get(key)) is not None:
            return known[1]
        running = self._running.get(key)
        if running is None:
            future: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
            propagated = asked.propagatedHistory.SerializeToString() if asked.HasField("propagatedHistory") else None
            instance_id = actor_id.split("::", 1)[0]
            item = Item(
                instance_id, event.taskScheduled.name, partial(self._ran, key), task_id=event.eventId,
                payload=request(event, instance_id, None, propagated),
            )  # fmt: skip
            running = self._running[key] = (future, item)
            self._engine.workers.offer(item)
        return (await asyncio.shield(running[0])).SerializeToString()

    def item_of(self, actor_id: str) -> Item | None:
        """The item of an activity that runs here for another host, None when there is none."""
        return next((item for key, (_, item) in self._running.items() if key[0] == actor_id), None)

    def wait_of(self, item: Item, since: float | None = None) -> Wait:
        """Why an activity has no result yet that is in the work queue here."""
        since = item.offered if since is None else since
        if item.quarantined:
            return Wait(
                "quarantine", item.name, item.task_id, attempts=item.losses, error=item.quarantined, since=since
            )
        kind = "worker" if item.holder is None and self._engine.workers.lacks(item) else "activity"
        lost = f"{item.losses} workers were lost while they ran it" if item.losses else ""
        return Wait(kind, item.name, item.task_id, attempts=item.losses, error=lost, since=since)

    def drop(self, actor_id: str) -> None:
        """Nobody waits any more for an activity that this host was to run for another one."""
        for key, (future, item) in list(self._running.items()):
            if key[0] == actor_id:
                self._engine.workers.withdraw(item)
                del self._running[key]
                if not future.done():
                    future.set_exception(InstanceMissing())
                    future.exception()

    def abandon(self) -> None:
        """No worker is left here: activities of others that nobody has taken are given back to who sent them."""
        for key, (future, item) in list(self._running.items()):
            if item.holder is None:
                self._engine.workers.withdraw(item)
                del self._running[key]
                if not future.done():
                    future.set_exception(NotReady("no worker is connected"))
                    future.exception()

    def _ran(self, key: Key, answer: m.WorkflowResponse | m.ActivityResponse) -> None:
        running = self._running.pop(key, None)
        if running is None or running[0].done() or not isinstance(answer, m.ActivityResponse):
            return
        surroundings = self._engine.surroundings
        event = history.task_result(surroundings.now_ns(), answer, key[1])
        if event.HasField("taskCompleted"):
            self._results[key] = (surroundings.clock.monotonic(), event.SerializeToString())
            if len(self._results) > MOST_CACHED:
                self._results.popitem(last=False)
        running[0].set_result(event)

    async def tick(self, tick: Tick) -> bool:
        """`run-activity`: run it, and bring the result to the workflow, or leave it with the scheduler."""
        if tick.name != RUN_REMINDER:
            return False
        raw = unwrapped(tick.payload)
        if raw is None:
            log.error("activity %s: its reminder carries nothing that can be run", tick.actor_id)
            return True
        asked = backend.ActivityInvocation.FromString(raw)
        event = Event.FromString(await self._execute(tick.actor_id, asked))
        source = asked.historyEvent.router.sourceAppID if asked.historyEvent.HasField("router") else ""
        instance_id = tick.actor_id.split("::", 1)[0]
        actor_type = self._engine.surroundings.names.workflow(source)
        try:
            await self._engine.calls.tell(actor_type, instance_id, event)
        except InstanceMissing:
            return False
        except ComponentError as error:
            log.warning("activity %s: its result is left with the scheduler: %s", tick.actor_id, error)
            await self._engine.calls.leave_result(actor_type, instance_id, event)
        return False

    async def deactivate(self, actor_type: str, actor_id: str) -> None:
        """Nothing is kept for an activity; what runs goes on (3.2: not cancelled by rebalancing)."""

    def __repr__(self) -> str:
        return f"<Activities {len(self._running)} running for others>"


def unwrapped(payload: bytes) -> bytes | None:
    """The message inside of a reminder's payload: an `Any` of it, or of a `BytesValue` around it; None for nothing."""
    if not payload:
        return None
    held = wellknown.Any.FromString(payload)
    if held.type_url.endswith(_BYTES):
        return wellknown.BytesValue.FromString(held.value).value
    return held.value
