"""Who has an instance in hand, as its rows tell: what a new owner concludes from them, what one writes that leaves.

The process that wrote last (`Instance.writer`) is the one that gave out what is open, unless it wrote that it parted
with the instance in order. So a crash is told from a move without a row of its own: the next owner finds another
writer, who has not parted, and counts a loss for what may have caused it (`losses.py`). An owner that finds work open
writes before it gives out any of it, for the next one to find. Where nothing is open neither costs a write.

Knows: who wrote last, what is open. Never knows: how work is given out.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.kinds.actors import LostPlace
from pillion.workflow.losses import TURN
from pillion.workflow.rows import Step

if TYPE_CHECKING:
    from pillion.workflow.runner import Runner

log = logging.getLogger("pillion.workflow")


def open_work(runner: Runner) -> list[int]:
    """What a worker may be at, by its number in `Losses`: activities without a result, and the turn for what came."""
    instance, losses = runner.instance, runner.losses
    found = [task_id for task_id in instance.facts.tasks if not losses.aside(task_id)]
    start_ns = None if instance.facts.started is not None else runner.start_ns
    waits = start_ns is not None and start_ns > runner.engine.surroundings.now_ns()
    if instance.inbox and instance.facts.completed is None and not waits and not losses.aside(TURN):
        found.append(TURN)
    return found


async def take_up(runner: Runner) -> bool:
    """Begin to own an instance that was read: nothing of it has been given out. False: it has gone meanwhile."""
    losses, mine = runner.losses, runner.instance.writer == runner.engine.rows.mark
    if mine and not losses.at_rest:
        return True
    open_ = open_work(runner)
    if not open_:
        return True
    if runner.instance.writer and not mine and not losses.at_rest:
        losses.recovered(open_)
        for task_id in open_:
            if losses.aside(task_id):
                what = "its turn" if task_id == TURN else f"activity {task_id}"
                log.warning("workflow '%s': %s is put aside: %s", runner.instance_id, what, losses.of(task_id).why)
    losses.at_rest = False
    return await runner.record(always=True)


async def lay_down(runner: Runner) -> None:
    """Part with an instance in order, as far as the store and the time for draining let us: else the next owner takes
    it for a crash.
    """
    if runner.closed or not open_work(runner):
        return
    engine = runner.engine
    runner.losses.rest()
    try:
        async with asyncio.timeout(engine.surroundings.bounds.drain_s), runner.lock:
            if not runner.closed:
                step = Step(runner.instance.inbox, runner.instance.generation, losses=runner.losses.pack())
                await engine.rows.save(runner.instance, step)
    except (TimeoutError, LostPlace, ComponentError) as error:
        log.debug("workflow '%s' is left without a word: %r", runner.instance_id, error)
