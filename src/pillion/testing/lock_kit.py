"""The contract of lock stores as a test class. Subclass it, say how to make a store, and let pytest collect it.

    class TestMyLocks(LockKit):
        @contextlib.asynccontextmanager
        async def store(self):
            yield MyLocks(MyLocks.Settings(...), Context("mine"))      # not yet opened

Needs nothing of pytest but its collecting of classes and functions. Expiry is waited for in real time: a second.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from typing import TYPE_CHECKING

from pillion.kinds.lock import LockStore, Unlocked
from pillion.testing.lifecycle import closes_at_any_time, opened

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

PATIENCE_S = 90.0
LONG_S = 300


async def take(store: LockStore, key: str, owner: str, expiry_s: int = LONG_S) -> None:
    """Ask for a lock until it is granted: there is no event for another's expiry."""
    async with asyncio.timeout(PATIENCE_S):
        while not await store.try_lock(key, owner, expiry_s):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


class LockKit:
    """What every lock store must do."""

    survives: bool = True
    """Locks outlive the component that took them."""

    def store(self) -> AbstractAsyncContextManager[LockStore]:
        """Return a context manager that gives a store not yet opened; the kit opens and closes it."""
        raise NotImplementedError

    def opened(self) -> AbstractAsyncContextManager[LockStore]:
        return opened(self.store())

    def test_one_holder(self) -> None:
        """While a lock is held nobody gets it, its holder neither; other locks are free."""

        async def run() -> None:
            key = _key()
            async with self.opened() as store:
                assert await store.try_lock(key, "me", LONG_S)
                assert not await store.try_lock(key, "you", LONG_S)
                assert not await store.try_lock(key, "me", LONG_S), "no re-entrance"
                assert await store.try_lock(_key(), "you", LONG_S)

        asyncio.run(run())

    def test_unlock(self) -> None:
        """Only the holder gives a lock back; others are told why not, and change nothing."""

        async def run() -> None:
            key = _key()
            async with self.opened() as store:
                assert await store.unlock(key, "me") is Unlocked.LOCK_DOES_NOT_EXIST
                await store.try_lock(key, "me", LONG_S)
                assert await store.unlock(key, "you") is Unlocked.LOCK_BELONGS_TO_OTHERS
                assert await store.unlock(key, "ME") is Unlocked.LOCK_BELONGS_TO_OTHERS
                assert not await store.try_lock(key, "you", LONG_S)
                assert await store.unlock(key, "me") is Unlocked.SUCCESS
                assert await store.unlock(key, "me") is Unlocked.LOCK_DOES_NOT_EXIST
                assert await store.try_lock(key, "you", LONG_S)

        asyncio.run(run())

    def test_expiry(self) -> None:
        """A lock ends with its time, not earlier; its former holder cannot take it from the next one."""

        async def run() -> None:
            key = _key()
            async with self.opened() as store:
                asked = time.time()
                assert await store.try_lock(key, "me", 1)
                await take(store, key, "you")
                assert time.time() - asked > 0.9
                assert await store.unlock(key, "me") is Unlocked.LOCK_BELONGS_TO_OTHERS
                assert await store.unlock(key, "you") is Unlocked.SUCCESS

        asyncio.run(run())

    def test_contention(self) -> None:
        """Of many who ask at once, through two components, one is granted the lock."""

        async def run() -> None:
            key = _key()
            async with self.opened() as one, self.opened() as another:
                asked = [store.try_lock(key, f"owner {n}", LONG_S) for n in range(25) for store in (one, another)]
                assert sorted(await asyncio.gather(*asked)) == [False] * 49 + [True]

        asyncio.run(run())

    def test_locks_exclude(self) -> None:
        """Eight workers add to a number in turns; none overwrites what another wrote."""

        async def run() -> None:
            key, total = _key(), 0
            async with self.opened() as store:

                async def work(owner: str) -> None:
                    nonlocal total
                    for _ in range(3):
                        await take(store, key, owner)
                        seen = total
                        await asyncio.sleep(0)
                        total = seen + 1
                        assert await store.unlock(key, owner) is Unlocked.SUCCESS

                await asyncio.gather(*(work(f"worker {n}") for n in range(8)))
                assert total == 24

        asyncio.run(run())

    def test_odd_names(self) -> None:
        """Keys and owners are texts of any kind."""

        async def run() -> None:
            async with self.opened() as store:
                for text in ("a b", "größe", "'; --", "%_*?[", "x" * 2000, "\n"):
                    key = _key() + text
                    assert await store.try_lock(key, text, LONG_S)
                    assert await store.unlock(key, text + "x") is Unlocked.LOCK_BELONGS_TO_OTHERS
                    assert await store.unlock(key, text) is Unlocked.SUCCESS

        asyncio.run(run())

    def test_locks_outlive_components(self) -> None:
        """A sidecar's end does not give its application's locks away."""

        async def run() -> None:
            key = _key()
            async with self.opened() as store:
                await store.try_lock(key, "me", LONG_S)
            async with self.opened() as store:
                assert await store.try_lock(key, "you", LONG_S) is not self.survives

        asyncio.run(run())

    def test_close_works_at_any_time(self) -> None:
        """`close` without `open`, and twice after it; `ping` answers in between."""
        asyncio.run(closes_at_any_time(self.store))


def _key() -> str:
    return f"lock||kit||{uuid.uuid4().hex}"
