"""What an instance owes others: children to be created, events to be sent, and, when it is over, word to its parent, to
its children and to the scheduler. All of it follows from committed state and may be done twice.

Knows: what is owed and in which order. Never knows: how a call travels.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.kinds.actors import ActorCall, RemoteFailure
from pillion.kinds.jobs import Constant, Job
from pillion.wire.messages import backend, wellknown
from pillion.workflow import history, outbox, traces
from pillion.workflow.custody import take_up
from pillion.workflow.family import child_start, is_child_of, parent_of, propagate, told_to_parent
from pillion.workflow.faults import (
    AccessDenied,
    DescendantsUnknown,
    IdInvalid,
    InstanceActive,
    InstanceMissing,
    NotReady,
    from_remote,
)
from pillion.workflow.instance import Mail
from pillion.workflow.policy import ACCESS_DENIED, DENIED_TEXT
from pillion.workflow.snapshot import TERMINAL, Status
from pillion.workflow.surroundings import RETENTION, WAKE, moment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.workflow.engine import Engine
    from pillion.workflow.facts import Child
    from pillion.workflow.history import Event
    from pillion.workflow.instance import Instance
    from pillion.workflow.outbox import Send
    from pillion.workflow.runner import Runner

log = logging.getLogger("pillion.workflow")

ALREADY_EXISTS = "WorkflowInstanceAlreadyExists"
ID_INVALID = "WorkflowInstanceIdInvalid"
"""Our own: the reference asks for such a child for ever."""
FINISH_WAIT_S = 5.0
"""So long a request that needs a finished instance waits for its last duties."""
OVER, YES = "pillion.IsOver", b"1"
"""Our own method: whether an instance, and all that it started, is finished or gone."""
LOOK_S = 5.0
"""For finding out how a child in another application stands."""


def _start(
    engine: Engine, runner: Runner, key: str, kind: str, name: str, attempt: Callable[[], Awaitable[None]]
) -> None:
    """Begin a delivery of this runner, unless it is under way."""
    if key in runner.deliveries or runner.closed:
        return

    def done() -> None:
        runner.deliveries.pop(key, None)
        if not runner.closed:
            engine.rest(runner)

    runner.deliveries[key] = engine.deliveries.start(kind, name, attempt, done)


async def create(engine: Engine, app_id: str, instance_id: str, event: Event, propagated: bytes | None = None) -> None:
    """Create an instance, wherever it will live. Raises its fault."""
    request = backend.CreateWorkflowInstanceRequest(startEvent=event)
    if propagated is not None:
        request.propagatedHistory.MergeFromString(propagated)
    call = ActorCall(
        engine.surroundings.names.workflow(app_id), instance_id, "CreateWorkflowInstance",
        body=request.SerializeToString(), headers=engine.calls.caller(), content_type=b"application/x-protobuf",
        verb="",
    )  # fmt: skip
    try:
        await engine.surroundings.actors.invoke(call)
    except RemoteFailure as error:
        raise from_remote(error) from error


def create_child(engine: Engine, runner: Runner, created: Event) -> None:
    """Have a child workflow created; what forbids it for good is its failure."""
    body = created.childWorkflowInstanceCreated
    _start(
        engine, runner, f"child-{created.eventId}", "child", body.instanceId,
        partial(_create_child, engine, runner, created),
    )  # fmt: skip


async def _create_child(engine: Engine, runner: Runner, created: Event) -> None:
    names = engine.surroundings.names
    body = created.childWorkflowInstanceCreated
    now_ns = engine.surroundings.now_ns()
    event = child_start(runner.instance, created, names.app_id, names.namespace, now_ns)
    own = runner.instance.facts.started
    parent, state = ("", "") if own is None else traces.parent_below(own.executionStarted)
    if parent and not body.HasField("parentTraceContext"):
        start = event.executionStarted
        start.parentTraceContext.traceParent = parent
        start.workflowSpanID.value = f"{engine.surroundings.random.getrandbits(64) or 1:016x}"
        if state:
            start.parentTraceContext.traceState.value = state
    target = created.router.targetAppID if created.HasField("router") else ""
    propagated = propagate(runner.instance, body.historyPropagationScope, names.app_id)
    try:
        await create(engine, target, body.instanceId, event, propagated)
    except InstanceActive as error:
        failed = history.child_failed(now_ns, created.eventId, ALREADY_EXISTS, str(error))
        runner.deliver(Mail.of(failed))
    except IdInvalid as error:
        failed = history.child_failed(now_ns, created.eventId, ID_INVALID, str(error))
        runner.deliver(Mail.of(failed))
    except AccessDenied:
        failed = history.child_failed(now_ns, created.eventId, ACCESS_DENIED, DENIED_TEXT)
        runner.deliver(Mail.of(failed))


def send(engine: Engine, runner: Runner, one: Send) -> None:
    """Have one entry of the outbox delivered."""
    _start(engine, runner, one.key, "delivery", one.key, partial(_send, engine, runner, one))


async def _send(engine: Engine, runner: Runner, one: Send) -> None:
    names = engine.surroundings.names
    app_id = outbox.target(one)
    instance_id, event = outbox.event_of(one, runner.instance_id, names.app_id)
    try:
        if event.HasField("executionStarted"):
            await create(engine, app_id, instance_id, event)
        else:
            await engine.calls.tell(names.workflow(app_id), instance_id, event)
    except (InstanceMissing, InstanceActive, IdInvalid, AccessDenied) as error:
        log.warning("workflow '%s': what it sent to '%s' is dropped: %s", runner.instance_id, instance_id, error)
    await runner.sent(one)


async def finish(engine: Engine, runner: Runner, last_tasks: set[int] | None) -> bool:
    """The last duties of a finished instance; then its job goes, and with it the last that would wake it.

    `last_tasks` are the activities that its last turn scheduled, None: look at the history. True when all is done,
    False when the instance went elsewhere before.
    """
    instance = runner.instance
    surroundings = engine.surroundings
    facts = instance.facts
    if facts.completed is None or facts.started is None:
        return False
    if (parent := parent_of(facts.started)) is not None:
        actor_type = surroundings.names.workflow(parent.appID)
        parent_id = parent.workflowInstance.instanceId
        execution = history.absent_or(parent.workflowInstance, "executionId")
        _start(engine, runner, "parent", "delivery", f"parent {parent_id}", partial(
            _tell, engine, actor_type, parent_id, told_to_parent(instance, surroundings.now_ns()), execution=execution
        ))  # fmt: skip
    told = facts.terminated
    if instance.status is Status.TERMINATED and told is not None and told.executionTerminated.recurse:
        output = history.absent_or(told.executionTerminated, "input")
        for event in list(facts.children.values()):
            child_id = event.childWorkflowInstanceCreated.instanceId
            word = history.terminated(surroundings.now_ns(), output, recursive=True)
            _start(engine, runner, f"terminate-{event.eventId}", "delivery", f"terminate {child_id}", partial(
                _terminate_child, engine, runner, event, word
            ))  # fmt: skip
    for one in list(runner.sends):
        send(engine, runner, one)
    if last_tasks is None and instance.status is not Status.TERMINATED:
        for event in list(facts.children.values()):  # it may have ended without waiting for them
            create_child(engine, runner, event)
        last_tasks = _last_tasks(runner)
        if last_tasks and not await take_up(runner):
            return False
        for event in [facts.tasks[task_id] for task_id in last_tasks]:
            await engine.activities.dispatch(runner, event)
    while runner.deliveries and not runner.closed:
        await asyncio.wait([one.task for one in runner.deliveries.values() if one.task is not None])
        await asyncio.sleep(0)
    while not runner.closed and any(task_id in runner.activities for task_id in last_tasks or ()):
        await engine.activities.settled(runner)
    done = not runner.closed
    if done:
        await _retain(engine, instance)
        # Not in this task, which ends when the instance leaves: what was asked for may be done after that.
        await asyncio.shield(engine.tasks.start(end_wake(engine, runner), "wake"))
    runner.finishing = None
    if not runner.closed:
        engine.release(runner)
    return done


async def end_wake(engine: Engine, runner: Runner) -> None:
    """Delete the job of a finished instance.

    When the instance has left meanwhile, its new owner may have let the id be used again, and the job that went may
    have been the one of that: then it is put again.
    """
    instance_id = runner.instance_id
    key = engine.key(engine.workflow_type, instance_id, WAKE)
    await _until_done(
        lambda: engine.clearing.delete(key, at_once=instance_id in engine.creating), lambda: not runner.closed
    )
    if runner.closed:
        await _until_done(lambda: restore_jobs(engine, instance_id))


async def restore_jobs(engine: Engine, instance_id: str) -> None:
    """Put the jobs of an instance again that there may be under an id whose jobs were deleted."""
    instance = await engine.rows.load(instance_id)
    if instance is None or not instance.exists:
        return
    if instance.status.terminal:
        await _retain(engine, instance)
    else:
        due = engine.surroundings.clock.now() + engine.surroundings.bounds.first_wake_s
        await engine.put_wake(instance_id, due, 0)


async def see_through(engine: Engine, runner: Runner) -> None:
    """Wait until the last duties of a finished instance are done. A host that has just become its owner learns from the
    job whether they were, and does them if not. Raises `NotReady` when that takes long.
    """
    if runner.finishing is None:
        key = engine.key(engine.workflow_type, runner.instance_id, WAKE)
        if await engine.surroundings.scheduler.get(key) is None:
            return
    engine.finish(runner)
    engine.clearing.hurry()
    task = runner.finishing
    if task is not None:
        await asyncio.wait([task], timeout=FINISH_WAIT_S)
    if task is None or not task.done() or task.cancelled() or not task.result():
        raise NotReady(f"the finished workflow '{runner.instance_id}' still has something to tell")


def _last_tasks(runner: Runner) -> set[int]:
    """Open activities that the last turn scheduled: they were to run although the workflow did not wait for them."""
    facts = runner.instance.facts
    found: set[int] = set()
    for number, raw in enumerate(runner.instance.rows()):
        if number >= facts.last_turn:
            event = history.Event.FromString(raw)
            if event.HasField("taskScheduled") and event.eventId in facts.tasks:
                found.add(event.eventId)
    return found


async def _terminate_child(engine: Engine, runner: Runner, created: Event, word: Event) -> None:
    """Terminate a child. One that is not there yet is created first: its creation may still be under way, from here or
    from a host that had the instance before, and would begin it after the word had found nobody.
    """
    target = created.router.targetAppID if created.HasField("router") else ""
    actor_type = engine.surroundings.names.workflow(target)
    child_id = created.childWorkflowInstanceCreated.instanceId
    try:
        await engine.calls.tell(actor_type, child_id, word, parent=runner.instance_id)
    except InstanceMissing:
        await _create_child(engine, runner, created)
        await _tell(engine, actor_type, child_id, word, parent=runner.instance_id)
    except AccessDenied as error:
        log.warning("workflow '%s' takes no word from here: %s", child_id, error)


async def _tell(
    engine: Engine, actor_type: str, instance_id: str, event: Event, *, parent: str = "", execution: str | None = None
) -> None:
    """Tell another instance; one that is gone, or takes no word from us, need not be told."""
    try:
        await engine.calls.tell(actor_type, instance_id, event, parent=parent, execution=execution)
    except InstanceMissing:
        pass
    except AccessDenied as error:
        log.warning("workflow '%s' takes no word from here: %s", instance_id, error)


async def _retain(engine: Engine, instance: Instance) -> None:
    """Register when the finished instance is to be deleted (3.9)."""
    completed = instance.facts.completed
    retention = engine.surroundings.config.retention
    after_s = {
        Status.COMPLETED: retention.completed_s,
        Status.FAILED: retention.failed_s,
        Status.TERMINATED: retention.terminated_s,
        Status.CANCELED: retention.terminated_s,
    }.get(instance.status)
    if after_s is None or completed is None:
        return
    due = history.nanoseconds(completed.timestamp) / 1e9 + after_s
    held = wellknown.Any()
    held.Pack(completed.timestamp)  # which end it is for: the id may have been used again when it fires
    job = Job(due_time=moment(due), payload=held.SerializeToString(), failure_policy=Constant(1.0, None))
    key = engine.key(engine.surroundings.names.retentioner(), instance.instance_id, RETENTION)
    await _until_done(lambda: engine.surroundings.scheduler.schedule(key, job, overwrite=True))


async def _until_done(call: Callable[[], Awaitable[None]], wanted: Callable[[], bool] = lambda: True) -> None:
    pause_s = 0.2
    while wanted():
        try:
            await call()
        except ComponentError as error:
            log.warning("workflow: the scheduler fails, trying again: %s", error)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, 30.0)
        else:
            return


async def is_over(engine: Engine, child: Child, parent_id: str) -> bool:
    """Whether a child of an instance here, and all that it started, are finished or gone; so is one whose name an
    instance has that is not its child. Raises `DescendantsUnknown`.
    """
    names = engine.surroundings.names
    if child.app_id not in ("", names.app_id):
        return await _is_over_there(engine, child, parent_id)
    instance = await engine.rows.load(child.instance_id)
    if instance is None or not is_child_of(instance.start_event, names.app_id, parent_id):
        return True
    if instance.status not in TERMINAL:
        return False
    return not instance.facts.descendants or await _is_over_there(engine, child, parent_id)


async def all_over(engine: Engine, instance_id: str) -> bool:
    """Whether an instance that lives here, and all that it started, are finished or gone. Raises `NotReady`,
    `DescendantsUnknown`.
    """
    runner = await engine.find(instance_id)
    if runner is None:
        return True
    if not runner.instance.status.terminal:
        return False
    if runner.instance.facts.descendants:
        await see_through(engine, runner)  # what it started may not even have begun
    for child in runner.instance.facts.descendants:
        if not await is_over(engine, child, instance_id):
            return False
    return True


async def _is_over_there(engine: Engine, child: Child, parent_id: str) -> bool:
    """The same, asked of the child's owner. A reference sidecar tells of the child alone."""
    actor_type = engine.surroundings.names.workflow(child.app_id)
    actors, headers = engine.surroundings.actors, engine.calls.as_parent(parent_id)
    try:
        async with asyncio.timeout(LOOK_S):
            try:
                reply = await actors.invoke(ActorCall(actor_type, child.instance_id, OVER, headers=headers, verb=""))
            except RemoteFailure as error:
                if isinstance(from_remote(error), InstanceMissing):
                    return True
                if not str(error).endswith(f"no such method: {OVER}"):
                    raise
            else:
                return reply.body == YES
            call = ActorCall(actor_type, child.instance_id, "WaitForRuntimeStatus", headers=headers, verb="")
            async for item in actors.stream(call):
                state = backend.WorkflowMetadata.FromString(wellknown.Any.FromString(item).value)
                return Status(state.runtimeStatus) in TERMINAL
    except (TimeoutError, ComponentError) as error:
        raise DescendantsUnknown(
            f"how the child '{child.instance_id}' stands could not be found out: {error}"
        ) from None
    return True
