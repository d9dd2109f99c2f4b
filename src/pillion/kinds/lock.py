"""Lock stores: who holds a resource, for how long (spec `components.md` 7)."""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol, runtime_checkable

from pillion.kinds.component import Component


class Unlocked(IntEnum):
    """What became of an attempt to give a lock back: the numbers of `UnlockResponse.Status`."""

    SUCCESS = 0
    LOCK_DOES_NOT_EXIST = 1
    LOCK_BELONGS_TO_OTHERS = 2


@runtime_checkable
class LockStore(Component, Protocol):
    """Locks by key. A lock is held by one owner until it is given back or its time is over.

    Owners are texts that applications choose: the same owner asking again while the lock is held is refused like any
    other, and does not prolong it.
    """

    async def try_lock(self, key: str, owner: str, expiry_s: int) -> bool:
        """Take the lock for `expiry_s` seconds, 1 or more; False when it is held. Raises `ComponentError`: it is
        unknown then whether the lock was taken.
        """
        ...

    async def unlock(self, key: str, owner: str) -> Unlocked:
        """Give the lock back, when `owner` holds it; raises `ComponentError`."""
        ...
