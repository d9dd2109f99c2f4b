"""The job of an instance, `wake`: its watchdog, and the entry under which a new owner finds it (spec 3.2).

Knows: when an instance is to be looked at again. Never knows: what it does then.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.kinds.jobs import Constant, Job, JobExists
from pillion.wire.messages import wellknown
from pillion.workflow import duties
from pillion.workflow.surroundings import WAKE, moment

if TYPE_CHECKING:
    from pillion.workflow.engine import Engine
    from pillion.workflow.runner import Runner

log = logging.getLogger("pillion.workflow")


def job_of(due: float, count: int) -> Job:
    """The job, due at `due` seconds since 1970; `count` tells how often it has fired for nothing."""
    held = wellknown.Any()
    held.Pack(wellknown.Int32Value(value=count))
    return Job(due_time=moment(due), payload=held.SerializeToString(), failure_policy=Constant(1.0, None))


def _count_of(payload: bytes | None) -> int:
    if not payload:
        return 0
    held = wellknown.Any.FromString(payload)
    count = wellknown.Int32Value()
    return count.value if held.Unpack(count) else 0


async def ensure(engine: Engine, runner: Runner) -> None:
    """An instance that was left by a reference sidecar has no `wake` job yet."""
    runner.wake_due = engine.surroundings.clock.now() + engine.surroundings.bounds.first_wake_s
    key, job = engine.key(engine.workflow_type, runner.instance_id, WAKE), job_of(runner.wake_due, 0)
    pause_s = 0.2
    while not runner.closed:
        try:
            await engine.surroundings.scheduler.schedule(key, job, overwrite=False)
        except JobExists:
            return
        except ComponentError as error:
            log.warning("workflow '%s': its job cannot be registered: %s", runner.instance_id, error)
        except Exception:
            log.exception("workflow '%s': its job cannot be registered", runner.instance_id)
        else:
            return
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 2, 30.0)


async def move(engine: Engine, runner: Runner, due: float) -> None:
    try:
        await engine.put_wake(runner.instance_id, due, 0)
    except ComponentError as error:
        # The job that is there fires earlier or later; either way it is put again then.
        log.warning("workflow '%s': its job cannot be moved: %s", runner.instance_id, error)


async def woken(engine: Engine, instance_id: str, payload: bytes | None) -> None:
    """The `wake` job fired: do what is due, and put it again."""
    try:
        runner = await engine.find(instance_id)
    except ComponentError:
        runner = None
        if instance_id not in engine.runners:
            raise
    surroundings = engine.surroundings
    now = surroundings.clock.now()
    bounds = surroundings.bounds
    if runner is None:
        if instance_id in engine.creating:
            await engine.put_wake(instance_id, now + bounds.first_wake_s, 0)
        return
    if runner.instance.facts.completed is not None:
        engine.finish(runner)
        await engine.put_wake(instance_id, now + bounds.first_wake_s, 0)
        if runner.closed:  # the duties ended meanwhile, and with them the job that has just been put
            await surroundings.scheduler.delete(engine.key(engine.workflow_type, instance_id, WAKE))
            await duties.restore_jobs(engine, instance_id)
        return
    count = _count_of(payload)
    pause_s = min(bounds.first_wake_s * 2 ** min(count, 20), bounds.last_wake_s)
    due = now + pause_s
    for timer in runner.instance.facts.timers.values():
        at = timer.fire_ns / 1e9
        if not timer.endless:
            due = min(due, max(at, now))
    if (start_ns := runner.start_ns) is not None and runner.instance.facts.started is None:
        due = min(due, max(start_ns / 1e9, now))
    # What is due within a minute is in the heap; the job is behind it, not beside it.
    due = max(due, now + min(bounds.first_wake_s, pause_s)) if due - now <= bounds.near_timer_s else due
    runner.wake_due = due
    engine.alarms.arm(runner)
    await engine.put_wake(instance_id, due, count + 1)
    runner.kick()
    engine.rest(runner)
