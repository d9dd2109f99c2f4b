"""Work that takes down what runs it, whole sidecars included: it is bounded over restarts, and nothing else is put
aside for it (issue 5: poison work).
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from pillion.kinds.actors import ActorCall, Tick
from pillion.wire.messages import backend, wellknown
from pillion.wire.messages import taskhub as m
from pillion.workflow import history
from pillion.workflow.errands import RUN_REMINDER
from pillion.workflow.faults import InstanceMissing, NothingToMend, NotReady
from pillion.workflow.hub import Start
from pillion.workflow.invocations import AGAIN, AWAIT, EXECUTE, LOSSES, lost_in
from pillion.workflow.losses import MOST_LOSSES, SUSPICIOUS, Lost
from pillion.workflow.snapshot import Status
from workflow_support import Bench

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator

    from pillion.kinds.actors import ActorReply
    from pillion.testing.workflow_worker import Context
    from pillion.workflow.snapshot import Wait
    from pillion.workflow.streams import Stream


def both(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
    return (yield ctx.all([ctx.call_activity("poison"), ctx.call_activity("good")]))


def one(ctx: Context, name: str) -> Generator[Any, Any, Any]:
    return (yield ctx.call_activity(name))


def run(test: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        b = Bench({"both": both, "one": one}, {"poison": lambda _: "fine", "good": lambda _: "good"})
        try:
            async with asyncio.timeout(20):
                await test(b)
        finally:
            await b.kill()

    asyncio.run(main())


async def take(b: Bench, stream: Stream) -> m.ActivityRequest:
    """The next activity that the worker is given; turns are answered."""
    while True:
        item = m.WorkItem.FromString(await stream.next())
        if item.HasField("activityRequest"):
            return item.activityRequest
        b.hub.complete_workflow(b.executor.turn(item.workflowRequest, item.completionToken))


async def answer(b: Bench, asked: m.ActivityRequest) -> None:
    b.hub.complete_activity(await b.executor.activity(asked, ""))


async def waits(b: Bench, instance_id: str) -> dict[int | None, Wait]:
    found = await b.hub.inspect(instance_id)
    assert found is not None
    return {wait.task_id: wait for wait in found.waiting}


async def put_aside(b: Bench, instance_id: str, task_id: int | None = 0) -> Wait:
    while (wait := (await waits(b, instance_id)).get(task_id)) is None or wait.kind != "quarantine":  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    return wait


async def anew(b: Bench, *, gently: bool = False) -> Stream:
    """The sidecar ends and comes again, and a worker with it."""
    await (b.stop() if gently else b.kill())
    b.hub = b.rig.hub()
    stream = b.hub.attach()
    b.rig.jobs.start()
    return stream


async def of_the_sidecar(b: Bench, stream: Stream) -> Stream:
    return await anew(b)


async def of_the_worker(b: Bench, stream: Stream) -> Stream:
    stream.close()
    return b.hub.attach()


async def of_the_worker_before_a_restart(b: Bench, stream: Stream) -> Stream:
    stream.close()
    return await anew(b, gently=True)


@pytest.mark.parametrize(
    ("death", "what"),
    [(of_the_sidecar, "sidecars"), (of_the_worker, "workers"), (of_the_worker_before_a_restart, "workers")],
)
def test_five_deaths_in_all(death: Callable[[Bench, Stream], Awaitable[Stream]], what: str) -> None:
    """What is under way beside the one to blame is under suspicion, too, and cleared: it is tried by itself."""

    async def test(b: Bench) -> None:
        stream = b.hub.attach()
        await b.hub.start(Start("both", "p"))
        await b.hub.start(Start("one", "o", input='"good"'))
        for _ in range(SUSPICIOUS):
            assert sorted([(await take(b, stream)).name for _ in range(3)]) == ["good", "good", "poison"]
            stream = await death(b, stream)
        deaths = SUSPICIOUS
        while deaths < MOST_LOSSES:
            asked = await take(b, stream)
            if asked.name == "good":
                await answer(b, asked)
            else:
                stream = await death(b, stream)
                deaths += 1
        wait = await put_aside(b, "p")
        assert (wait.name, wait.attempts) == ("poison", MOST_LOSSES)
        assert wait.error == f"{MOST_LOSSES} {what} were lost while they ran it"
        b.connect()
        assert (await b.done("o")).output == '"good"'

        await b.restart()
        await put_aside(b, "p")
        await b.hub.retry_activity("p", 0)
        assert (await b.done("p")).output == '["fine", "good"]'
        with pytest.raises(NothingToMend, match="workflow 'p' waits for no activity 0"):
            await b.hub.retry_activity("p", 0)

    run(test)


def test_a_sidecar_that_leaves_in_order_is_no_loss() -> None:
    async def test(b: Bench) -> None:
        stream = b.hub.attach()
        await b.hub.start(Start("one", "o", input='"good"'))
        for _ in range(MOST_LOSSES + 1):
            await take(b, stream)
            assert not (await waits(b, "o"))[0].attempts
            stream = await anew(b, gently=True)
        stream.close(left=True)
        b.connect()
        assert (await b.done("o")).output == '"good"'

    run(test)


def test_a_crash_after_a_quiet_move_is_found_out() -> None:
    """The owner that took over from one that left has written nothing but that it did."""

    async def test(b: Bench) -> None:
        stream = b.hub.attach()
        await b.hub.start(Start("one", "o", input='"good"'))
        await take(b, stream)
        for number in range(1, SUSPICIOUS + 1):
            stream = await anew(b, gently=True)
            await take(b, stream)
            stream = await anew(b)
            await take(b, stream)
            wait = (await waits(b, "o"))[0]
            assert wait.attempts == number
            assert wait.error.endswith("lost while they ran it")

    run(test)


def test_a_turn_that_takes_the_sidecar_down() -> None:
    async def test(b: Bench) -> None:
        stream = b.hub.attach()
        await b.hub.start(Start("one", "t", input='"good"'))
        await b.hub.start(Start("one", "u", input='"good"'))
        for _ in range(MOST_LOSSES):
            while (item := m.WorkItem.FromString(await stream.next())).workflowRequest.instanceId != "t":
                if item.HasField("activityRequest"):
                    await answer(b, item.activityRequest)
                else:
                    b.hub.complete_workflow(b.executor.turn(item.workflowRequest, ""))
            stream = await anew(b)
        wait = await put_aside(b, "t", None)
        assert (wait.name, wait.attempts) == ("one", MOST_LOSSES)
        b.connect()
        await b.restart()
        assert (await b.done("u")).output == '"good"'
        await put_aside(b, "t", None)
        await b.hub.terminate("t", '"enough"')
        found = await b.done("t")
        assert (found.status, found.output) == (Status.TERMINATED, '"enough"')

    run(test)


def test_skipping_ends_the_suspicion() -> None:
    async def test(b: Bench) -> None:
        stream = b.hub.attach()
        await b.hub.start(Start("both", "p"))
        for _ in range(MOST_LOSSES):
            while (asked := await take(b, stream)).name != "poison":
                await answer(b, asked)
            stream.close()
            stream = b.hub.attach()
        await put_aside(b, "p")
        await b.hub.skip_activity("p", 0, '"done"')
        b.connect()
        assert (await b.done("p")).output == '["done", "good"]'
        runner = await b.hub.engine.find("p")
        assert runner is None or not runner.instance.losses

    run(test)


# --- what runs for others --------------------------------------------------------------------------------------------


def invocation(name: str) -> bytes:
    event = history.stamped(1, 0)
    event.taskScheduled.name = name
    event.taskScheduled.taskExecutionId = "x"
    return backend.ActivityInvocation(historyEvent=event).SerializeToString()


async def execute(b: Bench, *headers: tuple[bytes, bytes]) -> ActorReply:
    body = invocation("good")
    return await b.hub.engine.errands.invoke(ActorCall("t", "i::0::1", EXECUTE, body, [AWAIT, *headers]))


def test_who_asks_is_told_of_what_was_lost() -> None:
    async def test(b: Bench) -> None:
        stream = b.hub.attach()
        counting = (LOSSES, b"0")
        assert lost_in(await execute(b, counting, AGAIN)) is Lost.HOST, "nothing is known of it here"
        first = asyncio.ensure_future(execute(b, counting))
        await take(b, stream)
        again = asyncio.ensure_future(execute(b, counting, AGAIN))
        await asyncio.sleep(0)
        stream.close()
        assert lost_in(await first) is Lost.WORKER
        assert lost_in(await again) is Lost.WORKER
        stream = b.hub.attach()
        first = asyncio.ensure_future(execute(b, counting))
        asked = await take(b, stream)
        again = asyncio.ensure_future(execute(b, counting, AGAIN))
        await asyncio.sleep(0)
        await answer(b, asked)
        assert (await first).body == (await again).body != b""
        assert lost_in(await first) is None
        assert (await execute(b, counting, AGAIN)).body, "its result is remembered"

    run(test)


def test_a_host_that_leaves_says_so() -> None:
    async def test(b: Bench) -> None:
        stream = b.hub.attach()
        first = asyncio.ensure_future(execute(b, (LOSSES, b"0")))
        await take(b, stream)
        await b.stop()
        with pytest.raises(NotReady):
            await first

    run(test)


@pytest.mark.parametrize("reminded", [True, False])
def test_for_those_who_do_not_count_the_host_counts(reminded: bool) -> None:
    """A reference sidecar leaves a reminder, an older one of ours waits and expects a result."""

    async def test(b: Bench) -> None:
        errands = b.hub.engine.errands
        stream = b.hub.attach()
        payload = wellknown.Any(value=invocation("good")).SerializeToString()
        asking: asyncio.Future[Any] = (
            asyncio.ensure_future(errands.tick(Tick("t", "i::0::1", RUN_REMINDER, payload=payload)))
            if reminded
            else asyncio.ensure_future(execute(b))
        )
        for _ in range(MOST_LOSSES):
            await take(b, stream)
            stream.close()
            stream = b.hub.attach()
        (wait,) = errands.waits("i::0::1")
        assert (wait.kind, wait.name, wait.task_id, wait.attempts) == ("quarantine", "good", 0, MOST_LOSSES)
        assert wait.error == f"{MOST_LOSSES} workers were lost while they ran it"
        assert not asking.done()
        errands.retry("i::0::1")
        await answer(b, await take(b, stream))
        await asking
        with pytest.raises(InstanceMissing):
            errands.retry("i::0::1")

    run(test)
