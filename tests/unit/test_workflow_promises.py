"""What clients and workers of other ages meet (spec `actors-workflows-jobs.md` 5, invariants 36 and 38)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pillion.components.memory import MemoryState, MemoryStateSettings
from pillion.kinds.component import Context
from pillion.wire.messages import taskhub as m
from pillion.workflow.hub import Start
from pillion.workflow.snapshot import Status
from workflow_support import Bench, run

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillion.kinds.state import Operation
    from pillion.workflow.streams import Stream

LATER = b"\xb2\x09\x03abc"
"""Field 150, which no message of ours has."""


async def turn_of(stream: Stream) -> tuple[m.WorkflowRequest, m.WorkflowResponse]:
    """The next turn that is offered, and the beginning of an answer."""
    item = m.WorkItem.FromString(await stream.next())
    asked = item.workflowRequest
    return asked, m.WorkflowResponse(instanceId=asked.instanceId, completionToken=item.completionToken)


class Gated(MemoryState):
    """A store whose transactions wait while it is shut."""

    def __init__(self) -> None:
        super().__init__(MemoryStateSettings(), Context(name="store"))
        self.gate = asyncio.Event()
        self.waiting = asyncio.Event()

    async def transact_versions(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> list[str | None]:
        self.waiting.set()
        await self.gate.wait()
        return await super().transact_versions(operations, metadata)


def test_a_look_waits_for_nothing_and_shows_what_is_committed() -> None:
    """Invariant 36: while a worker thinks, and while the store takes its time to write what it said."""

    async def main() -> None:
        store = Gated()
        store.gate.set()
        bench = Bench({}, {}, store=store)
        stream = bench.hub.attach()
        await bench.hub.start(Start("w", "i"))
        _, answer = await turn_of(stream)
        found = await bench.hub.get("i")
        assert found is not None
        assert found.status is Status.PENDING
        store.gate.clear()
        store.waiting.clear()
        answer.actions.add(id=-1).completeWorkflow.workflowStatus = m.ORCHESTRATION_STATUS_COMPLETED
        bench.hub.complete_workflow(answer)
        await store.waiting.wait()
        found = await bench.hub.get("i")
        assert found is not None
        assert found.status is Status.PENDING
        store.gate.set()
        assert (await bench.done("i")).status is Status.COMPLETED
        await bench.kill()

    run(main())


def test_fields_and_capabilities_of_later_versions_are_passed_over() -> None:
    """Invariant 38."""

    async def main() -> None:
        bench = Bench({}, {})
        stream = bench.hub.attach([2, 77])
        await bench.hub.start(Start("w", "i"))
        asked, answer = await turn_of(stream)
        answer.actions.add(id=0).scheduleTask.name = "act"
        answer.actions[0].MergeFromString(LATER)
        answer.actions[0].scheduleTask.MergeFromString(LATER)
        bench.hub.complete_workflow(m.WorkflowResponse.FromString(answer.SerializeToString() + LATER))
        activity = m.WorkItem.FromString(await stream.next())
        done = m.ActivityResponse(instanceId="i", taskId=0, completionToken=activity.completionToken)
        bench.hub.complete_activity(m.ActivityResponse.FromString(done.SerializeToString() + LATER))
        asked, answer = await turn_of(stream)
        assert [event.WhichOneof("eventType") for event in asked.newEvents] == ["workflowStarted", "taskCompleted"]
        answer.actions.add(id=-1).completeWorkflow.workflowStatus = m.ORCHESTRATION_STATUS_COMPLETED
        bench.hub.complete_workflow(answer)
        assert (await bench.done("i")).status is Status.COMPLETED
        await bench.kill()

    run(main())


def test_an_action_of_a_later_version_stalls_and_says_so() -> None:
    """Passed over, its workflow would wait for ever in silence. A worker that does not ask for it lets it go on."""

    async def main() -> None:
        bench = Bench({}, {})
        stream = bench.hub.attach()
        await bench.hub.start(Start("w", "i"))
        _, answer = await turn_of(stream)
        answer.actions.add(id=0).scheduleTask.name = "act"
        answer.actions.add(id=1).MergeFromString(LATER)
        bench.hub.complete_workflow(answer)
        found = await bench.hub.inspect("i")
        while found is None or found.snapshot.status is not Status.STALLED:
            await asyncio.sleep(0)
            found = await bench.hub.inspect("i")
        assert [(wait.kind, "action 1" in wait.error) for wait in found.waiting] == [("stalled", True)]
        assert await bench.kinds("i") == ["executionStalled"]
        stream.close()
        _, answer = await turn_of(bench.hub.attach())
        answer.actions.add(id=-1).completeWorkflow.workflowStatus = m.ORCHESTRATION_STATUS_COMPLETED
        bench.hub.complete_workflow(answer)
        assert (await bench.done("i")).status is Status.COMPLETED
        await bench.kill()

    run(main())
