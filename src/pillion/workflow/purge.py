"""Deleting instances: rows, jobs, and with them the subtree of children (spec `actors-workflows-jobs.md` 3.9).

Knows: what must be over before an instance may go, and in which order its parts go. Never knows: who asked.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.kinds.actors import ActorCall, RemoteFailure
from pillion.wire.messages import taskhub as m
from pillion.workflow.duties import FINISH_WAIT_S, restore_jobs
from pillion.workflow.faults import InstanceMissing, InstanceStalled, NotCompleted, NotReady, from_remote
from pillion.workflow.history import nanoseconds
from pillion.workflow.surroundings import RETENTION, WAKE

if TYPE_CHECKING:
    from pillion.workflow.engine import Engine
    from pillion.workflow.facts import Child
    from pillion.workflow.runner import Runner

PURGE, PURGE_TREE = "PurgeWorkflowState", "RecursivePurgeWorkflowState"
FORCE, ENDED = b"purgeforce", b"pillion-ended"
"""Headers of a call: delete whatever the state is; delete what ended at this moment."""


async def purge(engine: Engine, instance_id: str, *, force: bool = False, ended: int | None = None) -> None:
    """Delete one instance that lives here; `ended`: if it ended at this moment, and has not been begun anew since.

    Raises `InstanceMissing`, `NotCompleted`, `InstanceStalled`.
    """
    await _delete(engine, await _deletable(engine, instance_id, force=force), force=force, ended=ended)


def ended_of(call: ActorCall) -> int | None:
    """The end, in nanoseconds since 1970, of the execution that is to be deleted; None for whichever there is."""
    found = next((value for name, value in call.headers if name == ENDED), b"")
    return int(found) if found.isdigit() else None


async def purge_tree(engine: Engine, instance_id: str, *, force: bool = False) -> int:
    """Delete an instance that lives here after all that it started, wherever that lives; return how many went."""
    runner = await _deletable(engine, instance_id, force=force)
    count = 0
    for child in list(runner.instance.facts.descendants):
        try:
            count += await _purge_child(engine, instance_id, child, force=force)
        except InstanceMissing:
            continue
    runner = await _deletable(engine, instance_id, force=force)
    await _delete(engine, runner, force=force)
    return count + 1


async def _deletable(engine: Engine, instance_id: str, *, force: bool) -> Runner:
    runner = await engine.find(instance_id)
    if runner is None or not runner.instance.exists:
        raise InstanceMissing
    if force:
        return runner
    facts = runner.instance.facts
    if facts.stalled is not None:
        raise InstanceStalled
    if facts.completed is None:
        if facts.started is None:
            raise InstanceMissing  # one that has not begun is not there yet, to a purge (3.9)
        raise NotCompleted
    if runner.finishing is not None:
        _, late = await asyncio.wait([runner.finishing], timeout=FINISH_WAIT_S)
        if late:
            raise NotCompleted
        found = await engine.find(instance_id)
        if found is None:
            raise InstanceMissing
        return found
    return runner


async def _delete(engine: Engine, runner: Runner, *, force: bool, ended: int | None = None) -> None:
    """Delete the rows, and the jobs: a `wake` without an instance deletes itself when it fires."""
    instance_id, surroundings = runner.instance_id, engine.surroundings
    async with runner.lock:
        if runner.closed:
            raise NotReady(f"workflow '{instance_id}' has just been put away")
        completed = runner.instance.facts.completed  # it may have been begun anew since it was looked at
        if not force and completed is None:
            raise NotCompleted
        if ended is not None and (completed is None or nanoseconds(completed.timestamp) != ended):
            engine.rest(runner)
            raise NotCompleted
        try:
            await engine.rows.delete(runner.instance)
        except ComponentError as error:
            # The rows are another host's, or gone although nobody heard so: what is in memory is worth nothing.
            engine.failed(runner, error)
            raise
        engine.release(runner)
    engine.watchers.changed(instance_id)
    await surroundings.scheduler.delete(engine.key(engine.workflow_type, instance_id, WAKE))
    kept = surroundings.config.retention != type(surroundings.config.retention)()
    if ended is None and (force or kept):  # else it is the job of the retention that asks, and goes by itself
        await surroundings.scheduler.delete(engine.key(surroundings.names.retentioner(), instance_id, RETENTION))
    await restore_jobs(engine, instance_id)  # somebody may have used the id again at once


async def _purge_child(engine: Engine, parent_id: str, child: Child, *, force: bool) -> int:
    headers = [*engine.calls.as_parent(parent_id), *([(FORCE, b"true")] if force else [])]
    call = ActorCall(
        engine.surroundings.names.workflow(child.app_id), child.instance_id, PURGE_TREE, headers=headers,
        content_type=b"application/x-protobuf", verb="",
    )  # fmt: skip
    try:
        reply = await engine.surroundings.actors.invoke(call)
    except RemoteFailure as error:
        raise from_remote(error) from error
    return m.PurgeInstancesResponse.FromString(reply.body).deletedInstanceCount
