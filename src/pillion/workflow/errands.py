"""Activities that this host runs for others: the handler of the actor type `activity`.

`Execute` with the header `pillion-activity` is held open until the result is there, and however often an activity is
asked for it runs once. Its caller counts what is lost (`pillion-losses`): in place of a result it is told of a worker
that was, or of an activity that it asked for before and that is not known here. A call without that header comes from a
reference sidecar, and gets its behaviour: a durable reminder, the result by `AddWorkflowEvent` (spec
`actors-workflows-jobs.md` 3.2, 3.6); losses are counted here then, in memory.

Knows: activities under way by their names. Never knows: instances, where they live.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.kinds.actors import ActorReply
from pillion.kinds.jobs import Constant, Job
from pillion.wire.messages import backend, wellknown
from pillion.wire.messages import taskhub as m
from pillion.workflow import history
from pillion.workflow.faults import InstanceMissing, NotReady
from pillion.workflow.history import Event
from pillion.workflow.invocations import AGAIN, AWAIT, EXECUTE, LOSSES, LOST, WasLost, key_of, request, unwrapped
from pillion.workflow.items import Item
from pillion.workflow.losses import MOST_LOSSES, NOTHING, SUSPICIOUS, Lost, Tally
from pillion.workflow.snapshot import Wait
from pillion.workflow.surroundings import moment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.kinds.actors import ActorCall, Tick
    from pillion.workflow.engine import Engine
    from pillion.workflow.invocations import Key
    from pillion.workflow.items import Answer

log = logging.getLogger("pillion.workflow")

RUN_REMINDER = "run-activity"
CACHED_S = 60.0
MOST_CACHED = 2048
"""Results of activities run for others that are remembered, so that a repeated call finds them."""


class Errand:
    """One activity under way. `counted`: who asked for it counts its losses; else `tally` does."""

    __slots__ = ("counted", "item", "make", "over", "result", "tally")

    def __init__(
        self, result: asyncio.Future[Event], make: Callable[[], Item], tally: Tally = NOTHING, *, counted: bool = True
    ) -> None:
        self.result = result
        self.make = make
        self.item = make()
        self.tally = tally
        self.counted = counted
        self.over: asyncio.Event | None = None
        """Of one that runs apart: set when another suspect may have its place."""

    def fail(self, error: Exception) -> None:
        self.leave()
        if not self.result.done():
            self.result.set_exception(error)
            self.result.exception()

    def leave(self) -> None:
        if self.over is not None:
            self.over.set()


class Errands:
    """Runs activities for the owners of their workflows, wherever these live."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._running: dict[Key, Errand] = {}
        self.asked: Callable[[ActorCall], Awaitable[bytes]] | None = None
        """Answers what sidecars of this application ask of activities that run here."""
        self._results: OrderedDict[Key, tuple[float, bytes]] = OrderedDict()

    async def invoke(self, call: ActorCall) -> ActorReply:
        """`Execute`: run it and answer with its result, or leave a reminder for a reference sidecar's call."""
        if call.method in ("pillion.Inspect", "pillion.Mend") and self.asked is not None:
            return ActorReply(await self.asked(call))
        if call.method != EXECUTE:
            raise ComponentError(f"no such method: {call.method}")
        asked = backend.ActivityInvocation.FromString(call.body)
        self._engine.calls.check_activity(call, asked.historyEvent.taskScheduled.name)
        if AWAIT not in call.headers:
            await self._remind(call.actor_id, asked)
            return ActorReply()
        count = next((value for name, value in call.headers if name == LOSSES), None)
        tally = None if count is None else Tally(int(count) if count.isdigit() else 0)
        try:
            return ActorReply(await self._execute(call.actor_id, asked, tally, again=AGAIN in call.headers))
        except WasLost as error:
            return ActorReply(headers=[(LOST, error.what.value.encode())])

    async def _remind(self, actor_id: str, asked: backend.ActivityInvocation) -> None:
        surroundings = self._engine.surroundings
        payload = wellknown.Any()
        payload.Pack(asked)
        job = Job(
            due_time=moment(surroundings.clock.now()), payload=payload.SerializeToString(),
            failure_policy=Constant(1.0, None), concurrency_key=asked.historyEvent.taskScheduled.name,
        )  # fmt: skip
        await surroundings.scheduler.schedule(
            self._engine.key(self._engine.activity_type, actor_id, RUN_REMINDER), job, overwrite=True
        )

    async def _execute(
        self, actor_id: str, asked: backend.ActivityInvocation, tally: Tally | None = None, *, again: bool = False
    ) -> bytes:
        """Run it once, however often it is asked for; successes are remembered for a while.

        `tally` is what the caller has counted, None when it does not count; with one, raises `WasLost`.
        """
        event = asked.historyEvent
        key = key_of(actor_id, event)
        now = self._engine.surroundings.clock.monotonic()
        while self._results and next(iter(self._results.values()))[0] < now - CACHED_S:
            self._results.popitem(last=False)
        if (known := self._results.get(key)) is not None:
            return known[1]
        running = self._running.get(key)
        if running is None:
            if again and tally is not None:
                raise WasLost(Lost.HOST)
            propagated = asked.propagatedHistory.SerializeToString() if asked.HasField("propagatedHistory") else None
            instance_id = actor_id.split("::", 1)[0]
            make = partial(
                Item, instance_id, event.taskScheduled.name, partial(self._ran, key), partial(self._lost, key),
                task_id=event.eventId, payload=request(event, instance_id, None, propagated),
            )  # fmt: skip
            result: asyncio.Future[Event] = asyncio.get_running_loop().create_future()
            running = self._running[key] = Errand(result, make, tally or NOTHING, counted=tally is not None)
            self._offer(key, running)
        return (await asyncio.shield(running.result)).SerializeToString()

    def _offer(self, key: Key, errand: Errand) -> None:
        """To a worker; a suspect when no other one is with a worker of this host."""
        if errand.tally.count < SUSPICIOUS:
            self._engine.workers.offer(errand.item)
        else:
            self._engine.tasks.start(self._apart(key, errand, errand.item), "activity")

    async def _apart(self, key: Key, errand: Errand, item: Item) -> None:
        async with self._engine.apart:
            if self._running.get(key) is errand and errand.item is item:
                over = errand.over = asyncio.Event()
                self._engine.workers.offer(item)
                await over.wait()

    def _ran(self, key: Key, answer: Answer) -> None:
        running = self._running.pop(key, None)
        if running is None or running.result.done() or not isinstance(answer, m.ActivityResponse):
            return
        surroundings = self._engine.surroundings
        event = history.task_result(surroundings.now_ns(), answer, key[1])
        if event.HasField("taskCompleted"):
            self._results[key] = (surroundings.clock.monotonic(), event.SerializeToString())
            if len(self._results) > MOST_CACHED:
                self._results.popitem(last=False)
        running.leave()
        running.result.set_result(event)

    def _lost(self, key: Key) -> None:
        """Its worker was lost: for who asked to count, or for us."""
        errand = self._running.get(key)
        if errand is None:
            return
        if errand.counted:
            del self._running[key]
            errand.fail(WasLost(Lost.WORKER))
            return
        errand.leave()
        errand.tally = errand.tally.after(Lost.WORKER)
        errand.item = errand.make()
        if errand.tally.count < MOST_LOSSES:
            self._offer(key, errand)
        else:
            log.warning("activity %s, %s, is put aside: %s", key[0], errand.item.name, errand.tally.why)

    # --- what others are told, and want ---

    def find(self, key: Key) -> Errand | None:
        """The activity as it runs here."""
        return self._running.get(key)

    def adopt(self, key: Key, item: Item) -> None:
        """Go on with what a worker has of an instance that leaves; its next owner may ask for it."""
        if key not in self._running:
            item.done, item.lost = partial(self._ran, key), partial(self._lost, key)
            self._running[key] = Errand(self._engine.loop.create_future(), lambda: item)

    def waits(self, actor_id: str) -> tuple[Wait, ...]:
        """Why an activity has no result yet that runs here for another host; nothing when none does."""
        for key, errand in self._running.items():
            if key[0] == actor_id:
                item, tally = errand.item, errand.tally
                if not errand.counted and tally.count >= MOST_LOSSES:
                    wait = Wait("quarantine", item.name, item.task_id, tally.count, tally.why, item.offered)
                    return (wait,)
                return (self.wait_of(item, item.offered),)
        return ()

    def wait_of(self, item: Item, since: float) -> Wait:
        """Why an activity has no result yet that is in the work queue here."""
        kind = "worker" if item.holder is None and self._engine.workers.lacks(item) else "activity"
        return Wait(kind, item.name, item.task_id, since=since)

    def retry(self, actor_id: str) -> None:
        """Give an activity another chance that was put aside here. Raises `InstanceMissing` when there is none."""
        for key, errand in self._running.items():
            if key[0] == actor_id:
                if not errand.counted and errand.tally.count >= MOST_LOSSES:
                    errand.tally = NOTHING
                    self._offer(key, errand)
                return
        raise InstanceMissing

    def drop(self, actor_id: str) -> None:
        """Nobody waits any more for an activity that this host was to run for another one."""
        for key, errand in list(self._running.items()):
            if key[0] == actor_id:
                self._give_up(key, errand, InstanceMissing())

    def abandon(self) -> None:
        """No worker is left here: activities of others that nobody has taken are given back to who sent them."""
        for key, errand in list(self._running.items()):
            if errand.item.holder is None:
                self._give_up(key, errand, NotReady("no worker is connected"))

    def close(self) -> None:
        """Give all of them back: who sent them hears that this host leaves, and is not lost."""
        for key, errand in list(self._running.items()):
            self._give_up(key, errand, NotReady("the workflow engine is shutting down"))

    def _give_up(self, key: Key, errand: Errand, error: Exception) -> None:
        self._engine.workers.withdraw(errand.item)
        del self._running[key]
        errand.fail(error)

    async def tick(self, tick: Tick) -> bool:
        """`run-activity`: run it, and bring the result to the workflow, or leave it with the scheduler."""
        if tick.name != RUN_REMINDER:
            return False
        raw = unwrapped(tick.payload)
        if raw is None:
            log.error("activity %s: its reminder carries nothing that can be run", tick.actor_id)
            return True
        asked = backend.ActivityInvocation.FromString(raw)
        event = Event.FromString(await self._execute(tick.actor_id, asked))
        source = asked.historyEvent.router.sourceAppID if asked.historyEvent.HasField("router") else ""
        instance_id = tick.actor_id.split("::", 1)[0]
        actor_type = self._engine.surroundings.names.workflow(source)
        try:
            await self._engine.calls.tell(actor_type, instance_id, event)
        except InstanceMissing:
            return False
        except ComponentError as error:
            log.warning("activity %s: its result is left with the scheduler: %s", tick.actor_id, error)
            await self._engine.calls.leave_result(actor_type, instance_id, event)
        return False

    async def deactivate(self, actor_type: str, actor_id: str) -> None:
        """Nothing is kept for an activity; what runs goes on (3.2: not cancelled by rebalancing)."""

    def __repr__(self) -> str:
        return f"<Errands {len(self._running)} running>"
