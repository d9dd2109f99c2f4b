"""Configuration stores: named texts that operators change while applications run (spec `components.md` 6)."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pillion.kinds.component import Component
from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_ITEMS = 100_000
"""Items that one answer, or one subscription to everything, may hold; more is an error."""


@record
class Item:
    """One value. `version` is empty where the store has none. A removed key is told as an item without value."""

    value: str = ""
    version: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)


class Watcher(Protocol):
    """Who wants to know of changes. Both methods are called on the loop, do not block and do not raise."""

    def changed(self, items: Mapping[str, Item]) -> None:
        """These keys have these items now. Of several quick changes of one key only the last may be told."""
        ...

    def lost(self) -> None:
        """The store is closing: nothing more will be told."""
        ...


class Watch(Protocol):
    """One subscription, as its store sees it."""

    async def close(self) -> None:
        """Tell no more; raises `ComponentError` when the store could not be told so. May be called twice."""
        ...


@runtime_checkable
class ConfigurationStore(Component, Protocol):
    """Keys and their items. An empty list of keys means all of them."""

    async def get(self, keys: Sequence[str], metadata: Mapping[str, str]) -> dict[str, Item]:
        """Return the items of `keys` that exist; raises `ComponentError`."""
        ...

    async def subscribe(self, keys: Sequence[str], metadata: Mapping[str, str], watcher: Watcher) -> Watch:
        """Tell `watcher` of every change made after this returned, across outages of the store too.

        Raises `ComponentError` and has no effect then, nor when it is cancelled.
        """
        ...
