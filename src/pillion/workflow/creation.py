"""How an instance comes to be: by a start, over a finished one of the same id, or with the history of another one.

Its `wake` job is registered first, so that an instance that is there is never forgotten. Knows: what stands in the way
of a start. Never knows: turns.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.kinds.jobs import JobInvalid
from pillion.workflow import duties, history
from pillion.workflow.family import parent_of
from pillion.workflow.faults import DescendantsActive, IdInvalid, InstanceActive, NotReady
from pillion.workflow.instance import Instance, Mail, has_heard, start_mark
from pillion.workflow.rows import Step
from pillion.workflow.runner import Runner

if TYPE_CHECKING:
    from pillion.wire.messages import backend
    from pillion.workflow.engine import Engine
    from pillion.workflow.history import Event


@dataclass(slots=True)
class Starts:
    """The requests for one id that are under way; `seen` are the generations whose last duties are known to be done."""

    count: int = 0
    seen: set[int] = field(default_factory=set)


async def create(engine: Engine, instance_id: str, request: backend.CreateWorkflowInstanceRequest) -> None:
    """Create an instance, or begin a finished one anew. Raises `InstanceActive`, `DescendantsActive`, ..."""
    if not request.startEvent.HasField("executionStarted"):
        raise ComponentError("invalid execution start event")
    starts = engine.creating.setdefault(instance_id, Starts())
    starts.count += 1
    try:
        while not await _try(engine, instance_id, request, starts.seen):
            pass
    finally:
        starts.count -= 1
        if not starts.count:
            del engine.creating[instance_id]
        if (runner := engine.runners.get(instance_id)) is not None:
            engine.rest(runner)


async def _try(
    engine: Engine, instance_id: str, request: backend.CreateWorkflowInstanceRequest, seen: set[int]
) -> bool:
    """False: what was known of the instance changed meanwhile; look again. `seen`: as of `Starts`."""
    event = request.startEvent
    runner = await engine.find(instance_id)
    # Taken before anything is waited for: what is looked at below may be begun anew by another request meanwhile.
    known = None if runner is None else (runner.instance.exists, runner.instance.generation)
    if runner is not None and runner.instance.exists:
        if _is_there(runner.instance, event):
            if runner.instance.facts.completed is not None:
                engine.finish(runner, set())  # its word is wanted again; what it started has begun long since
            return True
        if not await _may_begin_anew(engine, runner, seen):
            return False
    start = event.executionStarted
    due = engine.surroundings.clock.now() + engine.surroundings.bounds.first_wake_s
    if start.HasField("scheduledStartTimestamp"):
        due = max(due, history.nanoseconds(start.scheduledStartTimestamp) / 1e9)
    await _first_wake(engine, instance_id, due)
    if runner is None:
        if instance_id in engine.runners or instance_id in engine.reading:
            return False
        runner = engine.runners[instance_id] = Runner(engine, Instance(instance_id))
    elif runner.closed:
        return False
    runner.wake_due = due
    async with runner.lock:
        instance = runner.instance
        if runner.closed or (instance.exists, instance.generation) != (known or (False, instance.generation)):
            return False  # another request for the same instance was faster
        if runner.finishing is not None and not runner.finishing.done():
            return False  # somebody has just begun to see to its last duties, which would be done to the new one
        reset = instance.facts.length > 0
        mail = Mail.of(event)
        propagated = request.propagatedHistory.SerializeToString() if request.HasField("propagatedHistory") else None
        step = Step(
            [mail], instance.generation + 1 if reset else instance.generation, reset=reset, writes_status=reset,
            writes_outbox=reset, propagated=propagated, drops_propagated=reset and propagated is None,
            heard=b"",
        )  # fmt: skip
        runner.renewing = reset
        try:
            await runner.begin(step)
        except BaseException as error:
            engine.discard(runner, NotReady(str(error)))
            raise
        finally:
            runner.renewing = False
    runner.mail = [mail]
    engine.watchers.changed(instance_id)
    if engine.admission.full:
        runner.mail = []
        engine.admission.wait(instance_id)
        engine.release(runner)
    else:
        runner.kick()
    return True


async def _first_wake(engine: Engine, instance_id: str, due: float) -> None:
    """Raises `IdInvalid` for an id that no job can be named after."""
    try:
        await engine.put_wake(instance_id, due, 0)
    except JobInvalid as error:
        raise IdInvalid(f"no workflow can have the ID '{instance_id}': {error}") from error


def _is_there(instance: Instance, event: Event) -> bool:
    """Whether this very start is what made the instance: the answer to an earlier request was lost."""
    own = instance.start_event
    if own is None:
        return False
    old, new = own.executionStarted, event.executionStarted
    old_id = history.absent_or(old.workflowInstance, "executionId")
    new_id = history.absent_or(new.workflowInstance, "executionId")
    parent, asks = parent_of(own), parent_of(event)
    if parent is None or asks is None:
        if parent is not asks or new_id is None:
            return False
        return old_id == new_id or has_heard(instance.heard, start_mark(new_id))  # it may have continued as new since
    same = (
        parent.workflowInstance.instanceId == asks.workflowInstance.instanceId
        and parent.taskScheduledId == asks.taskScheduledId
        and parent.appID == asks.appID
    )
    # A parent that continued as new may ask for the same child again, and means another one.
    return same and parent.workflowInstance.executionId.value == asks.workflowInstance.executionId.value


async def _may_begin_anew(engine: Engine, runner: Runner, seen: set[int]) -> bool:
    """Whether a finished instance may be replaced; False: its last duties have just ended, read it again.

    What it started may not even have begun while its duties are not done.
    """
    instance_id, generation = runner.instance_id, runner.instance.generation
    if runner.instance.facts.completed is None:
        raise InstanceActive(f"an active workflow with ID '{instance_id}' already exists")
    if runner.finishing is not None or (runner.instance.facts.descendants and generation not in seen):
        await duties.see_through(engine, runner)
        seen.add(generation)
        return False
    for child in runner.instance.facts.descendants:
        if not await duties.is_over(engine, child, instance_id):
            raise DescendantsActive(
                f"a workflow with ID '{instance_id}' has finished, but its child '{child.instance_id}' has not"
            )
    return True


async def adopt(engine: Engine, instance_id: str, step: Step) -> bool:
    """Create an instance with a history (3.9); False when there is one already."""
    runner = await engine.find(instance_id)
    if runner is not None:
        return False
    due = engine.surroundings.clock.now() + engine.surroundings.bounds.first_wake_s
    await _first_wake(engine, instance_id, due)
    if await engine.find(instance_id) is not None:
        return False
    runner = engine.runners[instance_id] = Runner(engine, Instance(instance_id))
    runner.wake_due = due
    async with runner.lock:
        try:
            await runner.begin(step)
        except BaseException as error:
            engine.discard(runner, NotReady(str(error)))
            raise
    engine.watchers.changed(instance_id)
    await asyncio.shield(engine.tasks.start(engine.resume(runner), "resume"))
    return True
