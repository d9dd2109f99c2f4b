"""The crash matrix (spec `actors-workflows-jobs.md` 3.12): the process ends before, and after, each single call of the
state store and of the scheduler, a new one begins on what is left, and every workflow still comes to its right end.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from pillion.errors import ComponentError
from pillion.testing.workflow_rig import JobsInMemory, Rig
from pillion.workflow.hub import Start
from pillion.workflow.snapshot import Status
from pillion.workflow.surroundings import Bounds
from workflow_support import Bench, memory_store

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from pillion.components.memory import MemoryState
    from pillion.kinds.jobs import Job, JobKey
    from pillion.kinds.state import Found, Get, Operation
    from pillion.testing.workflow_worker import Context

LIMIT_S = 90.0


class Dead(BaseException):
    """The process has ended: nothing that waits for the store goes on."""


class Store:
    """A store in front of one that lives on. The call number `at` kills the process, before or after it is done;
    `failing` calls in a row answer with an error instead, done or not.
    """

    max_operations = 0

    def __init__(self, inner: MemoryState) -> None:
        self.inner = inner
        self.features = inner.features
        self.count = 0
        self.at = -1
        self.after = False
        self.error_only = False
        self.dead: asyncio.Event = asyncio.Event()
        self.stopped = False

    async def _pass(self, call: Any) -> Any:
        if self.stopped:
            await asyncio.Event().wait()
        self.count += 1
        mine = self.count == self.at
        if mine and not self.after:
            await self._end()
        result = await call()
        await asyncio.sleep(0)
        if mine and self.after:
            await self._end()
        return result

    async def _end(self) -> None:
        if self.error_only:
            self.dead.set()
            raise ComponentError("the store does not answer")
        self.stopped = True
        self.dead.set()
        await asyncio.Event().wait()

    async def get(self, request: Get) -> Found:
        found: Found = await self._pass(lambda: self.inner.get(request))
        return found

    async def bulk_get(self, requests: Sequence[Get]) -> list[Found]:
        found: list[Found] = await self._pass(lambda: self.inner.bulk_get(requests))
        return found

    async def transact(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> None:
        await self._pass(lambda: self.inner.transact(operations, metadata))

    async def set(self, request: Any) -> None:
        await self._pass(lambda: self.inner.set(request))

    async def delete(self, request: Any) -> None:
        await self._pass(lambda: self.inner.delete(request))

    async def open(self) -> None: ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...


class Jobs(JobsInMemory):
    """A scheduler whose calls are counted, and end the process, with those of the store."""

    store: Store

    async def schedule(self, key: JobKey, job: Job, *, overwrite: bool = False) -> None:
        await self.store._pass(lambda: super(Jobs, self).schedule(key, job, overwrite=overwrite))

    async def delete(self, key: JobKey) -> None:
        await self.store._pass(lambda: super(Jobs, self).delete(key))


def parent(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
    """Something of everything: activities side by side, a child, a timer, an event, sending, continuing as new."""
    sums = yield ctx.all([ctx.call_activity("add", n) for n in range(3)])
    child = yield ctx.call_child("kid", 5, instance_id="kid")
    yield ctx.sleep(0.01)
    got = yield ctx.wait_for_event("go", timeout_s=600)
    ctx.send_event("ear", "word", got)
    ctx.continue_as_new([sum(sums), child, got])


def renewed(ctx: Context, state: Any) -> Generator[Any, Any, Any]:
    if state is None:
        return (yield from parent(ctx, state))
    last = yield ctx.call_activity("add", state[0])
    return [*state, last]


def kid(ctx: Context, value: int) -> Generator[Any, Any, Any]:
    return (yield ctx.call_activity("add", value))


def ear(ctx: Context, _: Any) -> Generator[Any, Any, Any]:
    return (yield ctx.wait_for_event("word"))


WORKFLOWS = {"parent": renewed, "kid": kid, "ear": ear}
BOUNDS = Bounds(linger_s=0.0, first_wake_s=0.05, slow_turn_s=0.01)


def make(store: Store) -> Bench:
    rig = Rig(store, bounds=BOUNDS)
    rig.jobs = Jobs(rig.clock)
    rig.jobs.store = store
    b = Bench(WORKFLOWS, {"add": lambda n: n + 1}, rig=rig)
    b.connect()
    return b


async def patiently(b: Bench, call: Any) -> None:
    """A client that tries again until it hears that it was done, as clients do when a sidecar goes away."""
    from pillion.workflow.faults import InstanceActive

    while True:
        try:
            await call()
            return
        except InstanceActive:
            return
        except ComponentError:
            await asyncio.sleep(0.005)


async def scenario(store: Store) -> int:
    """Run the whole of it, restarting when the store has killed the process; return the number of store calls."""
    b = make(store)
    try:
        async with asyncio.timeout(LIMIT_S):
            steps = [
                lambda: b.hub.start(Start("ear", "ear")),
                lambda: b.hub.start(Start("parent", "p")),
                lambda: b.hub.engine.add("p", raised()),
            ]
            for step in steps:
                await guarded(b, store, lambda step=step: patiently(b, step))
            for instance_id, output in (("p", '[6, 6, "now", 7]'), ("kid", "6"), ("ear", '"now"')):
                done = await guarded(b, store, lambda i=instance_id: b.done(i))
                assert (done.status, done.output) == (Status.COMPLETED, output), instance_id
            await guarded(b, store, lambda: no_jobs(b))
            total, store.at = store.count, -1
            kinds = await b.kinds("p")
            assert kinds.count("executionCompleted") == 1
            return total
    finally:
        await b.kill()


def raised() -> Any:
    from pillion.workflow import history

    return history.event_raised(77, "go", '"now"')


async def no_jobs(b: Bench) -> None:
    """After completion no job is left; the next wake sees to what a crash left behind."""
    while b.rig.jobs.jobs:  # noqa: ASYNC110 - the jobs tell nobody
        await asyncio.sleep(0.005)


async def guarded(b: Bench, store: Store, work: Any) -> Any:
    """Do it; when the process dies meanwhile, begin a new one on what is left and do it there."""
    while True:
        task = asyncio.ensure_future(work())
        death = asyncio.ensure_future(store.dead.wait())
        await asyncio.wait([task, death], return_when=asyncio.FIRST_COMPLETED)
        death.cancel()
        if not store.dead.is_set() or store.error_only:
            return await task
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await b.kill()
        store.dead = asyncio.Event()
        store.stopped = False
        b.hub = b.rig.hub()
        b.rig.jobs.start()
        b.connect()


def calls() -> int:
    async def count() -> int:
        return await scenario(Store(memory_store()))

    return asyncio.run(count())


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_the_process_may_end_at_every_call_of_the_store(after: bool) -> None:
    async def run(at: int) -> None:
        store = Store(memory_store())
        store.at, store.after = at, after
        await scenario(store)

    total = calls()
    assert total > 20
    for at in range(1, total + 1):
        try:
            asyncio.run(run(at))
        except BaseException as error:
            raise AssertionError(f"the process ended {'after' if after else 'before'} call {at}") from error


@pytest.mark.parametrize("after", [False, True], ids=["lost", "answer lost"])
def test_the_store_may_fail_at_every_call(after: bool) -> None:
    """An answer that is lost is not a write that is lost: the engine finds out which it was."""

    async def run(at: int) -> None:
        store = Store(memory_store())
        store.at, store.after, store.error_only = at, after, True
        await scenario(store)

    for at in range(1, calls() + 1):
        try:
            asyncio.run(run(at))
        except BaseException as error:
            raise AssertionError(f"the store failed at call {at}") from error
