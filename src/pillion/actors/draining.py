"""How instances end: told that no turn begins any more, given time for the one that runs, cut, deactivated.

Invariants 7 and 37 of spec `actors-workflows-jobs.md` 5. Knows: the time that a turn gets, how many deactivations run
beside each other. Never knows: why instances end, or who called.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.kinds.actors import ActorClosed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from pillion.actors.instances import Instance, Kind
    from pillion.actors.meter import Meter
    from pillion.kinds.actors import ActorError, Hosted

log = logging.getLogger("pillion.actors")

BESIDE = 64
"""Deactivations of one type that run at the same time."""
CUT_S = 1.0
"""What a turn that was cut gets to clean up behind itself."""
DEACTIVATE_S = 5.0
"""What an application gets to answer that an actor is gone; afterwards it is gone anyway."""


async def end(kind: Kind, hosted: Hosted, instances: Sequence[Instance], meter: Meter, *, limit_s: float) -> None:
    """End `instances` of `kind` and return when they are gone. Turns that run get `limit_s` seconds, then they are cut;
    with 0 they are cut at once. Raises nothing.
    """
    mine = [instance for instance in instances if instance.begin_to_close()]
    await quieten(instances, limit_s, ActorClosed("actor is closed: it moves to another host"))
    await deactivate_all(kind, hosted, iter(mine), meter)
    await gone(instances, None)  # those that somebody else had begun to end


async def quieten(instances: Sequence[Instance], limit_s: float, error: ActorError) -> None:
    """Wait until no turn runs at `instances`, which are closing; cut what runs longer than `limit_s`."""
    if not any(instance.running for instance in instances):
        return
    if limit_s > 0 and await _quiet(instances, limit_s):
        return
    for instance in instances:
        for claim in instance.running.copy():
            claim.end(error)
    if not await _quiet(instances, CUT_S):
        log.warning("%d actors are taken away from turns that do not end", sum(bool(one.running) for one in instances))


async def _quiet(instances: Sequence[Instance], limit_s: float) -> bool:
    try:
        async with asyncio.timeout(limit_s):
            for instance in instances:
                if instance.running and instance.closing is not None:
                    await instance.closing.quiet.wait()
    except TimeoutError:
        return False
    return True


async def deactivate_all(kind: Kind, hosted: Hosted, instances: Iterator[Instance], meter: Meter) -> None:
    """Deactivate instances at which no turn runs, some of them at the same time. `instances` may make up its mind as
    it goes. An application that has ended fails for each of them alike: the first failure is a warning, the others are
    counted.
    """
    failed = 0

    async def one(instance: Instance) -> None:
        nonlocal failed
        failed += not await deactivate(kind, hosted, instance, meter, logging.DEBUG if failed else logging.WARNING)

    async def some(more: int) -> None:
        """Take one instance after the other; whoever finds one lets another look, so that few cost few tasks."""
        for instance in instances:
            if more:
                group.create_task(some(more - 1))
                more = 0
            await one(instance)

    first = next(instances, None)
    if first is None:
        return
    await one(first)
    async with asyncio.TaskGroup() as group:
        group.create_task(some(BESIDE - 1))
    if failed > 1:
        log.warning("%d actors of type %s could not be told that they end", failed, kind.actor_type)


async def deactivate(
    kind: Kind, hosted: Hosted, instance: Instance, meter: Meter, level: int = logging.WARNING
) -> bool:
    """Tell the handler that the instance is gone, and forget it whatever the handler says, which is logged at `level`.

    Return whether it agreed. Raises nothing.
    """
    actor_type, actor_id = kind.actor_type, instance.actor_id
    success = False
    try:
        async with asyncio.timeout(DEACTIVATE_S):
            await hosted.handler.deactivate(actor_type, actor_id)
        success = True
    except TimeoutError:
        log.log(level, "actor %s||%s: no answer to its deactivation", actor_type, actor_id)
    except ComponentError as error:
        log.log(level, "actor %s||%s: deactivation failed: %s", actor_type, actor_id, error)
    except Exception:
        log.exception("actor %s||%s: deactivation failed", actor_type, actor_id)
    finally:
        kind.forget(instance)
        meter.rebalanced(actor_type)
        meter.deactivated(actor_type, success=success)
    return success


async def leave(
    leaving: Callable[[Callable[[str], bool]], Awaitable[None]], stays: Callable[[str], bool], most_s: float | None
) -> None:
    """Let a handler part with what it keeps of actors that do not stay. Raises nothing: the others end all the same."""
    try:
        async with asyncio.timeout(most_s):
            await leaving(stays)
    except TimeoutError:
        log.warning("actors that their handler keeps had not left after %g s", most_s)
    except Exception:
        log.exception("actors that their handler keeps have not left in order")


async def gone(instances: Sequence[Instance], most_s: float | None) -> None:
    """Wait for the end of instances that somebody else has begun to end."""
    if most_s is not None:
        await quieten(instances, most_s, ActorClosed("actor is closed"))
    for instance in instances:
        if instance.closing is not None:
            await instance.closing.gone.wait()
