"""A worker in plain Python that speaks the task hub's messages: for tests, the simulator and measurements.

A workflow is a generator function: it yields what it waits for and is replayed from its history on each turn.

    def order(ctx, item):
        paid = yield ctx.call_activity("pay", item)
        if (yield ctx.wait_for_event("cancel", timeout_s=60)) is TIMED_OUT: ...
        return paid

Inputs and results are JSON texts on the wire and values here. `Executor` is pure: a request in, a response out;
`Worker` runs it over a transport. Knows: the protocol of SDKs. Never knows: the engine.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, cast

from pillion.net.exchange import RpcError
from pillion.wire.messages import taskhub as m
from pillion.wire.messages import wellknown
from pillion.workflow.history import NANOS, nanoseconds, timestamp
from pillion.workflow.hub import STATEFUL_HISTORY, StreamEnded

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping

    from pillion.net.exchange import GrpcChannel
    from pillion.workflow.hub import Workflows

TIMED_OUT = object()
"""What a wait for an event yields when its time is up."""
_SERVICE = "/TaskHubSidecarService/"


class ActivityFailed(Exception):
    """An activity, or a child workflow, failed: raised where the workflow waits for it."""

    def __init__(self, details: m.TaskFailureDetails) -> None:
        super().__init__(f"{details.errorType}: {details.errorMessage}")
        self.details = details


class Undecided(Exception):
    """A workflow did something else than its history says: it is not deterministic."""


@dataclass(slots=True)
class Waitable:
    """Something that a workflow can wait for."""

    done: bool = False
    result: Any = None
    error: Exception | None = None
    watchers: list[Waitable] = field(default_factory=list)

    def settle(self, result: Any = None, error: Exception | None = None) -> None:
        if self.done:
            return
        self.done, self.result, self.error = True, result, error
        for watcher in self.watchers:
            watcher.look()

    def look(self) -> None:
        """One of the parts is settled."""


@dataclass(slots=True)
class All(Waitable):
    """Settled when all of its parts are, with their results in order."""

    parts: list[Waitable] = field(default_factory=list)

    def look(self) -> None:
        failed = next((one for one in self.parts if one.done and one.error is not None), None)
        if failed is not None:
            self.settle(error=failed.error)
        elif all(one.done for one in self.parts):
            self.settle([one.result for one in self.parts])


@dataclass(slots=True)
class First(Waitable):
    """Settled with the first of its parts that is."""

    parts: list[Waitable] = field(default_factory=list)

    def look(self) -> None:
        found = next((one for one in self.parts if one.done), None)
        if found is not None:
            self.settle(found)


class Context:
    """What a workflow is given: ways to ask for things. Deterministic by construction."""

    def __init__(self, instance_id: str) -> None:
        self.instance_id = instance_id
        self.now_ns = 0
        self.replaying = True
        self.custom_status: Any = None
        self.actions: dict[int, m.WorkflowAction] = {}
        self.open: dict[int, Waitable] = {}
        self.patches: list[str] = []
        self._count = 0
        self._events: dict[str, deque[Any]] = {}
        self._waits: dict[str, deque[Waitable]] = {}
        self.continued: tuple[Any, bool] | None = None

    def _action(self, **kind: Any) -> tuple[int, Waitable]:
        number = self._count
        self._count += 1
        self.actions[number] = m.WorkflowAction(id=number, **kind)
        waiting = Waitable()
        return number, waiting

    def call_activity(self, name: str, input: Any = None, *, app_id: str = "", scope: int = 0) -> Waitable:
        body = m.ScheduleTaskAction(name=name, input=_text(input), taskExecutionId=f"{self.instance_id}-{self._count}")
        if scope:
            body.historyPropagationScope = scope
        number, waiting = self._action(scheduleTask=body, router=_router(app_id))
        self.open[number] = waiting
        return waiting

    def call_child(
        self, name: str, input: Any = None, *, instance_id: str = "", app_id: str = "", scope: int = 0
    ) -> Waitable:
        body = m.CreateChildWorkflowAction(name=name, input=_text(input), instanceId=instance_id)
        if scope:
            body.historyPropagationScope = scope
        number, waiting = self._action(createChildWorkflow=body, router=_router(app_id))
        self.open[number] = waiting
        return waiting

    def sleep(self, seconds: float) -> Waitable:
        return self.sleep_until(self.now_ns + int(seconds * NANOS))

    def sleep_until(self, at_ns: int) -> Waitable:
        body = m.CreateTimerAction(fireAt=timestamp(at_ns), createTimer=m.TimerOriginCreateTimer())
        number, waiting = self._action(createTimer=body)
        self.open[number] = waiting
        return waiting

    def wait_for_event(self, name: str, *, timeout_s: float | None = None) -> Waitable:
        """Events that came early are kept and taken in their order; names match in any case."""
        key = name.upper()
        early = self._events.get(key)
        waiting = Waitable()
        if early:
            waiting.settle(early.popleft())
            return waiting
        self._waits.setdefault(key, deque()).append(waiting)
        if timeout_s is not None:
            at = timestamp(self.now_ns + int(timeout_s * NANOS))
            body = m.CreateTimerAction(fireAt=at, externalEvent=m.TimerOriginExternalEvent(name=name))
            number, timer = self._action(createTimer=body)
            self.open[number] = timer
            timer.watchers.append(_Timeout(waiting))
        return waiting

    def send_event(self, instance_id: str, name: str, data: Any = None) -> None:
        body = m.SendEventAction(instance=m.WorkflowInstance(instanceId=instance_id), name=name, data=_text(data))
        self._action(sendEvent=body)

    def terminate(self, instance_id: str, reason: str = "", *, recurse: bool = False) -> None:
        body = m.TerminateWorkflowAction(
            instanceId=instance_id, reason=wellknown.StringValue(value=reason), recurse=recurse
        )
        self._action(terminateWorkflow=body)

    def start_detached(self, name: str, input: Any = None, *, instance_id: str = "") -> None:
        body = m.CreateDetachedWorkflowAction(name=name, input=_text(input), instanceId=instance_id)
        self._action(createDetachedWorkflow=body)

    def continue_as_new(self, input: Any = None, *, keep_events: bool = True) -> None:
        self.continued = (input, keep_events)

    def all(self, parts: Iterable[Waitable]) -> Waitable:
        return _join(All(parts=list(parts)))

    def first(self, parts: Iterable[Waitable]) -> Waitable:
        """Yields the part that was settled first."""
        return _join(First(parts=list(parts)))

    def is_patched(self, name: str) -> bool:
        """Record a patch, as SDKs do in code that differs from an older version."""
        self.patches.append(name)
        return True

    def raised(self, name: str, data: Any) -> None:
        key = name.upper()
        waits = self._waits.get(key)
        while waits:
            waiting = waits.popleft()
            if not waiting.done:
                waiting.settle(data)
                return
        self._events.setdefault(key, deque()).append(data)

    def left(self) -> list[tuple[str, Any]]:
        """Events that nobody waited for."""
        return [(name, data) for name, queue in self._events.items() for data in queue]


@dataclass(slots=True)
class _Timeout(Waitable):
    """Ends a wait for an event when its timer fires."""

    waiting: Waitable | None = None

    def __init__(self, waiting: Waitable) -> None:
        Waitable.__init__(self)
        self.waiting = waiting

    def look(self) -> None:
        if self.waiting is not None:
            self.waiting.settle(TIMED_OUT)


def _join(made: All | First) -> Waitable:
    for part in made.parts:
        part.watchers.append(made)
    made.look()
    return made


class _Replay:
    """One instance brought to the present by its events."""

    def __init__(self, executor: Executor, instance_id: str) -> None:
        self.executor = executor
        self.ctx = Context(instance_id)
        self.code: Generator[Waitable, Any, Any] | None = None
        self.waiting: Waitable | None = None
        self.suspended = False
        self.held: list[m.HistoryEvent] = []
        self.ended: m.CompleteWorkflowAction | None = None
        self.unavailable = False

    def feed(self, event: m.HistoryEvent) -> None:
        kind = event.WhichOneof("eventType")
        if kind == "executionSuspended":
            self.suspended = True
        elif kind == "executionResumed":
            self.suspended = False
            held, self.held = self.held, []
            for one in held:
                self._apply(one)
        elif kind == "executionTerminated":
            body = event.executionTerminated
            self.ended = m.CompleteWorkflowAction(
                workflowStatus=m.ORCHESTRATION_STATUS_TERMINATED, result=body.input if body.HasField("input") else None
            )
            self.ctx.actions.clear()
        elif self.suspended and kind not in ("workflowStarted", "executionStarted", "taskScheduled", "timerCreated"):
            self.held.append(event)
        else:
            self._apply(event)

    def _apply(self, event: m.HistoryEvent) -> None:
        ctx = self.ctx
        match event.WhichOneof("eventType"):
            case "workflowStarted":
                ctx.now_ns = nanoseconds(event.timestamp)
            case "executionStarted":
                self._start(event.executionStarted)
            case "taskScheduled" | "timerCreated" | "childWorkflowInstanceCreated" | "eventSent" as kind:
                self._confirm(event, kind)
            case "detachedWorkflowInstanceCreated":
                ctx.actions.pop(event.eventId, None)
            case "taskCompleted":
                self._settle(event.taskCompleted.taskScheduledId, event.taskCompleted)
            case "taskFailed":
                self._settle(event.taskFailed.taskScheduledId, None, event.taskFailed.failureDetails)
            case "childWorkflowInstanceCompleted":
                body = event.childWorkflowInstanceCompleted
                self._settle(body.taskScheduledId, body)
            case "childWorkflowInstanceFailed":
                failed = event.childWorkflowInstanceFailed
                self._settle(failed.taskScheduledId, None, failed.failureDetails)
            case "timerFired":
                waiting = ctx.open.pop(event.timerFired.timerId, None)
                if waiting is not None:
                    waiting.settle()
                    self._advance()
            case "eventRaised":
                raised = event.eventRaised
                ctx.raised(raised.name, _value(raised))
                self._advance()
            case _:
                pass

    def _confirm(self, event: m.HistoryEvent, kind: str) -> None:
        action = self.ctx.actions.pop(event.eventId, None)
        wanted = {
            "taskScheduled": "scheduleTask", "timerCreated": "createTimer",
            "childWorkflowInstanceCreated": "createChildWorkflow", "eventSent": "sendEvent",
        }[kind]  # fmt: skip
        if action is None or not action.HasField(wanted):  # type: ignore[arg-type]
            self._fail(Undecided(f"history has {kind} {event.eventId}, the workflow has not"))

    def _settle(self, number: int, body: Any, failure: m.TaskFailureDetails | None = None) -> None:
        waiting = self.ctx.open.pop(number, None)
        if waiting is None:
            return
        if failure is not None:
            waiting.settle(error=ActivityFailed(failure))
        else:
            waiting.settle(_value(body, "result"))
        self._advance()

    def _start(self, started: m.ExecutionStartedEvent) -> None:
        workflow = self.executor.workflows.get(started.name)
        if workflow is None:
            self.unavailable = True
            return
        try:
            made = workflow(self.ctx, _value(started))
        except Exception as error:
            self._fail(error)
            return
        if inspect.isgenerator(made):
            self.code = cast("Generator[Waitable, Any, Any]", made)
            self._step(None)
        else:
            self._end(made)

    def _advance(self) -> None:
        while self.code is not None and self.ended is None and self.waiting is not None and self.waiting.done:
            self._step(self.waiting)

    def _step(self, settled: Waitable | None) -> None:
        """Let the code go on until it waits for something that is not there yet."""
        assert self.code is not None
        while True:
            try:
                if settled is None:
                    waiting = next(self.code)
                elif settled.error is not None:
                    waiting = self.code.throw(settled.error)
                else:
                    waiting = self.code.send(settled.result)
            except StopIteration as end:
                self._end(end.value)
                return
            except Exception as error:
                self._fail(error)
                return
            self.waiting = waiting
            if not waiting.done:
                return
            settled = waiting

    def _end(self, result: Any) -> None:
        if self.ended is not None:
            return
        if self.ctx.continued is not None:
            self.ended = m.CompleteWorkflowAction(
                workflowStatus=m.ORCHESTRATION_STATUS_CONTINUED_AS_NEW, result=_text(self.ctx.continued[0])
            )
            return
        self.ended = m.CompleteWorkflowAction(workflowStatus=m.ORCHESTRATION_STATUS_COMPLETED, result=_text(result))

    def _fail(self, error: Exception) -> None:
        if self.ended is None:
            details = m.TaskFailureDetails(errorType=type(error).__name__, errorMessage=str(error))
            self.ended = m.CompleteWorkflowAction(workflowStatus=m.ORCHESTRATION_STATUS_FAILED, failureDetails=details)

    def _carry_over(self) -> None:
        """Events that came and were not waited for go on with the next generation, those of this turn included."""
        ctx = self.ctx
        if self.ended is None or ctx.continued is None or not ctx.continued[1] or self.ended.carryoverEvents:
            return
        for name, data in ctx.left():
            raised = m.EventRaisedEvent(name=name, input=_text(data))
            self.ended.carryoverEvents.add(eventId=-1, timestamp=timestamp(ctx.now_ns), eventRaised=raised)

    def answer(self, token: str, version: list[str] | None) -> m.WorkflowResponse:
        ctx = self.ctx
        self._carry_over()
        answer = m.WorkflowResponse(instanceId=ctx.instance_id, completionToken=token)
        if self.unavailable:
            answer.actions.add(id=0).workflowVersionNotAvailable.SetInParent()
            return answer
        if ctx.custom_status is not None:
            answer.customStatus.value = json.dumps(ctx.custom_status)
        if version is not None or ctx.patches:
            answer.version.patches.extend(ctx.patches if version is None else version)
        if not self.suspended or self.ended is not None:
            answer.actions.extend(ctx.actions[number] for number in sorted(ctx.actions))
        if self.ended is not None and (not self.suspended or self.ended.workflowStatus == 5):
            answer.actions.add(id=-1).completeWorkflow.CopyFrom(self.ended)
        return answer


class Executor:
    """Replays workflows and runs activities. `stateful`: keeps replayed instances between their turns."""

    def __init__(
        self,
        workflows: Mapping[str, Callable[[Context, Any], Any]],
        activities: Mapping[str, Callable[[Any], Any]] | None = None,
        *,
        stateful: bool = False,
        patches: list[str] | None = None,
    ) -> None:
        self.workflows = dict(workflows)
        self.activities = dict(activities or {})
        self.patches = patches
        self.turns = 0
        self.misses = 0
        self.delta_turns = 0
        self._kept: dict[str, tuple[int, int, _Replay]] | None = {} if stateful else None
        """By instance: how many past events the last turn had, and how many new ones, which come again as past."""

    def turn(self, request: m.WorkflowRequest, token: str) -> m.WorkflowResponse:
        self.turns += 1
        instance_id = request.instanceId
        kept = self._kept.pop(instance_id, None) if self._kept is not None else None
        count = fed = 0
        if request.HasField("cachedHistory"):
            if kept is None or kept[0] != request.cachedHistory.eventCount:
                self.misses += 1
                raise Undecided("the history that the sidecar believes to be here is not")
            self.delta_turns += 1
            count, fed, replay = kept
        else:
            replay = _Replay(self, instance_id)
        for event in request.pastEvents[fed:]:
            replay.feed(event)
        replay.ctx.replaying = False
        for event in request.newEvents:
            replay.feed(event)
        answer = replay.answer(token, self.patches)
        if self._kept is not None and not any(action.HasField("completeWorkflow") for action in answer.actions):
            # The sidecar counts on it, also where the code has ended while it was suspended.
            self._kept[instance_id] = (count + len(request.pastEvents), len(request.newEvents), replay)
        return answer

    async def activity(self, request: m.ActivityRequest, token: str) -> m.ActivityResponse:
        answer = m.ActivityResponse(
            instanceId=request.workflowInstance.instanceId, taskId=request.taskId, completionToken=token
        )
        code = self.activities.get(request.name)
        try:
            if code is None:
                raise LookupError(f"no activity is called {request.name!r}")
            result = code(_value(request))
            if inspect.isawaitable(result):
                result = await result
        except asyncio.CancelledError:
            raise
        except Exception as error:
            answer.failureDetails.errorType = type(error).__name__
            answer.failureDetails.errorMessage = str(error)
        else:
            made = _text(result)
            if made is not None:
                answer.result.CopyFrom(made)
        return answer


class Transport(Protocol):
    """How a worker reaches its sidecar."""

    async def next(self) -> m.WorkItem: ...

    async def complete_workflow(self, answer: m.WorkflowResponse) -> None: ...

    async def complete_activity(self, answer: m.ActivityResponse) -> None: ...

    def close(self) -> None: ...


class InProcess:
    """Straight to a hub in this process; messages are serialised all the same."""

    def __init__(self, hub: Workflows, *, stateful: bool = False) -> None:
        self._hub = hub
        self._stream = hub.attach([STATEFUL_HISTORY] if stateful else [])

    async def next(self) -> m.WorkItem:
        return m.WorkItem.FromString(await self._stream.next())

    async def complete_workflow(self, answer: m.WorkflowResponse) -> None:
        self._hub.complete_workflow(answer)

    async def complete_activity(self, answer: m.ActivityResponse) -> None:
        self._hub.complete_activity(answer)

    def close(self) -> None:
        self._stream.close()


class OverGrpc:
    """Through the sidecar's public gRPC port."""

    def __init__(self, channel: GrpcChannel, *, stateful: bool = False) -> None:
        self._channel = channel
        self._stateful = stateful
        self._stream: Any = None

    async def next(self) -> m.WorkItem:
        if self._stream is None:
            self._stream = self._channel.stream(f"{_SERVICE}GetWorkItems")
            asked = m.GetWorkItemsRequest(capabilities=[STATEFUL_HISTORY] if self._stateful else [])
            await self._stream.send_last(asked.SerializeToString())
        try:
            raw = await self._stream.receive()
        except RpcError as error:
            raise StreamEnded(error.message) from error
        if raw is None:
            raise StreamEnded("the stream has ended")
        return m.WorkItem.FromString(raw)

    async def complete_workflow(self, answer: m.WorkflowResponse) -> None:
        await self._channel.unary(f"{_SERVICE}CompleteWorkflowTask", answer.SerializeToString())

    async def complete_activity(self, answer: m.ActivityResponse) -> None:
        await self._channel.unary(f"{_SERVICE}CompleteActivityTask", answer.SerializeToString())

    def close(self) -> None:
        if self._stream is not None:
            self._stream.cancel()


