"""What outlives the hosts of a simulated world: a state store and the storage of a scheduler.

Each host sees the same rows through a disk that is slow and fails; an operation takes effect at one moment in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pillion.components.memory import MemoryState, MemoryStateSettings
from pillion.kinds.component import Context
from pillion.testing.simulation import EPOCH

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping, Sequence

    from pillion.kinds.state import Found, Get, Operation
    from pillion.testing.simulation import Disk, Host, World

T = TypeVar("T")


def at_once(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never waits to its end."""
    try:
        work.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    raise AssertionError("it waits")


class WorldClock:
    """The clock of what is on no host."""

    def __init__(self, world: World) -> None:
        self._world = world

    def now(self) -> float:
        return EPOCH + self._world.now

    def monotonic(self) -> float:
        return self._world.now


def rows(world: World) -> MemoryState:
    """Make the rows that all hosts share."""
    return MemoryState(MemoryStateSettings(), Context("sim", "sim", "", ""), WorldClock(world))


class SimulatedState:
    """A transactional store as one host sees it."""

    max_operations = 0
    features = MemoryState.features

    def __init__(self, shared: MemoryState, disk: Disk, host: Host) -> None:
        self.shared, self._disk, self._host = shared, disk, host

    async def _do(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await self._disk.do(self._host, lambda: at_once(work))
        finally:
            work.close()

    async def open(self) -> None:
        pass

    async def ping(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def get(self, request: Get) -> Found:
        return await self._do(self.shared.get(request))

    async def bulk_get(self, requests: Sequence[Get]) -> list[Found]:
        return await self._do(self.shared.bulk_get(requests))

    async def set(self, request: Any) -> None:
        await self._do(self.shared.set(request))

    async def delete(self, request: Any) -> None:
        await self._do(self.shared.delete(request))

    async def transact(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> None:
        await self._do(self.shared.transact(operations, metadata))

    async def transact_versions(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> list[str | None]:
        return await self._do(self.shared.transact_versions(operations, metadata))

    async def keys_like(self, pattern: str, *, token: str = "", limit: int = 0) -> tuple[list[str], str]:
        return await self._do(self.shared.keys_like(pattern, token=token, limit=limit))
