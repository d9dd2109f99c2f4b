"""The facade: requests of clients on their way to the instances, and the types that this sidecar hosts for them.

Satisfies `hub.Workflows`. Knows: which internal method serves which request. Never knows: HTTP, gRPC services, turns.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.kinds.actors import ActorCall, ActorError, Hosted, NoPlacement, NoStateStore, RemoteFailure
from pillion.wire.messages import backend
from pillion.wire.messages import taskhub as m
from pillion.workflow import history
from pillion.workflow.actor import FORK, WAIT, Retentioner, WorkflowActor, status_of
from pillion.workflow.builtin import Builtin
from pillion.workflow.calls import CREATE, PROTOBUF
from pillion.workflow.engine import Engine
from pillion.workflow.faults import RerunRefused, from_remote
from pillion.workflow.mending import Mending
from pillion.workflow.purge import FORCE, PURGE, PURGE_TREE
from pillion.workflow.recovery import Recovery
from pillion.workflow.snapshot import Inspection, Snapshot, Status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Mapping

    from pillion.workflow.builtin import Run, Workflow
    from pillion.workflow.history import Event
    from pillion.workflow.hub import Rerun, Start
    from pillion.workflow.streams import Stream
    from pillion.workflow.surroundings import Surroundings
    from pillion.workflow.workers import Limits

HOST_NAME = "workflow"
FOREVER_S = 10.0 * 365 * 86400
"""Idle time of the types: the engine lets go of instances itself."""
PAUSE_S = 1.0
FIRST_PAUSE_S = 0.05


class Hub:
    """One for each sidecar. `close` ends the streams of workers and everything that is under way."""

    def __init__(self, surroundings: Surroundings, *, limits: Limits | None = None) -> None:
        self._surroundings = surroundings
        self.engine = Engine(surroundings, limits=limits, changed=self._workers_changed)
        self.builtin = Builtin(self.engine.workers.answer_inside)
        self.recovery = Recovery(self.engine)
        self.mending = Mending(self.engine)
        self.engine.errands.asked = self.mending.answer_activity
        self._actor = WorkflowActor(self.engine, self.mending)
        self._retentioner = Retentioner(self.engine)
        self._last_event_ns = 0
        self._lingering: asyncio.TimerHandle | None = None
        self._hosting = False
        self._waiting_for_workers: list[asyncio.Future[None]] = []

    # --- workers ---

    def attach(self, capabilities: Collection[int] = ()) -> Stream:
        stream = self.engine.workers.attach(capabilities)
        self.engine.unpark()
        return stream

    def complete_workflow(self, response: m.WorkflowResponse) -> None:
        self.engine.workers.complete_workflow(response)

    def complete_activity(self, response: m.ActivityResponse) -> None:
        self.engine.workers.complete_activity(response)

    def oversized(self, instance_id: str, task_id: int, said: str) -> None:
        self.engine.workers.oversized(instance_id, task_id, said)

    @property
    def workers(self) -> int:
        return self.engine.workers.count

    def register(self, workflows: Mapping[str, Workflow], activities: Mapping[str, Run]) -> None:
        """Offer workflows of the sidecar's own, as a worker offers others: they need none to be connected."""
        self.builtin.register(workflows, activities)
        self._workers_changed()
        self.engine.unpark()

    def unregister(self, workflows: Mapping[str, Workflow], activities: Mapping[str, Run]) -> None:
        """Take them back: instances that run stall until they are there again."""
        self.builtin.unregister(workflows, activities)
        self._workers_changed()

    def serve_builtin(self) -> None:
        """All workflows of the sidecar's own have been registered: begin to run them, refuse those nobody knows."""
        self.engine.workers.serve_inside(self.builtin.take, lambda: self.builtin.waiting)

    def _workers_changed(self) -> None:
        """Host the types while there is a worker; a little longer, for workers reconnect."""
        if self._lingering is not None:
            self._lingering.cancel()
            self._lingering = None
        if self.workers or self.builtin.names:
            if not self._hosting:
                self._hosting = True
                self._surroundings.actors.host(HOST_NAME, self._types())
            for future in self._waiting_for_workers:
                if not future.done():
                    future.set_result(None)
            self._waiting_for_workers.clear()
        elif self._hosting:
            linger_s = self._surroundings.bounds.linger_s
            self._lingering = asyncio.get_running_loop().call_later(linger_s, self._unhost)

    def _unhost(self) -> None:
        self._lingering = None
        self._hosting = False
        self.engine.errands.abandon()
        self._surroundings.actors.host(HOST_NAME, ())

    def _types(self) -> list[Hosted]:
        names, engine = self._surroundings.names, self.engine
        hosted: list[Hosted] = []
        for actor_type, handler, settled, leaving in (
            (names.workflow(), self._actor, self._settled, engine.leave_all),
            (names.activity(), engine.errands, self._activities_settled, None),
            (names.retentioner(), self._retentioner, None, None),
        ):
            hosted.append(
                Hosted(
                    actor_type, handler, idle_timeout_s=FOREVER_S, locked=False, settled=settled, leaving=leaving
                )
            )  # fmt: skip
        return hosted

    def _settled(self) -> None:
        self._divide()
        self.recovery.settled()

    def _activities_settled(self) -> None:
        self._divide()
        self.engine.activities.hurry()

    def _divide(self) -> None:
        """The hosts of a type may be others now, and with them this one's share of the limits for all."""
        names, rank = self._surroundings.names, self._surroundings.rank
        self.engine.workers.divide(rank(names.workflow()), rank(names.activity()))

    # --- requests ---

    async def start(self, order: Start) -> str:
        surroundings = self._surroundings
        instance_id = order.instance_id or surroundings.new_id()
        started = m.ExecutionStartedEvent(
            name=order.name, input=history.text(order.input), version=history.text(order.version), tags=dict(order.tags)
        )
        started.workflowInstance.instanceId = instance_id
        started.workflowInstance.executionId.value = surroundings.new_id()
        if order.start_at is not None:
            started.scheduledStartTimestamp.CopyFrom(history.timestamp(int(order.start_at * 1e9)))
        if order.traceparent:
            started.parentTraceContext.traceParent = order.traceparent
            started.workflowSpanID.value = f"{surroundings.random.getrandbits(64) or 1:016x}"
            if order.tracestate:
                started.parentTraceContext.traceState.value = order.tracestate
        event = history.execution_started(
            surroundings.now_ns(), started, m.TaskRouter(sourceAppID=surroundings.names.app_id)
        )
        body = backend.CreateWorkflowInstanceRequest(startEvent=event).SerializeToString()
        await self._patiently("create_workflow", lambda: self._call(instance_id, CREATE, body))
        return instance_id

    async def get(self, instance_id: str) -> Snapshot | None:
        begun = self._surroundings.clock.monotonic()
        found = await self.engine.look(instance_id)
        elapsed_ms = (self._surroundings.clock.monotonic() - begun) * 1000
        self._surroundings.meter.operation("get_workflow", "success", elapsed_ms)
        return found

    async def wait_start(self, instance_id: str) -> Snapshot:
        return await self._wait(instance_id, lambda status: status is not Status.PENDING)

    async def wait_completion(self, instance_id: str) -> Snapshot:
        return await self._wait(instance_id, lambda status: status.terminal)

    async def _wait(self, instance_id: str, enough: Callable[[Status], bool]) -> Snapshot:
        """Follow the instance, wherever it lives, until its status is one that is waited for."""
        names, engine = self._surroundings.names, self.engine
        pause_s = FIRST_PAUSE_S
        while True:
            try:
                status = engine.status(instance_id)
                if status is None or enough(status):
                    found = await engine.look(instance_id)
                    if found is not None and enough(found.status):
                        return found
                if await self._watch(instance_id, enough):
                    continue
                call = ActorCall(names.workflow(), instance_id, WAIT, headers=engine.calls.caller(), verb="")
                async for item in self._surroundings.actors.stream(call):
                    pause_s = FIRST_PAUSE_S
                    if enough(Status(status_of(item))):
                        break
            except (NoPlacement, NoStateStore):
                raise
            except (ActorError, ComponentError):
                # No host for the moment, the owner has changed, or the store does not answer: the next call finds it.
                await self._pause(pause_s)
                pause_s = min(pause_s * 2, PAUSE_S)

    async def _watch(self, instance_id: str, enough: Callable[[Status], bool]) -> bool:
        """Wait here while the instance is driven here: no stream, no messages. False when it never was."""
        engine = self.engine
        here = False
        while (status := engine.status(instance_id)) is not None and not enough(status):
            here = True
            change = engine.watchers.watch(instance_id)
            try:
                await change
            finally:
                engine.watchers.unwatch(instance_id, change)
        return here or status is not None

    async def _pause(self, pause_s: float) -> None:
        """Wait for a while, or for a worker to connect here."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting_for_workers.append(future)
        try:
            async with asyncio.timeout(pause_s):
                await future
        except TimeoutError:
            pass
        finally:
            if future in self._waiting_for_workers:
                self._waiting_for_workers.remove(future)

    async def raise_event(self, instance_id: str, name: str, input: str | None = None) -> None:
        # Strictly increasing, so that two events of one name are never taken for one (3.6).
        self._last_event_ns = now_ns = max(self._surroundings.now_ns(), self._last_event_ns + 1)
        await self._add("add_event", instance_id, history.event_raised(now_ns, name, input))

    async def suspend(self, instance_id: str, reason: str | None = None, *, wait: bool = False) -> None:
        await self._add("add_event", instance_id, history.suspended(self._surroundings.now_ns(), reason))
        if wait:
            await self._wait(instance_id, lambda status: status is Status.SUSPENDED or status.terminal)

    async def resume(self, instance_id: str, reason: str | None = None, *, wait: bool = False) -> None:
        await self._add("add_event", instance_id, history.resumed(self._surroundings.now_ns(), reason))
        if wait:
            await self._wait(instance_id, lambda status: status is Status.RUNNING or status.terminal)

    async def terminate(
        self, instance_id: str, output: str | None = None, *, recursive: bool = True, wait: bool = False
    ) -> None:
        told = history.terminated(self._surroundings.now_ns(), output, recursive=recursive)
        await self._add("add_event", instance_id, told)
        if wait:
            await self.wait_completion(instance_id)

    async def purge(self, instance_id: str, *, recursive: bool = True, force: bool = False) -> int:
        headers = [(FORCE, b"true")] if force else []
        if not recursive:
            await self._patiently("purge_workflow", lambda: self._call(instance_id, PURGE, b"", headers))
            return 1
        body = await self._patiently("purge_workflow", lambda: self._call(instance_id, PURGE_TREE, b"", headers))
        return m.PurgeInstancesResponse.FromString(body).deletedInstanceCount

    async def rerun(self, order: Rerun) -> str:
        new_id = order.new_id or self._surroundings.new_id()
        if new_id == order.source_id:
            raise RerunRefused("the new instance needs an ID of its own")
        request = m.RerunWorkflowFromEventRequest(
            sourceInstanceID=order.source_id, eventID=order.event_id, newInstanceID=new_id,
            input=history.text(order.input), overwriteInput=order.overwrite_input,
            newChildWorkflowInstanceID=order.new_child_id,
        )  # fmt: skip
        await self._patiently("rerun_workflow", lambda: self._call(order.source_id, FORK, request.SerializeToString()))
        return new_id

    async def list_ids(self, *, token: str = "", page_size: int = 0) -> tuple[list[str], str]:
        return await self.engine.rows.list_ids(token, page_size)

    async def history(self, instance_id: str) -> list[bytes] | None:
        instance = await self.engine.read(instance_id)
        return None if instance is None else list(instance.rows())

    async def inspect(self, instance_id: str) -> Inspection | None:
        return await self.mending.inspect(instance_id)

    async def retry_activity(self, instance_id: str, task_id: int) -> None:
        await self.mending.retry(instance_id, task_id)

    async def retry_turn(self, instance_id: str) -> None:
        await self.mending.retry(instance_id, None)

    async def skip_activity(self, instance_id: str, task_id: int, result: str | None = None) -> None:
        await self.mending.skip(instance_id, task_id, result)

    # --- the way to the owner ---

    async def _add(self, operation: str, instance_id: str, event: Event) -> None:
        body = event.SerializeToString()
        await self._patiently(operation, lambda: self._call(instance_id, "AddWorkflowEvent", body))

    async def _call(
        self, instance_id: str, method: str, body: bytes, headers: list[tuple[bytes, bytes]] | None = None
    ) -> bytes:
        call = ActorCall(
            self.engine.workflow_type, instance_id, method, body=body,
            headers=[*self.engine.calls.caller(), *(headers or ())], content_type=PROTOBUF, verb="",
        )  # fmt: skip
        try:
            return (await self._surroundings.actors.invoke(call)).body
        except RemoteFailure as error:
            raise from_remote(error) from error

    async def _patiently(self, operation: str, attempt: Callable[[], Awaitable[bytes]]) -> bytes:
        """Try until somebody takes it: while no worker is connected anywhere, and while instances move (3.1)."""
        pause_s = FIRST_PAUSE_S
        clock, meter = self._surroundings.clock, self._surroundings.meter
        if self._surroundings.store() is None:
            raise NoStateStore("the state store is not configured to use the actor runtime")
        begun = clock.monotonic()
        while True:
            try:
                reply = await attempt()
            except ActorError as error:
                if not error.retryable:
                    meter.operation(operation, "failed", (clock.monotonic() - begun) * 1000)
                    raise
            else:
                meter.operation(operation, "success", (clock.monotonic() - begun) * 1000)
                return reply
            await self._pause(pause_s)
            pause_s = min(pause_s * 2, PAUSE_S)

    async def close(self) -> None:
        if self._lingering is not None:
            self._lingering.cancel()
        if self._hosting:
            self._hosting = False
            self._surroundings.actors.host(HOST_NAME, ())
        await self.builtin.close()
        await self.engine.close()

    def __repr__(self) -> str:
        return f"<Hub {self.engine!r}>"
