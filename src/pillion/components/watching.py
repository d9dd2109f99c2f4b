"""The watchers of one configuration store: who watches which keys, what was last seen, and reading again on a hint.

A store's own mechanism (keyspace events, NOTIFY, a watched file) only says that something may have changed:
`heard(key)`, or `heard(None)` after an outage, when anything may have. One task then reads what is watched, compares it
with what was last seen, and tells the difference. So no change is lost in silence, however unreliable the mechanism; of
several quick changes of a key the last one is told. Knows: watchers and comparison. Never knows: how to read,
or how hints come.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.kinds.configuration import Item
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence

    from pillion.kinds.configuration import Watcher

    Read = Callable[[Sequence[str]], Awaitable[dict[str, Item]]]

log = logging.getLogger("pillion.components.configuration")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 5.0
"""Between two attempts to read while the store does not answer."""
REMOVED = Item()


class Seen:
    """What is watched, and its items as they were last seen. Pure."""

    def __init__(self) -> None:
        self._by_key: dict[str, list[Watcher]] = {}
        self._of_all: list[Watcher] = []
        self._items: dict[str, Item] = {}

    @property
    def keys(self) -> list[str] | None:
        """The keys that are watched; an empty list stands for all of them, None for nothing."""
        if self._of_all:
            return []
        return list(self._by_key) or None

    @property
    def watchers(self) -> list[Watcher]:
        """All of them, each once."""
        named = (watcher for same in self._by_key.values() for watcher in same)
        return list({id(watcher): watcher for watcher in (*named, *self._of_all)}.values())

    def watches(self, key: str) -> bool:
        """Whether anybody wants to know of this key."""
        return bool(self._of_all) or key in self._by_key

    def unseen(self, keys: Sequence[str]) -> list[str] | None:
        """Return which of `keys` have to be read before changes can be told; as `keys` does for all and nothing."""
        if self._of_all:
            return None
        if not keys:
            return []
        return [key for key in keys if key not in self._by_key] or None

    def add(self, keys: Sequence[str], watcher: Watcher) -> None:
        for key in keys:
            self._by_key.setdefault(key, []).append(watcher)
        if not keys:
            self._of_all.append(watcher)

    def remove(self, keys: Sequence[str], watcher: Watcher) -> None:
        """Forget a watcher, and what nobody else wants to know."""
        for key in keys:
            same = self._by_key[key]
            same.remove(watcher)
            if not same:
                del self._by_key[key]
                if not self._of_all:
                    self._items.pop(key, None)
        if not keys:
            self._of_all.remove(watcher)
            if not self._of_all:
                self._items = {key: item for key, item in self._items.items() if key in self._by_key}

    def note(self, found: Mapping[str, Item]) -> None:
        """Take items as seen without telling anybody."""
        self._items.update(found)

    def differences(self, found: Mapping[str, Item], among: Iterable[str]) -> list[tuple[Watcher, dict[str, Item]]]:
        """Take in what a reading of the keys `among` found (none: of all keys); return whom to tell what."""
        news: dict[str, Item] = {}
        for key in set(among) or {*found, *self._items}:
            item = found.get(key)
            if item == self._items.get(key):
                continue
            if item is None:
                del self._items[key]
            elif self.watches(key):
                self._items[key] = item
            news[key] = REMOVED if item is None else item
        told: dict[int, tuple[Watcher, dict[str, Item]]] = {}
        for key, item in news.items():
            for watcher in (*self._by_key.get(key, ()), *self._of_all):
                told.setdefault(id(watcher), (watcher, {}))[1][key] = item
        return list(told.values())


class Watching:
    """The driver of `Seen`. `read` gives the items of some keys, or of all for an empty list; raises `ComponentError`.

    `pause_s` is the least time between two readings: it bounds the load that a busy store's hints make.
    """

    def __init__(self, where: str, read: Read, *, pause_s: float = 0.0) -> None:
        self._where = where
        self._read = read
        self._pause_s = pause_s
        self._seen = Seen()
        self._dirty: set[str] = set()
        self._all_dirty = False
        self._reading = asyncio.Lock()
        self._busy = False
        self._tasks = Tasks(where)

    async def add(self, keys: Sequence[str], watcher: Watcher) -> Watched:
        """Watch from now on: changes after the return are told. Hints must be arriving already."""
        async with self._reading:
            unseen = self._seen.unseen(keys)
            if unseen is not None:
                found = await self._read(unseen)
                if not unseen and (watched := self._seen.keys):
                    # Those that are watched already keep their old state: their change is still to be told.
                    found = {key: item for key, item in found.items() if key not in watched}
                self._seen.note(found)
            self._seen.add(keys, watcher)
        return Watched(self._seen, keys, watcher)

    def heard(self, key: str | None) -> None:
        """Something may have changed: one key, or anything."""
        if key is None:
            self._all_dirty = True
        else:
            self._dirty.add(key)
        if not self._busy:
            self._busy = True
            self._tasks.keep(self._look, "reading changes")

    async def _look(self) -> None:
        """Until nothing is dirty. `busy` stays after a surprise: then this is called again."""
        pause_s = FIRST_PAUSE_S
        while self._all_dirty or self._dirty:
            try:
                await self._look_once()
            except ComponentError as error:
                log.warning("%s: changes cannot be read, trying again: %s", self._where, error)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
                continue
            pause_s = FIRST_PAUSE_S
            if self._pause_s:
                await asyncio.sleep(self._pause_s)
        self._busy = False

    async def _look_once(self) -> None:
        async with self._reading:
            everything, some = self._all_dirty, list(self._dirty)
            self._all_dirty = False
            self._dirty.clear()
            keys = self._seen.keys if everything else [key for key in some if self._seen.watches(key)] or None
            if keys is None:
                return
            try:
                found = await self._read(keys)
            except BaseException:
                self._all_dirty = self._all_dirty or everything
                self._dirty.update(some)
                raise
            for watcher, items in self._seen.differences(found, keys):
                try:
                    watcher.changed(items)
                except Exception:
                    log.exception("%s: a watcher could not be told of a change", self._where)

    async def close(self) -> None:
        """Tell every watcher that nothing more will come."""
        await self._tasks.close()
        for watcher in self._seen.watchers:
            watcher.lost()

    def __repr__(self) -> str:
        return f"<Watching of {self._where}, {len(self._seen.watchers)} watchers>"


class Watched:
    """One watcher's place; `leave` gives it back."""

    def __init__(self, seen: Seen, keys: Sequence[str], watcher: Watcher) -> None:
        self._seen: Seen | None = seen
        self._keys, self._watcher = keys, watcher

    def leave(self) -> None:
        seen, self._seen = self._seen, None
        if seen is not None:
            seen.remove(self._keys, self._watcher)


