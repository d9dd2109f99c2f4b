"""What outlives the hosts of a simulated world: a state store and the storage of a scheduler.

Each host sees the same rows through a disk that is slow and fails; an operation takes effect at one moment in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from pillion.components.memory import MemoryState, MemoryStateSettings
from pillion.kinds.component import Context
from pillion.testing.memory_jobs import MemoryJobStore
from pillion.testing.simulation import EPOCH

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping, Sequence

    from pillion.kinds.state import Found, Get, Operation
    from pillion.testing.memory_jobs import Jobs
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


class Rows(MemoryState):
    """The rows that all hosts share. `judges` look at every transaction that was applied: the keys, and the rows before
    and after; they tell what must not be with `AssertionError`.
    """

    def __init__(self, world: World) -> None:
        super().__init__(MemoryStateSettings(), Context("sim", "sim", "", ""), WorldClock(world))
        self.judges: list[Callable[[dict[str, bytes | None], Callable[[str], bytes | None]], None]] = []

    def value(self, key: str) -> bytes | None:
        row = self._rows.get(key)
        return None if row is None else row.value

    def keys(self) -> list[str]:
        return list(self._rows)

    async def transact_versions(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> list[str | None]:
        before = {operation.key: self.value(operation.key) for operation in operations}
        versions = await super().transact_versions(operations, metadata)
        for judge in self.judges:
            judge(before, self.value)
        return versions


class SimulatedState:
    """A transactional store as one host sees it."""

    max_operations = 0
    features = MemoryState.features

    def __init__(self, shared: Rows, disk: Disk, host: Host) -> None:
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


class SimulatedJobs:
    """A scheduler's storage as one host sees it."""

    def __init__(self, jobs: Jobs, disk: Disk, host: Host) -> None:
        self._inner, self._disk, self._host = MemoryJobStore(jobs), disk, host

    def changed(self, tell: Callable[[Sequence[str]], None]) -> None:
        world, host = self._host.world, self._host

        def later(keys: Sequence[str]) -> None:
            world.later(world.random.uniform(0, 0.01), lambda: host.call(tell, keys) if host.alive else None)

        self._inner.changed(later)

    def __getattr__(self, name: str) -> Any:
        act = getattr(self._inner, name)

        async def do(*arguments: Any, **named: Any) -> Any:
            work = act(*arguments, **named)
            try:
                return await self._disk.do(self._host, lambda: at_once(work))
            finally:
                work.close()

        return do
