"""The contract of configuration stores as a test class. Subclass it, say how to make a store and how others write.

    class TestMyStore(ConfigurationKit):
        @contextlib.asynccontextmanager
        async def store(self):
            yield MyStore(MyStore.Settings(...), Context("mine"))      # not yet opened

        def put(self, key, value, version): ...                        # as somebody else would; may block
        def remove(self, key): ...

Needs nothing of pytest but its collecting of classes and functions.
"""

from __future__ import annotations

import asyncio
import uuid
from typing import TYPE_CHECKING

from pillion.kinds.configuration import ConfigurationStore, Item
from pillion.testing.lifecycle import opened

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractAsyncContextManager

PATIENCE_S = 90.0


class Recorder:
    """A `Watcher` that keeps what it is told; `until` waits for it."""

    def __init__(self) -> None:
        self.told: list[dict[str, Item]] = []
        self.is_lost = False
        self._stirred = asyncio.Event()

    def changed(self, items: Mapping[str, Item]) -> None:
        self.told.append(dict(items))
        self._stirred.set()

    def lost(self) -> None:
        self.is_lost = True
        self._stirred.set()

    @property
    def last(self) -> dict[str, Item]:
        """What was told last of each key."""
        return {key: item for items in self.told for key, item in items.items()}

    async def until(self, enough: Callable[[Recorder], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not enough(self):
                self._stirred.clear()
                await self._stirred.wait()

    async def hears(self, key: str, value: str) -> Item:
        """Wait until `value` was told of `key`; return the item."""
        await self.until(lambda recorder: recorder.last.get(key, Item("\0")).value == value)
        return self.last[key]


class ConfigurationKit:
    """What every configuration store must do."""

    def store(self) -> AbstractAsyncContextManager[ConfigurationStore]:
        """Return a context manager that gives a store not yet opened; the kit opens and closes it."""
        raise NotImplementedError

    def put(self, key: str, value: str, version: str) -> None:
        """Write as an operator would, past the store. Versions of a key grow."""
        raise NotImplementedError

    def remove(self, key: str) -> None:
        """Take a key away, all its versions."""
        raise NotImplementedError

    def opened(self) -> AbstractAsyncContextManager[ConfigurationStore]:
        return opened(self.store())

    async def write(self, key: str, value: str, version: str) -> None:
        await asyncio.to_thread(self.put, key, value, version)

    def test_get(self) -> None:
        """Keys that exist come with value and version, others are left out; no keys means all."""

        async def run() -> None:
            one, two, missing = _keys(3)
            async with self.opened() as store:
                await self.write(one, "blue & <green>", "1")
                await self.write(two, "größer", "2")
                assert await store.get([one], {}) == {one: Item("blue & <green>", "1")}
                assert await store.get([missing], {}) == {}
                both = {one: Item("blue & <green>", "1"), two: Item("größer", "2")}
                assert await store.get([one, missing, two], {}) == both
                everything = await store.get([], {})
                assert both.items() <= everything.items()
                await asyncio.to_thread(self.remove, one)
                assert await store.get([one, two], {}) == {two: both[two]}

        asyncio.run(run())

    def test_the_highest_version(self) -> None:
        """A new version takes the place of the old one, 10 that of 9."""

        async def run() -> None:
            [key] = _keys(1)
            async with self.opened() as store:
                await self.write(key, "old", "9")
                await self.write(key, "new", "10")
                assert await store.get([key], {}) == {key: Item("new", "10")}

        asyncio.run(run())

    def test_changes_are_told(self) -> None:
        """Of the keys that were asked for, and of no others; the first value of a key is a change too."""

        async def run() -> None:
            watched, fresh, other = _keys(3)
            recorder = Recorder()
            async with self.opened() as store:
                await self.write(watched, "1", "1")
                watch = await store.subscribe([watched, fresh], {}, recorder)
                await self.write(other, "x", "1")
                await self.write(watched, "2", "2")
                assert await recorder.hears(watched, "2") == Item("2", "2")
                await self.write(fresh, "3", "1")
                assert await recorder.hears(fresh, "3") == Item("3", "1")
                assert set(recorder.last) == {watched, fresh}
                await watch.close()
                await watch.close()

        asyncio.run(run())

    def test_a_watcher_of_everything(self) -> None:
        """No keys: every key's changes, those of keys that did not exist as well."""

        async def run() -> None:
            old, fresh = _keys(2)
            recorder, picky = Recorder(), Recorder()
            async with self.opened() as store:
                await self.write(old, "1", "1")
                await store.subscribe([old], {}, picky)
                await store.subscribe([], {}, recorder)
                await self.write(fresh, "a", "1")
                await recorder.hears(fresh, "a")
                await self.write(old, "2", "2")
                await recorder.hears(old, "2")
                await picky.hears(old, "2")
                assert set(picky.last) == {old}

        asyncio.run(run())

    def test_a_removed_key(self) -> None:
        """Is told as an item without value, and as a change when it comes back."""

        async def run() -> None:
            [key] = _keys(1)
            recorder = Recorder()
            async with self.opened() as store:
                await self.write(key, "here", "1")
                await store.subscribe([key], {}, recorder)
                await asyncio.to_thread(self.remove, key)
                assert await recorder.hears(key, "") == Item()
                await self.write(key, "here", "1")
                assert await recorder.hears(key, "here") == Item("here", "1")

        asyncio.run(run())

    def test_the_last_change_is_told(self) -> None:
        """However quick the changes: the last one arrives, versions never go back."""

        async def run() -> None:
            [key] = _keys(1)
            recorder = Recorder()
            async with self.opened() as store:
                await store.subscribe([key], {}, recorder)
                for version in range(1, 11):
                    await self.write(key, f"value {version}", str(version))
                await recorder.hears(key, "value 10")
                versions = [int(items[key].version) for items in recorder.told]
                assert versions == sorted(set(versions))

        asyncio.run(run())

    def test_watchers_come_and_go(self) -> None:
        """Each is told until it leaves; the others are not disturbed, and a later one finds everything in order."""

        async def run() -> None:
            [key] = _keys(1)
            first, second, third = Recorder(), Recorder(), Recorder()
            async with self.opened() as store:
                leaving = await store.subscribe([key], {}, first)
                staying = await store.subscribe([key], {}, second)
                await self.write(key, "1", "1")
                await asyncio.gather(first.hears(key, "1"), second.hears(key, "1"))
                await leaving.close()
                await self.write(key, "2", "2")
                await second.hears(key, "2")
                await staying.close()
                await self.write(key, "3", "3")
                await store.subscribe([key], {}, third)
                await self.write(key, "4", "4")
                await third.hears(key, "4")
                assert first.last[key].value == "1"
                assert second.last[key].value == "2"

        asyncio.run(run())

    def test_two_stores_hear_the_same(self) -> None:
        """Two components, as in two sidecars."""

        async def run() -> None:
            [key] = _keys(1)
            mine, yours = Recorder(), Recorder()
            async with self.opened() as one, self.opened() as another:
                await one.subscribe([key], {}, mine)
                await another.subscribe([key], {}, yours)
                await self.write(key, "1", "1")
                await asyncio.gather(mine.hears(key, "1"), yours.hears(key, "1"))

        asyncio.run(run())

    def test_close_works_at_any_time(self) -> None:
        """`close` without `open`, and twice after it; it tells the watchers."""

        async def run() -> None:
            [key] = _keys(1)
            async with self.store() as store:
                await store.close()
            recorder = Recorder()
            async with self.store() as store:
                await store.open()
                await store.ping()
                watch = await store.subscribe([key], {}, recorder)
                await store.close()
                assert recorder.is_lost
                await watch.close()
                await store.close()

        asyncio.run(run())


def _keys(count: int) -> list[str]:
    """Names that no other test uses; of characters that every store takes."""
    return [f"kit.{uuid.uuid4().hex}" for _ in range(count)]
