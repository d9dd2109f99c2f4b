"""The sidecar's own workflows: they run in the process of the engine, never on a worker of an SDK.

A workflow is a generator function of its input: it yields `Activity` and `Child` steps one after the other, gets an
`Outcome` for each, and returns its output or raises `WorkflowFailed`. All texts are JSON. It is replayed from its
history on each turn, so it must depend on its input and outcomes alone. `replay` is the pure part; `Builtin` takes the
items from the queue. Never knows: what the workflows are for, stores, gRPC.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.tasks import Tasks
from pillion.wire.messages import taskhub as m
from pillion.wire.texts import writable
from pillion.workflow import history

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.workflow.items import Item

log = logging.getLogger("pillion.workflow")

VERSION = "v1"
"""The version that histories name for every workflow of this kind."""
WINDOW = 256
"""So many activities run at once; more wait in the order in which they came."""


@dataclass(frozen=True, slots=True)
class Activity:
    """Have an activity of this application run."""

    name: str
    input: str = ""


@dataclass(frozen=True, slots=True)
class Child:
    """Have a child workflow run, by the application `app_id`; "" is this one."""

    name: str
    input: str = ""
    app_id: str = ""


Step = Activity | Child


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a step: its result ("" for none), or the failure that `error` tells."""

    result: str = ""
    error: str | None = None


class WorkflowFailed(Exception):
    """Raised by a workflow that ends FAILED; the text is the failure's message."""


Workflow = Callable[[str], Generator[Step, Outcome, str]]
Run = Callable[[str], Awaitable[str]]
"""An activity. What it raises fails the activity."""


def replay(request: m.WorkflowRequest, workflows: Mapping[str, Workflow]) -> m.WorkflowResponse:
    """Bring an instance to the present and return what it asks for next.

    A workflow that nobody knows fails when it begins; one that has begun stalls until it is known again.
    """
    answer = m.WorkflowResponse(instanceId=request.instanceId)
    past = _Past()
    for event in (*request.pastEvents, *request.newEvents):
        past.feed(event)
    if past.terminated is not None:
        answer.actions.add(id=-1).completeWorkflow.CopyFrom(past.terminated)
        return answer
    if past.suspended or past.started is None:
        return answer
    workflow = workflows.get(past.started.name)
    if workflow is None:
        if request.pastEvents:
            answer.actions.add(id=0).workflowVersionNotAvailable.SetInParent()
        else:
            _fail(answer, "WorkflowNotRegistered", f"workflow named '{past.started.name}' is not registered")
        return answer
    answer.version.name = VERSION
    _advance(workflow(past.started.input.value), past, answer)
    return answer


class _Past:
    """What a history says, as far as steps one after the other need it."""

    def __init__(self) -> None:
        self.started: m.ExecutionStartedEvent | None = None
        self.scheduled: dict[int, str] = {}
        self.outcomes: dict[int, Outcome] = {}
        self.suspended = False
        self.terminated: m.CompleteWorkflowAction | None = None

    def feed(self, event: m.HistoryEvent) -> None:
        match event.WhichOneof("eventType"):
            case "executionStarted":
                self.started = event.executionStarted
            case "executionSuspended":
                self.suspended = True
            case "executionResumed":
                self.suspended = False
            case "executionTerminated":
                body = event.executionTerminated
                self.terminated = m.CompleteWorkflowAction(
                    workflowStatus=m.ORCHESTRATION_STATUS_TERMINATED,
                    result=body.input if body.HasField("input") else None,
                )
            case "taskScheduled":
                self.scheduled[event.eventId] = event.taskScheduled.name
            case "childWorkflowInstanceCreated":
                self.scheduled[event.eventId] = event.childWorkflowInstanceCreated.name
            case "taskCompleted":
                self.outcomes[event.taskCompleted.taskScheduledId] = Outcome(event.taskCompleted.result.value)
            case "childWorkflowInstanceCompleted":
                done = event.childWorkflowInstanceCompleted
                self.outcomes[done.taskScheduledId] = Outcome(done.result.value)
            case "taskFailed":
                details = event.taskFailed.failureDetails
                self.outcomes[event.taskFailed.taskScheduledId] = Outcome(error=details.errorMessage)
            case "childWorkflowInstanceFailed":
                failed = event.childWorkflowInstanceFailed
                self.outcomes[failed.taskScheduledId] = Outcome(error=failed.failureDetails.errorMessage)
            case _:
                pass


def _advance(steps: Generator[Step, Outcome, str], past: _Past, answer: m.WorkflowResponse) -> None:
    """Let the workflow go on through its outcomes, to the step that has none yet, or to its end."""
    number = 0
    try:
        step = next(steps)
        while True:
            known = past.scheduled.get(number)
            if known is not None and known != step.name:
                # The resource's hooks have changed under an instance that runs: it cannot go on by the new ones.
                answer.ClearField("version")
                answer.actions.add(id=0).workflowVersionNotAvailable.SetInParent()
                return
            outcome = past.outcomes.get(number)
            if outcome is None:
                if known is None:
                    _ask(answer, number, step)
                return
            step = steps.send(outcome)
            number += 1
    except StopIteration as end:
        done = answer.actions.add(id=number + 1).completeWorkflow
        done.workflowStatus = m.ORCHESTRATION_STATUS_COMPLETED
        done.result.value = end.value
    except WorkflowFailed as error:
        _fail(answer, "WorkflowFailed", str(error), number + 1)
    finally:
        steps.close()


