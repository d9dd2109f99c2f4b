"""Activities that run on another host: one call that is held open until there is a result, and made again when not.

Knows: where to ask, what an answer or its absence means. Never knows: what becomes of a result.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.kinds.actors import ActorCall, OutcomeUnknown, RemoteFailure
from pillion.wire.messages import backend
from pillion.workflow import history
from pillion.workflow.family import propagate
from pillion.workflow.faults import AccessDenied, from_remote
from pillion.workflow.history import Event
from pillion.workflow.invocations import AGAIN, AWAIT, EXECUTE, LOSSES, activity_id, lost_in
from pillion.workflow.policy import ACCESS_DENIED, DENIED_TEXT

if TYPE_CHECKING:
    from pillion.workflow.activities import Run
    from pillion.workflow.engine import Engine
    from pillion.workflow.runner import Runner

log = logging.getLogger("pillion.workflow")

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0


def _call(engine: Engine, runner: Runner, run: Run) -> ActorCall:
    """`Execute`. Its headers say that we wait for the result, and count what is lost."""
    surroundings = engine.surroundings
    event, instance = run.event, runner.instance
    scope = event.taskScheduled.historyPropagationScope
    asked = backend.ActivityInvocation(historyEvent=event)
    if scope and (carried := propagate(instance, scope, surroundings.names.app_id)) is not None:
        asked.propagatedHistory.MergeFromString(carried)
    headers = [AWAIT, *engine.calls.caller(), (LOSSES, b"%d" % runner.losses.of(event.eventId).count)]
    return ActorCall(
        surroundings.names.activity(run.target), activity_id(instance.instance_id, event.eventId, run.generation),
        EXECUTE, body=asked.SerializeToString(), headers=headers, content_type=b"application/x-protobuf", verb="",
        once=True,
    )  # fmt: skip


async def run_elsewhere(engine: Engine, runner: Runner, run: Run) -> None:
    """Have it run by the host that the ring names, until there is a result."""
    surroundings = engine.surroundings
    event = run.event
    call = _call(engine, runner, run)
    headers = call.headers
    name, execution_id = event.taskScheduled.name, event.taskScheduled.taskExecutionId
    pause_s = FIRST_PAUSE_S
    while not runner.closed:
        try:
            if run.is_ours(engine):
                owner = await surroundings.actors.owner(call.actor_type, call.actor_id)
                if owner.local:
                    run.task = None
                    engine.activities.local(runner, run)
                    return
            call.headers = [*headers, AGAIN] if run.unsure else headers
            reply = await surroundings.actors.invoke(call)
        except OutcomeUnknown as error:
            run.unsure, run.error = True, str(error)
        except RemoteFailure as error:
            if isinstance(from_remote(error), AccessDenied):
                now_ns = surroundings.now_ns()
                denied = history.task_failed(now_ns, event.eventId, execution_id, ACCESS_DENIED, DENIED_TEXT)
                engine.activities.settle(runner, run, denied)
                return
            run.error = str(error)
        except ComponentError as error:
            run.error = str(error)
        except Exception as error:
            log.exception("activity %s: its dispatch failed and is tried again", call.actor_id)
            run.error = repr(error)
        else:
            if (what := lost_in(reply)) is not None:
                engine.activities.lost(runner, run, what)
            elif reply.body:
                engine.activities.settle(runner, run, Event.FromString(reply.body))
            else:
                run.handed = True
            return
        run.attempts += 1
        surroundings.meter.activity_operation(name, "recoverable", 0.0)
        run.hurry.clear()
        try:
            async with asyncio.timeout(pause_s):
                await run.hurry.wait()
        except TimeoutError:
            pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
