"""Reminders of actors: jobs of the scheduler, named by the actor (spec `actors-workflows-jobs.md` 1.11).

Knows: how a reminder is written as a job, what becomes of one that fires. Never knows: when jobs are due, where the
actor lives.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Protocol

from pillion.errors import ComponentError
from pillion.kinds.actors import Moved, NoHost, NoPlacement, NotHosted, RuntimeClosed, Tick
from pillion.kinds.jobs import Job, JobInvalid, JobKey, Outcome
from pillion.peers.actors import any_of_json, json_of_any
from pillion.wire.durations import render_duration
from pillion.wire.iso8601 import parse_period

if TYPE_CHECKING:
    from pillion.actors.meter import Meter
    from pillion.kinds.jobs import FailurePolicy, Scheduler, Trigger

log = logging.getLogger("pillion.actors")

_NOBODY = (NoHost, Moved, NoPlacement, RuntimeClosed)
"""Nobody hosts the actor at present: the tick stays due and costs no attempt."""


class Ticking(Protocol):
    """What reminders need of the host of actors."""

    def hosts(self, actor_type: str) -> bool: ...

    async def tick(self, tick: Tick) -> bool: ...


class SchedulerReminders:
    """Satisfies `kinds.actors.Reminders`. `deliver` takes what the scheduler fires, `cancelled` is for
    `ActorHost.cancelled`.
    """

    def __init__(self, host: Ticking, scheduler: Scheduler, app_id: str, namespace: str, meter: Meter) -> None:
        self._host = host
        self._scheduler = scheduler
        self._app_id = app_id
        self._namespace = namespace
        self._meter = meter

    async def create(
        self, actor_type: str, actor_id: str, name: str, *, due_time: str = "", period: str = "", ttl: str = "",
        data: bytes | None = None, overwrite: bool = True, failure_policy: FailurePolicy | None = None,
    ) -> None:  # fmt: skip
        """Register a reminder. Raises `NotHosted`, `JobInvalid`, `JobExists`, `ComponentError`."""
        self._check(actor_type)
        schedule, repeats = schedule_of(period)
        payload = b"" if data is None else any_of_json(data).SerializeToString()
        job = Job(schedule, due_time, ttl, repeats, payload, failure_policy)
        await self._scheduler.schedule(self._key(actor_type, actor_id, name), job, overwrite=overwrite)

    async def get(self, actor_type: str, actor_id: str, name: str) -> Job | None:
        """Return the reminder as a job, None when there is none. Raises `NotHosted`, `ComponentError`."""
        self._check(actor_type)
        return await self._scheduler.get(self._key(actor_type, actor_id, name))

    async def delete(self, actor_type: str, actor_id: str, name: str) -> None:
        """Delete a reminder; one that is not there is no error. Raises `NotHosted`, `ComponentError`."""
        self._check(actor_type)
        await self._scheduler.delete(self._key(actor_type, actor_id, name))

    async def deliver(self, trigger: Trigger) -> Outcome:
        """Run a reminder that fires, wherever its actor lives. Raises nothing, as `Scheduler.watch` wants it."""
        key = trigger.key
        tick = Tick(
            key.actor_type, key.actor_id, key.name, json_of_any(trigger.payload), payload=trigger.payload
        )  # fmt: skip
        outcome = Outcome.FAILED
        try:
            await self._host.tick(tick)
            outcome = Outcome.SUCCESS
        except _NOBODY as error:
            log.debug("reminder %s: %s", key.text, error)
            return Outcome.UNDELIVERABLE
        except ComponentError as error:
            log.warning("reminder %s failed: %s", key.text, error)
        except Exception:
            log.exception("reminder %s failed", key.text)
        self._meter.reminder_fired(key.actor_type, success=outcome is Outcome.SUCCESS)
        return outcome

    async def cancelled(self, tick: Tick) -> None:
        """The actor wants no more of this reminder (the header `X-DaprReminderCancel`): delete it."""
        key = self._key(tick.actor_type, tick.actor_id, tick.name)
        try:
            await self._scheduler.delete(key)
        except ComponentError as error:
            log.warning("reminder %s was cancelled by its actor, but cannot be deleted: %s", key.text, error)

    def _check(self, actor_type: str) -> None:
        if not self._host.hosts(actor_type):
            raise NotHosted(f"actor type {actor_type} is not hosted by this sidecar")

    def _key(self, actor_type: str, actor_id: str, name: str) -> JobKey:
        return JobKey(self._namespace, name, self._app_id, actor_type, actor_id)

    def __repr__(self) -> str:
        return f"<SchedulerReminders of {self._app_id}.{self._namespace}>"


def schedule_of(period: str) -> tuple[str, int | None]:
    """Return schedule and repeats of a job for a reminder's period, "" and None for one without.

    `R<n>` alone is n ticks without time between; n of 0 and less is no bound. Raises `JobInvalid` for cron, `@every`,
    and parts of a calendar (1.11).
    """
    if not period:
        return "", None
    try:
        found = parse_period(period)
    except ValueError as error:
        raise JobInvalid(f"unsupported period format: {period[:128]}") from error
    if found.calendar or found.seconds < 0:
        raise JobInvalid(f"unsupported period format: {period[:128]}")
    repeats = found.repeats if found.repeats is not None and found.repeats > 0 else None
    return f"@every {render_duration(found.seconds)}", repeats
