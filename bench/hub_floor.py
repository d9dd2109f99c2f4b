"""The messages of workflows and nothing else: what carrying them costs, beneath any engine.

    python bench/hub_floor.py ours|grpcio PORT

A task hub without engine, store, scheduler or placement: it answers a worker and its clients from memory, on our
transport or on that of grpcio. `bench/run` has a row of it with the Python SDK, whose other rows cannot come below.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pillion.net import listen
from pillion.net.exchange import Method
from pillion.net.h2_server import H2Server
from pillion.wire.messages import taskhub as m

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SERVICE = "TaskHubSidecarService"
STAMP = 1_700_000_000
DONE = m.CompleteTaskResponse().SerializeToString()


@dataclass
class Instance:
    instance_id: str
    new: list[Any]
    done: asyncio.Future[None]
    past: list[Any] = field(default_factory=list)


def event(**kind: Any) -> Any:
    """A history event of this kind."""
    made = m.HistoryEvent(eventId=-1, **kind)
    made.timestamp.seconds = STAMP
    return made


class Hub:
    """Instances of workflows that call activities one after the other."""

    def __init__(self) -> None:
        self._send: Callable[[bytes], object] | None = None
        self._waiting: list[bytes] = []
        self._instances: dict[str, Instance] = {}
        self._token = 0
        self.prompt: dict[str, Callable[[bytes], bytes]] = {
            "StartInstance": self.start, "CompleteActivityTask": self.activity_done,
            "CompleteWorkflowTask": self.turn_done, "CompleteOrchestratorTask": self.turn_done, "Hello": lambda _: b"",
        }  # fmt: skip

    def _offer(self, item: Any) -> None:
        self._token += 1
        item.completionToken = str(self._token)
        (self._send or self._waiting.append)(item.SerializeToString())

    @contextmanager
    def worker(self, send: Callable[[bytes], object]) -> Iterator[None]:
        """Give the items to this worker."""
        self._send = send
        for item in self._waiting:
            send(item)
        self._waiting.clear()
        try:
            yield
        finally:
            self._send = None

    def _turn(self, one: Instance) -> None:
        self._offer(m.WorkItem(
            workflowRequest=m.WorkflowRequest(instanceId=one.instance_id, pastEvents=one.past, newEvents=one.new)
        ))  # fmt: skip

    def start(self, raw: bytes) -> bytes:
        asked = m.CreateInstanceRequest.FromString(raw)
        started = m.ExecutionStartedEvent(name=asked.name, input=asked.input)
        started.workflowInstance.instanceId = asked.instanceId
        begin = [event(workflowStarted=m.WorkflowStartedEvent()), event(executionStarted=started)]
        one = Instance(asked.instanceId, begin, asyncio.get_running_loop().create_future())
        self._instances[one.instance_id] = one
        self._turn(one)
        return m.CreateInstanceResponse(instanceId=one.instance_id).SerializeToString()

    def turn_done(self, raw: bytes) -> bytes:
        answer = m.WorkflowResponse.FromString(raw)
        one = self._instances[answer.instanceId]
        one.past += one.new
        one.new = []
        for action in answer.actions:
            if action.HasField("completeWorkflow"):
                one.done.set_result(None)
                continue
            task = action.scheduleTask
            one.past.append(event(taskScheduled=m.TaskScheduledEvent(name=task.name, input=task.input)))
            one.past[-1].eventId = action.id
            item = m.WorkItem(activityRequest=m.ActivityRequest(name=task.name, taskId=action.id, input=task.input))
            item.activityRequest.workflowInstance.instanceId = one.instance_id
            self._offer(item)
        return DONE

    def activity_done(self, raw: bytes) -> bytes:
        answer = m.ActivityResponse.FromString(raw)
        one = self._instances[answer.instanceId]
        completed = m.TaskCompletedEvent(taskScheduledId=answer.taskId, result=answer.result)
        one.new = [event(workflowStarted=m.WorkflowStartedEvent()), event(taskCompleted=completed)]
        self._turn(one)
        return DONE

    async def wait(self, raw: bytes) -> bytes:
        instance_id = m.GetInstanceRequest.FromString(raw).instanceId
        await self._instances[instance_id].done
        del self._instances[instance_id]
        answer = m.GetInstanceResponse(exists=True)
        answer.workflowState.instanceId = instance_id
        answer.workflowState.workflowStatus = m.ORCHESTRATION_STATUS_COMPLETED
        answer.workflowState.createdTimestamp.seconds = answer.workflowState.lastUpdatedTimestamp.seconds = STAMP
        return answer.SerializeToString()


async def ours(hub: Hub, port: int) -> None:
    async def wait(_: Any, raw: bytes) -> bytes:
        return await hub.wait(raw)

    async def items(call: Any) -> None:
        await call.receive()
        await call.send_headers()
        with hub.worker(call.send_now):
            await asyncio.Event().wait()

    def method(answer: Callable[[bytes], bytes]) -> Method:
        return Method(unary=wait, at_once=lambda _, raw: answer(raw))

    class Service:
        methods = {f"/{SERVICE}/{name}": method(answer) for name, answer in hub.prompt.items()} | {
            f"/{SERVICE}/WaitForInstanceCompletion": Method(unary=wait),
            f"/{SERVICE}/GetWorkItems": Method(streaming=items),
        }

        def find(self, method: str, metadata: Any) -> Method | None:
            return self.methods.get(method)

    await listen.tcp(H2Server(grpc=Service()), ["127.0.0.1"], port)
    await asyncio.Event().wait()


async def grpcio(hub: Hub, port: int) -> None:
    import grpc
    import grpc.aio

    async def wait(raw: bytes, _: Any) -> bytes:
        return await hub.wait(raw)

    async def items(raw: bytes, _: Any) -> Any:
        queue: asyncio.Queue[bytes] = asyncio.Queue()
        with hub.worker(queue.put_nowait):
            while True:
                yield await queue.get()

    def method(answer: Callable[[bytes], bytes]) -> Any:
        async def unary(raw: bytes, _: Any) -> bytes:
            return answer(raw)

        return grpc.unary_unary_rpc_method_handler(unary)

    methods = {name: method(answer) for name, answer in hub.prompt.items()} | {
        "WaitForInstanceCompletion": grpc.unary_unary_rpc_method_handler(wait),
        "GetWorkItems": grpc.unary_stream_rpc_method_handler(items),
    }
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def main() -> None:
    kind, port = sys.argv[1], int(sys.argv[2])
    if kind == "grpcio":
        asyncio.run(grpcio(Hub(), port))
    else:
        import uvloop

        uvloop.run(ours(Hub(), port))


if __name__ == "__main__":
    main()