class Worker:
    """Takes items from a transport and answers them until it is closed or the stream ends."""

    def __init__(self, executor: Executor, transport: Transport) -> None:
        self.executor = executor
        self.transport = transport
        self._tasks: set[asyncio.Task[None]] = set()
        self.ended = asyncio.get_running_loop().create_task(self._run())
        """Done when the stream has ended."""

    async def _run(self) -> None:
        try:
            while True:
                item = await self.transport.next()
                if item.HasField("workflowRequest"):
                    answer = self.executor.turn(item.workflowRequest, item.completionToken)
                    if isinstance(self.transport, InProcess):
                        await self.transport.complete_workflow(answer)
                    else:
                        self._spawn(self.transport.complete_workflow(answer))
                else:
                    self._spawn(self._activity(item))
        except StreamEnded:
            pass

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _activity(self, item: m.WorkItem) -> None:
        answer = await self.executor.activity(item.activityRequest, item.completionToken)
        await self.transport.complete_activity(answer)

    async def close(self) -> None:
        """Go as a worker that is killed goes: what it holds is not answered."""
        self.transport.close()
        running = [self.ended, *self._tasks]
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _text(value: Any) -> wellknown.StringValue | None:
    return None if value is None else wellknown.StringValue(value=json.dumps(value))


def _value(body: Any, name: str = "input") -> Any:
    """The JSON value of a text field, None when it is absent or empty."""
    if not body.HasField(name):
        return None
    text = getattr(body, name).value
    return json.loads(text) if text else None


def _router(app_id: str) -> m.TaskRouter | None:
    return m.TaskRouter(targetAppID=app_id) if app_id else None
