"""Times that clients and workers name, however far: they are kept, driven and shown."""

from __future__ import annotations

import asyncio
import json

import pytest

from pillion.blocks.workflow import time_text
from pillion.blocks.workflow_admin import event_document
from pillion.wire.messages import taskhub as m
from pillion.workflow.hub import Start
from pillion.workflow.snapshot import Status
from pillion.workflow.surroundings import moment
from workflow_support import WAIT_S, Bench

FAR = (2**40, -(2**40), 253_402_300_800, -62_135_596_801, 2**62)


def test_times_are_written_as_far_as_there_are_words_for_them() -> None:
    assert time_text(None) == time_text(-(2**80)) == time_text(-62_135_596_800 * 10**9) == "0001-01-01T00:00:00Z"
    assert time_text(1_500_000_000) == "1970-01-01T00:00:01.5Z"
    assert time_text(2**80) == "9999-12-31T23:59:59Z"
    assert moment(1.0001) == "1970-01-01T00:00:01.001Z"
    assert moment(-5.0) == "1970-01-01T00:00:00.000Z"
    assert moment(1e30) == "9999-12-31T23:59:59.000Z"


@pytest.mark.parametrize("seconds", FAR)
def test_events_of_histories(seconds: int) -> None:
    event = m.HistoryEvent(eventId=3)
    event.timestamp.seconds = seconds
    event.timerCreated.fireAt.seconds = seconds
    event.timerCreated.name = "far"
    fields = event_document(event.SerializeToString())["fields"]
    assert fields == {"name": "far", "fireAt": time_text(seconds * 10**9)}


@pytest.mark.parametrize("seconds", FAR)
def test_starts_and_timers(seconds: int) -> None:
    """A start, and a timer, of a time that no calendar has: in the past they are due, in the future they wait."""

    async def main() -> None:
        bench = Bench({}, {})
        stream = bench.hub.attach()
        await bench.hub.start(Start("w", "later", start_at=float(seconds)))
        if seconds > 0:
            found = await bench.hub.inspect("later")
            assert found is not None
            assert [wait.kind for wait in found.waiting] == ["start"]
        else:
            assert m.WorkItem.FromString(await stream.next()).workflowRequest.instanceId == "later"
        await bench.hub.start(Start("w", "timed"))
        item = m.WorkItem.FromString(await stream.next())
        answer = m.WorkflowResponse(instanceId="timed", completionToken=item.completionToken)
        answer.actions.add(id=0).createTimer.fireAt.seconds = seconds
        bench.hub.complete_workflow(answer)
        if seconds > 0:
            while bench.hub.engine.status("timed") is not Status.RUNNING:  # noqa: ASYNC110 - nobody announces it
                await asyncio.sleep(0)
            found = await bench.hub.inspect("timed")
            assert found is not None
            assert [wait.kind for wait in found.waiting] == ["timer"]
        else:
            news = m.WorkItem.FromString(await stream.next()).workflowRequest.newEvents
            assert [event.WhichOneof("eventType") for event in news] == ["workflowStarted", "timerFired"]
        for raw in await bench.hub.history("timed") or []:
            json.dumps(event_document(raw))
        await bench.kill()

    async def limited() -> None:
        async with asyncio.timeout(WAIT_S):
            await main()

    asyncio.run(limited())
