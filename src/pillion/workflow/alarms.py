"""Timers of instances, set when their history says so and fired into them when they are due.

Knows: what a timer means to its instance. Never knows: the heap (`timers.py`), what a fired timer leads to.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pillion.workflow import history, wake
from pillion.workflow.instance import Mail
from pillion.workflow.timers import START

if TYPE_CHECKING:
    from pillion.workflow.engine import Engine
    from pillion.workflow.history import Event
    from pillion.workflow.runner import Runner
    from pillion.workflow.timers import Alarm

log = logging.getLogger("pillion.workflow")


class Alarms:
    """One for each engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def arm(self, runner: Runner) -> None:
        """Set the timers of an instance that are near; those that are far are for its `wake` job."""
        instance = runner.instance
        for timer_id, timer in instance.facts.timers.items():
            if not timer.endless:
                self._engine.timers.arm(instance.instance_id, instance.generation, timer_id, timer.fire_ns)

    def set(self, runner: Runner, event: Event) -> None:
        """Set a timer that has just been created; a far one may have to wake the instance earlier than is planned."""
        instance = runner.instance
        timer = instance.facts.timers.get(event.eventId)
        if timer is None or timer.endless:
            return
        if not self._engine.timers.arm(instance.instance_id, instance.generation, event.eventId, timer.fire_ns):
            due = timer.fire_ns / 1e9
            if runner.wake_due > due:
                runner.wake_due = due
                self._engine.tasks.start(wake.move(self._engine, runner, due), "wake")

    def ring(self, alarm: Alarm) -> None:
        """A timer is due; its instance is read if need be, where it is still ours."""
        runner = self._engine.runners.get(alarm.instance_id)
        if runner is None:
            self._engine.tasks.start(self._ring_unread(alarm), "timer")
            return
        try:
            self.fire(runner, alarm.generation, alarm.timer_id, alarm.fire_ns)
        except Exception as error:
            log.exception("workflow '%s': its timer could not be fired", alarm.instance_id)
            self._engine.failed(runner, error)

    async def _ring_unread(self, alarm: Alarm) -> None:
        runner = None
        with self._engine.later.reading(alarm.instance_id, "is found unreadable by its timer"):
            owner = await self._engine.surroundings.actors.owner(self._engine.workflow_type, alarm.instance_id)
            runner = await self._engine.find(alarm.instance_id) if owner.local else None
        if runner is not None:
            self.fire(runner, alarm.generation, alarm.timer_id, alarm.fire_ns)

    def fire(self, runner: Runner, generation: int, timer_id: int, fire_ns: int) -> None:
        """A timer that was to fire at `fire_ns` is due; one of an older generation, or no longer open, does nothing."""
        if generation != runner.instance.generation:
            return
        if timer_id == START:
            runner.kick()
            return
        timer = runner.instance.facts.timers.get(timer_id)
        if timer is None or timer.fire_ns != fire_ns or runner.instance.facts.completed is not None:
            self._engine.rest(runner)
            return
        if any(one.event.timerFired.timerId == timer_id for one in (*runner.mail, *runner.in_turn)
               if one.event.HasField("timerFired")):  # fmt: skip
            return
        runner.deliver(Mail.of(history.timer_fired(self._engine.surroundings.now_ns(), timer_id, timer.fire_ns)))

    def __repr__(self) -> str:
        return f"<Alarms of {self._engine!r}>"
