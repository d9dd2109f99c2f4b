"""Looking into an instance and mending it, from any sidecar of its application.

The sidecar that is asked reaches the one that drives the instance, or runs one of its activities, by two internal
methods of our own; payloads are JSON. A reference sidecar knows neither: then what the store says is all that is shown.

Knows: what waits, and what may be done about it. Never knows: HTTP, how a call travels.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import orjson

from pillion.errors import ComponentError
from pillion.kinds.actors import ActorCall, ActorError, RemoteFailure
from pillion.wire.messages import taskhub as m
from pillion.workflow import history
from pillion.workflow.calls import caller_of
from pillion.workflow.faults import AccessDenied, InstanceMissing, NothingToMend, from_remote
from pillion.workflow.invocations import activity_id
from pillion.workflow.snapshot import Inspection, Wait

if TYPE_CHECKING:
    from pillion.workflow.activities import Run
    from pillion.workflow.engine import Engine
    from pillion.workflow.history import Event
    from pillion.workflow.instance import Instance
    from pillion.workflow.runner import Runner

log = logging.getLogger("pillion.workflow")

INSPECT, MEND = "pillion.Inspect", "pillion.Mend"
JSON = b"application/json"
LOOK_S = 2.0
"""So long another sidecar may take to tell what an instance or an activity of its own waits for."""
_WAIT = frozenset(Wait.__dataclass_fields__)


class Mending:
    """For one engine: what it asks of others, and what it answers them."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    # --- asked here ---

    async def inspect(self, instance_id: str) -> Inspection | None:
        """How the instance stands and what it waits for, wherever it is driven; None when there is none."""
        engine = self._engine
        runner = engine.runners.get(instance_id)
        instance = await engine.rows.load(instance_id) if runner is None else runner.instance
        if instance is None or not instance.exists:
            return None
        try:
            owner = await engine.surroundings.actors.owner(engine.workflow_type, instance_id)
        except ActorError:
            address, waiting = "", engine.waiting_unread(instance)
            if not instance.facts.status.terminal:
                waiting = (Wait("worker", error="no worker of this application is connected"), *waiting)
        else:
            address = owner.address
            if runner is not None:
                waiting = await self._waiting(runner)
            elif owner.local or (told := await self._ask(engine.workflow_type, instance_id)) is None:
                waiting = engine.waiting_unread(instance)
            else:
                waiting = told
            if not waiting and not instance.facts.status.terminal:  # it ended since it was read
                instance = await engine.rows.load(instance_id) or instance
                waiting = engine.waiting_unread(instance)
        return _inspection(instance, waiting, address)

    async def retry(self, instance_id: str, task_id: int | None) -> None:
        """Offer to workers again what was put aside: an activity, or with None the turn. Raises `InstanceMissing`,
        `NothingToMend`.
        """
        await self._mend(self._engine.workflow_type, instance_id, {"do": "retry", "task": task_id})

    async def skip(self, instance_id: str, task_id: int, result: str | None) -> None:
        """Let an activity count as completed. Raises `InstanceMissing`, `NothingToMend`."""
        await self._mend(self._engine.workflow_type, instance_id, {"do": "skip", "task": task_id, "result": result})

    async def _mend(self, actor_type: str, actor_id: str, order: dict[str, object]) -> None:
        try:
            await self._engine.surroundings.actors.invoke(self._call(actor_type, actor_id, MEND, orjson.dumps(order)))
        except RemoteFailure as error:
            raise from_remote(error) from error

    async def _ask(self, actor_type: str, actor_id: str) -> tuple[Wait, ...] | None:
        """What an instance or activity waits for that is another host's; None when that cannot be found out."""
        call = self._call(actor_type, actor_id, INSPECT, b"")
        try:
            async with asyncio.timeout(LOOK_S):
                reply = await self._engine.surroundings.actors.invoke(call)
            return tuple(Wait(**{key: each[key] for key in each.keys() & _WAIT}) for each in orjson.loads(reply.body))
        except (TimeoutError, ComponentError, ValueError, TypeError, AttributeError) as error:
            log.debug("what '%s' waits for is not told: %s", actor_id, error)
            return None

    def _call(self, actor_type: str, actor_id: str, method: str, body: bytes) -> ActorCall:
        return ActorCall(
            actor_type, actor_id, method, body=body, headers=self._engine.calls.caller(), content_type=JSON, verb=""
        )

    # --- answered to others ---

    async def answer_instance(self, call: ActorCall) -> bytes:
        """`INSPECT` and `MEND` of an instance that this host owns. Raises `InstanceMissing`."""
        order = self._checked(call)
        if call.method == INSPECT:
            runner = self._engine.runners.get(call.actor_id)
            if runner is not None:
                return _packed(await self._waiting(runner))
            instance = await self._engine.rows.load(call.actor_id)
            return _packed(() if instance is None else self._engine.waiting_unread(instance))
        found = await self._engine.find(call.actor_id)
        if found is None:
            raise InstanceMissing
        task_id = order.get("task")
        if order.get("do") == "skip" and isinstance(task_id, int):
            result = order.get("result")
            await self._skip(found, task_id, result if isinstance(result, str) else None)
        elif order.get("do") == "retry":
            await self._retry(found, task_id if isinstance(task_id, int) else None)
        else:
            raise ComponentError(f"workflow '{call.actor_id}': an order that is not understood")
        return b""

    async def answer_activity(self, call: ActorCall) -> bytes:
        """`INSPECT` and `MEND` of an activity that this host runs for another one."""
        order = self._checked(call)
        errands = self._engine.errands
        if call.method == INSPECT:
            return _packed(errands.waits(call.actor_id))
        if order.get("do") == "drop":
            errands.drop(call.actor_id)
        else:
            errands.retry(call.actor_id)
        return b""

    def _checked(self, call: ActorCall) -> dict[str, Any]:
        """The order in a call of this application; others have no business here."""
        caller, namespace = caller_of(call)
        names = self._engine.surroundings.names
        if (caller, namespace) != (names.app_id, names.namespace) and (caller or call.remote):
            raise AccessDenied
        try:
            order = orjson.loads(call.body) if call.body else {}
        except ValueError as error:
            raise ComponentError(f"{call.method} cannot be read: {error}") from error
        return order if isinstance(order, dict) else {}

    # --- for instances of this host ---

    async def _waiting(self, runner: Runner) -> tuple[Wait, ...]:
        """What an instance here waits for; of activities on other replicas as these tell it."""
        engine = self._engine
        away = {
            task_id: activity_id(runner.instance_id, task_id, run.generation)
            for task_id, run in runner.activities.items()
            if run.item is None and run.task is not None and not run.error and run.over is None and run.is_ours(engine)
        }
        if not away:
            return runner.waiting()
        told = await asyncio.gather(*(self._ask(engine.activity_type, actor_id) for actor_id in away.values()))
        known = {task_id: waits[0] for task_id, waits in zip(away, told, strict=True) if waits}
        return tuple(
            known.get(wait.task_id, wait) if wait.kind == "activity" and wait.task_id is not None else wait
            for wait in runner.waiting()
        )

    async def _retry(self, runner: Runner, task_id: int | None) -> None:
        """Put aside: its losses are forgotten. Under way: what pauses goes on."""
        engine = self._engine
        if task_id is None:
            if not runner.retry_turn():
                raise NothingToMend(f"no turn of workflow '{runner.instance_id}' is put aside")
            await runner.record()
            return
        event = _scheduled(runner, task_id)
        if runner.losses.aside(task_id):
            runner.losses.forget(task_id)
            if await runner.record():
                await engine.activities.dispatch(runner, event)
            return
        run = runner.activities.get(task_id)
        if run is not None:
            run.hurry.set()

    async def _skip(self, runner: Runner, task_id: int, result: str | None) -> None:
        engine = self._engine
        event = _scheduled(runner, task_id)
        answer = m.ActivityResponse(instanceId=runner.instance_id, taskId=task_id, result=history.text(result))
        now_ns = engine.surroundings.now_ns()
        done = history.task_result(now_ns, answer, event.taskScheduled.taskExecutionId)
        run = runner.activities.get(task_id)
        if run is not None and run.item is not None:
            engine.workers.withdraw(run.item)
        await runner.add(done)
        left = runner.activities.pop(task_id, None)
        if left is not None and left.task is not None:
            left.task.cancel()
            engine.tasks.start(self._drop(runner, left), "drop")

    async def _drop(self, runner: Runner, run: Run) -> None:
        """Tell the replica that holds an activity for us that nobody waits for it any more."""
        if run.is_ours(self._engine):
            actor_id = activity_id(runner.instance_id, run.event.eventId, run.generation)
            try:
                await self._mend(self._engine.activity_type, actor_id, {"do": "drop"})
            except ComponentError as error:
                log.debug("activity %s is not withdrawn: %s", actor_id, error)

    def __repr__(self) -> str:
        return f"<Mending of {self._engine!r}>"


def _scheduled(runner: Runner, task_id: int) -> Event:
    """The event of an activity without a result. Raises `NothingToMend`."""
    event = runner.instance.facts.tasks.get(task_id)
    if event is None:
        raise NothingToMend(f"workflow '{runner.instance_id}' waits for no activity {task_id}")
    return event


def _packed(waiting: tuple[Wait, ...]) -> bytes:
    return orjson.dumps([asdict(wait) for wait in waiting])


def _inspection(instance: Instance, waiting: tuple[Wait, ...], owner: str) -> Inspection:
    return Inspection(
        instance.snapshot(), waiting, instance.generation, instance.facts.length, len(instance.inbox), instance.size,
        owner,
    )  # fmt: skip
