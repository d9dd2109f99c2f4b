"""The engine of one application on one host: which instances are in memory, what comes for them, what follows a commit.

An instance is read when something comes for it and driven by its `Runner`; what it waits for (timers, activities,
children) is derived from its committed history each time it is read. Idle ones are let go again. One durable job for
each instance, `wake`, is registered before the instance is created and deleted when nothing is left to be done: it is
the watchdog, and the index from which a new owner learns what there is to resume (spec `actors-workflows-jobs.md` 3).

Knows: instances and their ports. Never knows: HTTP, gRPC, how a worker is reached.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.kinds.actors import LostPlace, Moved
from pillion.tasks import Tasks
from pillion.workflow import duties, wake
from pillion.workflow.activities import Activities
from pillion.workflow.admission import Admission
from pillion.workflow.alarms import Alarms
from pillion.workflow.calls import Calls
from pillion.workflow.clearing import Clearing
from pillion.workflow.counted import count
from pillion.workflow.custody import lay_down, take_up
from pillion.workflow.deliveries import Deliveries
from pillion.workflow.errands import Errands
from pillion.workflow.faults import InstanceMissing, NotReady
from pillion.workflow.idle import Idle
from pillion.workflow.later import Later
from pillion.workflow.outbox import unpack
from pillion.workflow.question import Setting
from pillion.workflow.rows import Rows
from pillion.workflow.runner import Runner
from pillion.workflow.slow import SlowTurns
from pillion.workflow.snapshot import Status, Wait
from pillion.workflow.surroundings import WAKE
from pillion.workflow.timers import Timers
from pillion.workflow.watchers import Watchers
from pillion.workflow.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.kinds.jobs import JobKey
    from pillion.workflow.creation import Starts
    from pillion.workflow.history import Event
    from pillion.workflow.instance import Instance
    from pillion.workflow.question import Decision
    from pillion.workflow.snapshot import Snapshot
    from pillion.workflow.surroundings import Surroundings
    from pillion.workflow.workers import Limits

log = logging.getLogger("pillion.workflow")


class Engine:
    """Drives the instances that this host owns."""

    def __init__(
        self, surroundings: Surroundings, *, limits: Limits | None = None, changed: Callable[[], None] | None = None
    ) -> None:
        self.surroundings = surroundings
        names = surroundings.names
        self.workflow_type = names.workflow()
        self.activity_type = names.activity()
        self.setting = Setting(names.app_id, surroundings.new_id)
        self.rows = Rows(names.app_id, self.workflow_type, surroundings.store, surroundings.random)
        self.admission = Admission(self)
        self.workers = Workers(
            surroundings.clock, surroundings.random, surroundings.config, limits=limits, changed=changed,
            taken=self.admission.room,
        )  # fmt: skip
        self.tasks = Tasks("workflow engine")
        self.alarms = Alarms(self)
        self.timers = Timers(surroundings.clock, surroundings.bounds.near_timer_s, self.alarms.ring)
        self.deliveries = Deliveries(self.tasks, surroundings.clock, surroundings.bounds.deliveries)
        self.activities = Activities(self)
        self.errands = Errands(self)
        self.apart = asyncio.Lock()
        """Held by the one suspect that is with a worker of this host (`losses.py`)."""
        self.runners: dict[str, Runner] = {}
        self.creating: dict[str, Starts] = {}
        self.reading: dict[str, asyncio.Future[Runner | None]] = {}
        self.idle = Idle(surroundings.bounds.idle_instances, surroundings.bounds.idle_bytes)
        self.watchers = Watchers()
        self.slow = SlowTurns(surroundings.bounds.slow_turn_s)
        self.calls = Calls(self)
        self.later = Later(self)
        self.clearing = Clearing(self)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._departures = 0
        """How often instances had to leave: what was read meanwhile may be another host's by now."""
        self.closed = False

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The loop on which everything of this engine runs; looked up once."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    # --- names ---

    def key(self, actor_type: str, actor_id: str, name: str) -> JobKey:
        return self.surroundings.names.key(actor_type, actor_id, name)

    def execution_id(self, instance: Instance) -> str | None:
        return instance.execution_id

    # --- instances in memory ---

    async def find(self, instance_id: str) -> Runner | None:
        """The runner of an instance, read from the store if need be; None when there is no such instance.

        An instance that is read is resumed: what it waits for is dispatched and armed again.
        """
        while True:
            runner = self.runners.get(instance_id)
            if runner is not None:
                self.idle.take(instance_id)
                return runner
            reading = self.reading.get(instance_id)
            if reading is None:
                return await self._read(instance_id)
            await asyncio.wait([reading])

    async def _read(self, instance_id: str) -> Runner | None:
        if self.closed:
            raise NotReady("the workflow engine is shutting down")
        future: asyncio.Future[Runner | None] = asyncio.get_running_loop().create_future()
        self.reading[instance_id] = future
        departures = self._departures
        try:
            instance = await self.rows.load(instance_id)
            if instance is None:
                return None
            if departures != self._departures:
                raise Moved(f"workflow '{instance_id}' may have moved while it was read")
            runner = Runner(self, instance)
            self.runners[instance_id] = runner
        finally:
            del self.reading[instance_id]
            future.set_result(None)
        # Not in the task of the caller, which may go away in the middle of it.
        await asyncio.shield(self.tasks.start(self.resume(runner), "resume"))
        return runner

    async def resume(self, runner: Runner) -> None:
        """Do again what follows from what is committed; all of it may have been done before.

        Nobody would go on with an instance that is in memory and half resumed: after a failure it is read anew.
        """
        try:
            await self._resume(runner)
        except Exception as error:
            log.exception("workflow '%s' cannot be resumed", runner.instance_id)
            self.failed(runner, error)

    async def _resume(self, runner: Runner) -> None:
        instance = runner.instance
        facts = instance.facts
        runner.sends = unpack(instance.outbox) if instance.outbox else []
        if facts.completed is not None:
            return
        if runner.wake_due == 0.0:
            self.tasks.start(wake.ensure(self, runner), "wake")
        if not await take_up(runner):
            return
        self.alarms.arm(runner)
        for send in runner.sends:
            duties.send(self, runner, send)
        for event in list(facts.children.values()):
            duties.create_child(self, runner, event)
        for event in list(facts.tasks.values()):
            await self.activities.dispatch(runner, event)
        runner.kick()
        self.rest(runner)

    def rest(self, runner: Runner) -> None:
        """Let the instance go when there is no room for one that only waits."""
        if runner.closed or not runner.idle or self.runners.get(runner.instance_id) is not runner:
            return
        instance_id = runner.instance_id
        if runner.instance.facts.completed is not None:
            if instance_id not in self.creating:  # it is about to begin anew: what is known of it stays known
                self.release(runner)
            return
        self.idle.put(instance_id, runner.instance.size)
        while (oldest := self.idle.surplus) is not None:
            found = self.runners.get(oldest)
            if found is None or not found.idle:
                self.idle.take(oldest)
            else:
                self.release(found)
        self.admission.room()

    def release(self, runner: Runner) -> None:
        """Forget an instance that nothing is done for; it is read again when something comes."""
        instance_id = runner.instance_id
        if self.runners.get(instance_id) is runner:
            del self.runners[instance_id]
        self.idle.take(instance_id)
        runner.close(Moved(f"workflow '{instance_id}' is not in memory"))
        self.watchers.changed(instance_id)
        if not self.closed:
            self.tasks.start(self._halt(instance_id), "halt")
            self.admission.room()

    async def _halt(self, instance_id: str) -> None:
        if instance_id not in self.runners:
            await self.surroundings.actors.halt(self.workflow_type, instance_id)

    def drop(self, runner: Runner, error: Exception) -> None:
        """The instance was written by another host, or has moved: what is in memory is worth nothing.

        When it is still ours - placement will say so - it is read anew.
        """
        if runner.closed:
            return
        if isinstance(error, LostPlace):
            log.warning("workflow '%s': %s", runner.instance_id, error)
        self.discard(runner, error)
        if isinstance(error, LostPlace):
            self.later.resume(runner.instance_id)

    def discard(self, runner: Runner, error: Exception) -> None:
        if self.runners.get(runner.instance_id) is runner:
            del self.runners[runner.instance_id]
        self.idle.take(runner.instance_id)
        runner.close(error)
        self.watchers.changed(runner.instance_id)

    def failed(self, runner: Runner, error: Exception) -> None:
        """Something went wrong that should not: read the instance anew, after a pause that grows."""
        self.discard(runner, error)
        self.later.resume(runner.instance_id)

    def forget(self, runner: Runner) -> None:
        """Nothing that this generation began is wanted any more."""
        self.activities.cancel(runner)
        for delivery in list(runner.deliveries.values()):
            if delivery.kind == "child":
                delivery.cancel()
        if runner.closed:
            for delivery in list(runner.deliveries.values()):
                delivery.cancel()

    # --- after a commit ---

    async def committed(self, runner: Runner, decision: Decision, seen: int) -> None:
        """Act on what was written: `decision.events[seen:]` are what the worker wants done."""
        instance = runner.instance
        self.later.well(instance.instance_id)
        self.watchers.changed(instance.instance_id)
        count(self.surroundings, runner, decision)
        if decision.stalled:
            return
        ended = instance.facts.completed is not None
        killed = ended and instance.status is Status.TERMINATED
        tasks: list[Event] = []
        for event, _ in decision.events[seen:]:
            kind = event.WhichOneof("eventType")
            if kind == "taskScheduled" and not killed:
                tasks.append(event)
            elif kind == "childWorkflowInstanceCreated" and not killed:
                duties.create_child(self, runner, event)
            elif kind == "timerCreated" and not ended:
                self.alarms.set(runner, event)
        for send in runner.sends:
            duties.send(self, runner, send)
        for event in tasks:
            if not runner.closed:
                await self.activities.dispatch(runner, event)
        if ended:
            if killed:
                self.activities.cancel(runner)
            self.finish(runner, {event.eventId for event in tasks})

    # --- the wake job ---

    async def put_wake(self, instance_id: str, due: float, count: int) -> None:
        await self.surroundings.scheduler.schedule(
            self.key(self.workflow_type, instance_id, WAKE), wake.job_of(due, count), overwrite=True
        )

    async def woken(self, instance_id: str, payload: bytes | None) -> None:
        """The `wake` job fired: do what is due, and put it again."""
        await wake.woken(self, instance_id, payload)

    # --- requests ---

    def finish(self, runner: Runner, last_tasks: set[int] | None = None) -> None:
        """See to the last duties of a finished instance, unless that is being done."""
        if (runner.finishing is None or runner.finishing.done()) and not runner.closed and not runner.renewing:
            runner.finishing = self.tasks.start(duties.finish(self, runner, last_tasks), "finish")

    def moved(self, instance_id: str) -> None:
        """The instance is driven elsewhere from now on."""
        runner = self.runners.get(instance_id)
        if runner is not None:
            self.discard(runner, Moved(f"workflow '{instance_id}' has moved"))

    async def leave(self, instance_id: str) -> None:
        """As `moved`, but a turn that a worker is at may come to its end before, within the drain time (37)."""
        runner = self.runners.get(instance_id)
        if runner is None:
            return
        if runner.leaving is None and runner.item is not None and runner.item.holder is not None:
            runner.leaving = self.loop.create_future()
            await asyncio.wait([runner.leaving], timeout=self.surroundings.bounds.drain_s)
        await lay_down(runner)
        self.moved(instance_id)

    async def leave_all(self, stays: Callable[[str], bool]) -> None:
        """Let go of every instance that does not stay: others may drive it from now on, and what is in memory here,
        read by whatever way, may be out of date when it comes back."""
        self._departures += 1
        leaving = [instance_id for instance_id in self.runners if not stays(instance_id)]
        try:
            await asyncio.gather(*(self.leave(instance_id) for instance_id in leaving))
        finally:
            for instance_id in leaving:
                self.moved(instance_id)

    async def add(self, instance_id: str, event: Event, execution: str | None = None) -> None:
        """Take an event for an instance; `execution`: it is for that one alone.

        Raises `InstanceMissing`, `InstanceStalled`, `Moved`.
        """
        runner = await self.find(instance_id)
        if runner is None:
            raise InstanceMissing
        try:
            await runner.add(event, execution)
        finally:
            self.rest(runner)

    async def look(self, instance_id: str) -> Snapshot | None:
        """How the instance stands, as committed."""
        instance = await self.read(instance_id)
        return None if instance is None else instance.snapshot()

    async def read(self, instance_id: str) -> Instance | None:
        """The instance as committed. While a step is written only the store knows whether it is there: others may have
        read it already, and what was seen once must not be unseen.
        """
        runner = self.runners.get(instance_id)
        if runner is not None and not runner.closed and runner.instance.exists and not runner.lock.locked():
            return runner.instance
        return await self.rows.load(instance_id)

    def status(self, instance_id: str) -> Status | None:
        """The status of an instance in memory, None for another one."""
        runner = self.runners.get(instance_id)
        return None if runner is None or not runner.instance.exists else runner.instance.facts.status

    def waiting_unread(self, instance: Instance) -> tuple[Wait, ...]:
        """What an instance waits for that is not driven here."""
        if instance.instance_id in self.admission:
            return (Wait("worker", error=f"{self.workers.queued} turns and activities wait before it"),)
        return Runner(self, instance).waiting()

    def unpark(self) -> None:
        """Another worker came: what stalled may go on with it."""
        for runner in list(self.runners.values()):
            if runner.instance.facts.stalled is not None:
                runner.kick()

    async def close(self) -> None:
        """End everything; what is under way is taken up again by whoever owns the instances next."""
        self.closed = True
        self.workers.close()
        self.timers.close()
        self.slow.close()
        self.errands.close()
        self.clearing.close()
        await asyncio.gather(*(lay_down(runner) for runner in list(self.runners.values())))
        for runner in list(self.runners.values()):
            self.discard(runner, NotReady("the workflow engine is shutting down"))
        await self.tasks.close()

    def __repr__(self) -> str:
        return f"<Engine {len(self.runners)} instances in memory, {len(self.idle)} idle, {self.workers!r}>"
