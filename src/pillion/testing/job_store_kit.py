"""The contract of storage for jobs as a test class. Subclass it, say how to make stores, and let pytest collect it.

    class TestMyJobs(JobStoreKit):
        @contextlib.asynccontextmanager
        async def stores(self):
            yield lambda: MyJobs(...)              # each call: another client of one empty database, not yet opened

Needs nothing of pytest but its collecting of classes and functions. The end of a lease is waited for in real time.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

from pillion.kinds.jobs import (
    PARTITIONS,
    CatchUp,
    Change,
    Constant,
    Drop,
    Job,
    JobKey,
    JobStore,
    Member,
    Share,
    Stored,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

PATIENCE_S = 90.0
LONG_S = 60.0
SHORT_S = 0.3
BEGIN = 1_767_225_600.25
ONE, TWO = Member("one", 1, "127.0.0.1:1"), Member("two", 1, "127.0.0.1:2")


def job(name: str, *, next: float | None = BEGIN, revision: int = 1, app_id: str = "a") -> Stored:
    return Stored(JobKey("ns", name, app_id=app_id), Job(due_time="1s"), revision, BEGIN, None, next, next)


async def until(share: Callable[[], object]) -> None:
    """Wait until something holds of which nobody tells."""
    async with asyncio.timeout(PATIENCE_S):
        while not share():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class JobStoreKit:
    """What every storage of jobs must do."""

    def stores(self) -> AbstractAsyncContextManager[Callable[[], JobStore]]:
        """Return a context manager that gives a maker of stores over one empty database; the kit opens and closes."""
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self, number: int = 1) -> AsyncIterator[list[JobStore]]:
        async with self.stores() as make, AsyncExitStack() as stack:
            stores = []
            for _ in range(number):
                store = make()
                stack.push_async_callback(store.close)
                await store.open()
                stores.append(store)
            yield stores

    def test_rows_come_back(self) -> None:
        """A row comes back as it was put, every field of it."""

        async def run() -> None:
            rows = [
                job("plain"),
                Stored(
                    JobKey("ns", "full ünï", app_id="a", actor_type="T||x", actor_id="i||1"),
                    Job(
                        "@every 1s",
                        "2026-01-01T00:00:00Z",
                        "1h",
                        7,
                        b"\x00\xff" * 100,
                        Constant(0.5, None),
                        "T:w",
                        CatchUp.LAST,
                        2.5,
                    ),
                    2**60 - 1,
                    BEGIN,
                    BEGIN + 3600,
                    BEGIN + 1.000001,
                    BEGIN + 1,
                    3,
                    BEGIN - 1,
                    2,
                    True,
                ),
                replace(job("drop"), job=Job("@daily", failure_policy=Drop()), next=None),
            ]
            async with self.opened() as [store]:
                for row in rows:
                    assert await store.put(5, row, overwrite=False)
                for row in rows:
                    assert await store.get(row.key.text) == row
                assert await store.get("app||ns||a||none") is None

        asyncio.run(run())

    def test_overwrite(self) -> None:
        """Without `overwrite` what is there stays; of many at once for one name, exactly one is taken."""

        async def run() -> None:
            async with self.opened() as [store]:
                first = job("j")
                assert await store.put(1, first, overwrite=False)
                assert not await store.put(1, job("j", revision=2), overwrite=False)
                assert await store.get(first.key.text) == first
                assert await store.put(1, job("j", revision=3), overwrite=True)
                assert await store.get(first.key.text) == job("j", revision=3)
                tries = [store.put(1, job("k", revision=number), overwrite=False) for number in range(20)]
                assert sum(await asyncio.gather(*tries)) == 1

        asyncio.run(run())

    def test_pages_and_removal(self) -> None:
        """A page goes by key from where the last one ended; prefixes touch what begins with them."""

        async def run() -> None:
            async with self.opened() as [store]:
                names = [f"j{number:02}" for number in range(10)] + ["J", "jä", "k_", "k%"]
                await asyncio.gather(*(store.put(1, job(name), overwrite=True) for name in names))
                keys = sorted(job(name).key.text for name in names)
                first = await store.page("app||ns||a||", limit=4)
                rest = await store.page("app||ns||a||", after=first[-1].key.text)
                assert [row.key.text for row in first + rest] == keys
                assert [row.key.name for row in await store.page("app||ns||a||k_")] == ["k_"]
                assert await store.remove([keys[0], keys[1], "app||ns||a||none"]) == 2
                assert await store.remove_prefix("app||ns||a||k_") == 1
                assert [row.key.text for row in await store.page("app||ns||")] == [
                    key for key in keys[2:] if not key.endswith("k_")
                ]
                assert await store.remove([]) == 0

        asyncio.run(run())

    def test_due(self) -> None:
        """What is due comes by time and key, of the asked partitions, without paused rows, page by page."""

        async def run() -> None:
            async with self.opened() as [store]:
                rows = [job(f"j{number}", next=BEGIN + number // 2) for number in range(10)]
                for number, row in enumerate(rows):
                    await store.put(number, row, overwrite=False)
                await store.put(0, replace(job("paused"), paused=True), overwrite=False)
                await store.put(0, job("never", next=None), overwrite=False)
                every = range(PARTITIONS)
                assert await store.due(every, BEGIN + 2.5, 100) == rows[:6]
                assert await store.due([1, 2, 9], BEGIN + 10, 100) == [rows[1], rows[2], rows[9]]
                first = await store.due(every, BEGIN + 10, 3)
                assert first == rows[:3]
                last = first[-1]
                assert last.next is not None
                assert await store.due(every, BEGIN + 10, 100, after=(last.next, last.key.text)) == rows[3:]
                assert await store.due(every, BEGIN - 1, 100) == []

        asyncio.run(run())

    def test_apply(self) -> None:
        """A change is made when the row has its revision and the partition its epoch, else nothing is."""

        async def run() -> None:
            async with self.opened() as [store]:
                share = await store.lease(ONE, LONG_S)
                epochs = share.epochs
                for number, name in enumerate(("a", "b", "c", "d")):
                    await store.put(number, job(name), overwrite=False)
                after = replace(job("a", next=BEGIN + 9), revision=2, count=1, last=BEGIN, attempts=3, paused=True)
                stale = {**epochs, 3: epochs[3] - 1}
                changes = [
                    Change(after.key.text, 1, after),
                    Change(job("b").key.text, 1, None),
                    Change(job("c").key.text, 5, None),
                    Change(job("d").key.text, 1, None),
                    Change(job("none").key.text, 1, None),
                ]
                assert await store.apply(changes, stale) == [True, True, False, False, False]
                assert await store.get(after.key.text) == after
                assert [row.key.name for row in await store.page("app||")] == ["a", "c", "d"]
                assert await store.apply([Change(job("d").key.text, 1, None)], {}) == [True]
                assert await store.apply([], epochs) == []

        asyncio.run(run())

    def test_shares(self) -> None:
        """The first member has everything; a second one gets its half when the first has seen that it is to go."""

        async def run() -> None:
            async with self.opened(2) as [first, second]:
                alone = await first.lease(ONE, LONG_S)
                assert alone.partitions == frozenset(range(PARTITIONS))
                assert alone.members == (ONE,)
                nothing = await second.lease(TWO, LONG_S)
                assert not nothing.partitions
                assert nothing.members == (ONE, TWO)
                half = await first.lease(ONE, LONG_S)
                assert len(half.partitions) == PARTITIONS // 2
                assert not (await second.lease(TWO, LONG_S)).partitions
                again = await first.lease(ONE, LONG_S)
                assert (again.partitions, again.epochs) == (half.partitions, half.epochs)
                other = await second.lease(TWO, LONG_S)
                assert other.partitions == alone.partitions - half.partitions
                assert all(other.epochs[part] > alone.epochs[part] for part in other.partitions)
                assert all(half.epochs[part] == alone.epochs[part] for part in half.partitions)
                await first.leave(ONE)
                assert (await second.lease(TWO, LONG_S)).partitions == alone.partitions

        asyncio.run(run())

    def test_a_lease_lapses(self) -> None:
        """Who does not renew loses everything, and what it still writes under its old epoch is refused."""

        async def run() -> None:
            async with self.opened(2) as [first, second]:
                old = await first.lease(ONE, SHORT_S)
                await first.put(0, job("j"), overwrite=False)
                share = Share()
                async with asyncio.timeout(PATIENCE_S):
                    while len(share.partitions) < PARTITIONS:
                        share = await second.lease(TWO, LONG_S)
                        await asyncio.sleep(0.02)
                assert share.members == (TWO,)
                assert await first.apply([Change(job("j").key.text, 1, None)], old.epochs) == [False]
                assert await second.apply([Change(job("j").key.text, 1, None)], share.epochs) == [True]

        asyncio.run(run())

    def test_another_start_of_a_member_waits(self) -> None:
        """A second process of the same id gets nothing until the lease of the first has lapsed, or it has left."""

        async def run() -> None:
            async with self.opened(2) as [first, second]:
                again = Member("one", 2, ONE.address)
                assert (await first.lease(ONE, LONG_S)).partitions
                assert not (await second.lease(again, LONG_S)).partitions
                await second.leave(again)
                assert len((await first.lease(ONE, LONG_S)).partitions) == PARTITIONS
                await first.leave(ONE)
                assert (await second.lease(again, LONG_S)).members == (again,)

        asyncio.run(run())

    def test_others_are_told(self) -> None:
        """The owner is told of the keys that another process changes, and of members that come."""

        async def run() -> None:
            async with self.opened(2) as [first, second]:
                told: set[str] = set()
                unknown = 0

                def tell(keys: object) -> None:
                    nonlocal unknown
                    assert isinstance(keys, (list, tuple))
                    told.update(keys)
                    unknown += not keys

                first.changed(tell)
                await first.lease(ONE, LONG_S)
                name = job("j").key.text
                await second.put(0, job("j"), overwrite=False)
                await until(lambda: name in told)
                for act in (
                    lambda: second.put(0, job("j", revision=2), overwrite=True),
                    lambda: second.apply([Change(name, 2, job("j", revision=3))], {}),
                    lambda: second.remove([name]),
                ):
                    told.clear()
                    assert await act()
                    await until(lambda: name in told)
                before = unknown
                await second.lease(TWO, LONG_S)
                await until(lambda: unknown > before)

        asyncio.run(run())
