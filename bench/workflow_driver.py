"""Runs workflows beside a sidecar: its worker and its client in one process, apart from the engine that is measured.

    python bench/workflow_driver.py sdk|raw PORT NUMBER ACTIVITIES AT_ONCE [NAME]

`sdk`: the official Python SDK. `raw`: the task hub's messages by hand, as cheap as can be; its worker keeps what it was
told of an instance. Prints JSON: seconds, the milliseconds of each workflow from its start to its end, sorted, and how
many activities ran.
NUMBER 0: work, and start nothing, until the input ends.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from typing import Any

from pillion.net.grpc_client import Channel
from pillion.wire.messages import taskhub as m

HUB = "/TaskHubSidecarService/"
STATEFUL_HISTORY = 2


class Raw:
    """A worker whose only workflow runs activities one after the other, and a client."""

    def __init__(self, port: int, activities: int) -> None:
        self.channel = Channel(f"127.0.0.1:{port}")
        self._working = Channel(f"127.0.0.1:{port}", max_receive=1 << 26)
        """Its own: a worker does not queue behind clients that wait."""
        self.activities = activities
        self._done: dict[str, int] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self.marks: list[float] = []
        """When each thousandth activity was answered."""
        self.count = 0
        """Activities run."""

    async def work(self) -> None:
        stream = self._working.stream(f"{HUB}GetWorkItems")
        await stream.send_last(m.GetWorkItemsRequest(capabilities=[STATEFUL_HISTORY]).SerializeToString())
        while (data := await stream.receive()) is not None:
            item = m.WorkItem.FromString(data)
            if item.HasField("workflowRequest"):
                self._answer("CompleteWorkflowTask", self._turn(item.workflowRequest, item.completionToken))
                continue
            activity = item.activityRequest
            answer = m.ActivityResponse(
                instanceId=activity.workflowInstance.instanceId, taskId=activity.taskId,
                completionToken=item.completionToken,
            )  # fmt: skip
            answer.result.value = '"done"'
            self.count += 1
            if self.count % 1000 == 0:
                self.marks.append(time.perf_counter())
            self._answer("CompleteActivityTask", answer)

    def _turn(self, request: m.WorkflowRequest, token: str) -> m.WorkflowResponse:
        past = self._done.pop(request.instanceId, 0) if request.HasField("cachedHistory") else 0
        past += sum(event.HasField("taskCompleted") for event in request.pastEvents)
        done = past + sum(event.HasField("taskCompleted") for event in request.newEvents)
        answer = m.WorkflowResponse(instanceId=request.instanceId, completionToken=token)
        if done < self.activities:
            self._done[request.instanceId] = past  # what is new now will be among the past ones of the next turn
            answer.actions.add(id=done).scheduleTask.name = "act"
        else:
            end = answer.actions.add(id=done).completeWorkflow
            end.workflowStatus = m.ORCHESTRATION_STATUS_COMPLETED
        return answer

    def _answer(self, method: str, message: Any) -> None:
        task = asyncio.ensure_future(self._working.unary(HUB + method, message.SerializeToString()))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def run(self, instance_id: str) -> None:
        start = m.CreateInstanceRequest(instanceId=instance_id, name="chain")
        await self.channel.unary(f"{HUB}StartInstance", start.SerializeToString())
        wait = m.GetInstanceRequest(instanceId=instance_id)
        reply = await self.channel.unary(f"{HUB}WaitForInstanceCompletion", wait.SerializeToString())
        state = m.GetInstanceResponse.FromString(reply.message).workflowState
        if state.workflowStatus != m.ORCHESTRATION_STATUS_COMPLETED:
            raise RuntimeError(str(state))


async def many(run: Any, number: int, at_once: int, name: str) -> dict[str, Any]:
    """Run workflows, so many at once; return how long it took."""
    left = iter(range(number))
    times: list[float] = []

    async def caller() -> None:
        for one in left:
            begin = time.perf_counter()
            await run(f"{name}-{one}")
            times.append((time.perf_counter() - begin) * 1000)

    begin = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(at_once)))
    return {"seconds": time.perf_counter() - begin, "times_ms": sorted(times)}


async def raw(port: int, number: int, activities: int, at_once: int, name: str) -> dict[str, Any]:
    driver = Raw(port, activities)
    async with asyncio.TaskGroup() as group:  # without a worker nothing would end
        working = group.create_task(driver.work())
        if number:
            found = await many(driver.run, number, at_once, name)
        else:
            await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
            found = {}
        working.cancel()
    marks = [later - sooner for sooner, later in zip(driver.marks, driver.marks[1:], strict=False)]
    return found | {"marks": marks, "activities": driver.count}


def sdk(port: int, number: int, activities: int, at_once: int, name: str) -> dict[str, Any]:
    import dapr.ext.workflow as wf
    from dapr.ext.workflow.aio import DaprWorkflowClient

    runtime = wf.WorkflowRuntime(host="127.0.0.1", port=str(port), maximum_concurrent_activity_work_items=at_once)

    ran = itertools.count()

    def act(ctx: Any, given: Any) -> str:
        next(ran)
        return "done"

    def chain(ctx: Any, given: Any) -> Any:
        for _ in range(activities):
            yield ctx.call_activity(act, input=1)

    runtime.register_activity(act)
    runtime.register_workflow(chain)
    runtime.start()

    async def main() -> dict[str, Any]:
        client = DaprWorkflowClient(host="127.0.0.1", port=str(port))

        async def run(instance_id: str) -> None:
            await client.schedule_new_workflow("chain", instance_id=instance_id)
            state = await client.wait_for_workflow_completion(instance_id)
            if state is None or state.runtime_status.name != "COMPLETED":
                raise RuntimeError(str(state))

        return await many(run, number, at_once, name) | {"activities": next(ran)}

    try:
        return asyncio.run(main())
    finally:
        runtime.shutdown()


def main() -> None:
    kind, *numbers = sys.argv[1:6]
    port, number, activities, at_once = map(int, numbers)
    name = sys.argv[6] if len(sys.argv) > 6 else "w"
    if kind == "sdk":
        found = sdk(port, number, activities, at_once, name)
    else:
        import uvloop

        found = uvloop.run(raw(port, number, activities, at_once, name))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