def _ask(answer: m.WorkflowResponse, number: int, step: Step) -> None:
    action = answer.actions.add(id=number)
    if isinstance(step, Child):
        action.createChildWorkflow.name = step.name
        action.createChildWorkflow.input.value = step.input
        if step.app_id:
            action.router.targetAppID = step.app_id
    else:
        task = action.scheduleTask
        task.name = step.name
        task.input.value = step.input
        task.taskExecutionId = f"{answer.instanceId}-{number}"


def _fail(answer: m.WorkflowResponse, kind: str, text: str, number: int = 0) -> None:
    done = answer.actions.add(id=number).completeWorkflow
    done.workflowStatus = m.ORCHESTRATION_STATUS_FAILED
    done.failureDetails.errorType = kind
    done.failureDetails.errorMessage = text


class Builtin:
    """The workflows and activities that this sidecar knows by name, and what runs of them.

    `answer` takes what became of an item. Until `close`, every item is answered; after it none is: what ran is offered
    again by whoever owns the instance next.
    """

    def __init__(self, answer: Callable[[Item, m.WorkflowResponse | m.ActivityResponse], None]) -> None:
        self._answer = answer
        self._workflows: dict[str, Workflow] = {}
        self._activities: dict[str, Run] = {}
        self._waiting: deque[Item] = deque()
        self._running = 0
        self._closed = False
        self._tasks = Tasks("workflows of the sidecar")

    @property
    def names(self) -> int:
        """The number of workflows known."""
        return len(self._workflows)

    def register(self, workflows: Mapping[str, Workflow], activities: Mapping[str, Run]) -> None:
        """Know these from now on; those of the same name are replaced."""
        self._workflows.update(workflows)
        self._activities.update(activities)

    def unregister(self, workflows: Mapping[str, Workflow], activities: Mapping[str, Run]) -> None:
        """Forget these, unless others took their names."""
        for name, workflow in workflows.items():
            if self._workflows.get(name) is workflow:
                del self._workflows[name]
        for name, run in activities.items():
            if self._activities.get(name) is run:
                del self._activities[name]

    def take(self, item: Item) -> None:
        """Run an item; its answer comes later, never from within this call."""
        if self._closed:
            return
        if item.turn is not None:
            asyncio.get_running_loop().call_soon(self._turn, item)
        else:
            self._waiting.append(item)
            self._fill()

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def _turn(self, item: Item) -> None:
        if self._closed or item.gone or item.turn is None:
            return
        try:
            answer = replay(m.WorkflowRequest.FromString(item.turn.request()), self._workflows)
        except Exception as error:  # a turn without an answer would be waited for for ever
            log.exception("workflow '%s', one of the sidecar's own, failed", item.instance_id)
            answer = m.WorkflowResponse(instanceId=item.instance_id)
            _fail(answer, type(error).__name__, writable(str(error)))
        self._answer(item, answer)

    def _fill(self) -> None:
        while self._waiting and self._running < WINDOW and not self._closed:
            item = self._waiting.popleft()
            if not item.gone:
                self._running += 1
                self._tasks.start(self._run(item), f"activity {item.name}").add_done_callback(self._ran)

    def _ran(self, task: asyncio.Task[None]) -> None:
        self._running -= 1
        self._fill()

    async def _run(self, item: Item) -> None:
        asked = m.ActivityRequest.FromString(item.payload)
        answer = m.ActivityResponse(instanceId=item.instance_id, taskId=item.task_id)
        run = self._activities.get(asked.name)
        if run is None:
            answer.failureDetails.errorType = "ActivityNotRegistered"
            answer.failureDetails.errorMessage = f"activity named '{asked.name}' is not registered"
        else:
            try:
                # What a server has answered need not be a text that can be written: half a surrogate pair is not.
                result = history.StringValue(value=await run(asked.input.value))
            except Exception as error:
                log.warning("activity %s of workflow '%s' failed: %s", item.name, item.instance_id, error)
                answer.failureDetails.errorType = type(error).__name__
                answer.failureDetails.errorMessage = writable(str(error))
            else:
                answer.result.CopyFrom(result)
        if not self._closed:
            self._answer(item, answer)

    async def close(self) -> None:
        """End what runs without an answer."""
        self._closed = True
        self._waiting.clear()
        await self._tasks.close()

    def __repr__(self) -> str:
        return f"<Builtin {len(self._workflows)} workflows, {self._running} activities run>"


__all__ = ["Activity", "Builtin", "Child", "Outcome", "Run", "Step", "Workflow", "WorkflowFailed", "replay"]