class Channels:
    """The channels that hints come through, each opened for its first user and left by its last."""

    def __init__(self, begin: Callable[[str], Awaitable[None]], end: Callable[[str], None]) -> None:
        """`begin` returns when hints of the channel arrive, and raises `ComponentError`; `end` does not wait."""
        self._begin, self._end = begin, end
        self._users: Counter[str] = Counter()

    @asynccontextmanager
    async def entering(self, names: Sequence[str]) -> AsyncIterator[None]:
        """Enter channels; left again when the body, or entering itself, fails or is cancelled."""
        self._users.update(names)
        try:
            await asyncio.gather(*(self._begin(name) for name in names))
            yield
        except BaseException:
            self.leave(names)
            raise

    def leave(self, names: Sequence[str]) -> None:
        for name in names:
            self._users[name] -= 1
            if self._users[name] <= 0:
                del self._users[name]
                self._end(name)


class Subscription:
    """A `Watch`: a place among the watchers, and the channels it needs."""

    def __init__(self, watched: Watched, channels: Channels | None = None, names: Sequence[str] = ()) -> None:
        self._watched, self._channels, self._names = watched, channels, names

    async def close(self) -> None:
        self._watched.leave()
        channels, self._channels = self._channels, None
        if channels is not None:
            channels.leave(self._names)
