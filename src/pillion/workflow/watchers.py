"""Who waits for an instance to change. Knows: ids and futures. Never knows: instances."""

from __future__ import annotations

import asyncio


class Watchers:
    """Futures by instance."""

    def __init__(self) -> None:
        self._waiting: dict[str, list[asyncio.Future[None]]] = {}

    def watch(self, instance_id: str) -> asyncio.Future[None]:
        """A future that is done at the next change of the instance; give it to `unwatch` afterwards."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(instance_id, []).append(future)
        return future

    def unwatch(self, instance_id: str, future: asyncio.Future[None]) -> None:
        waiting = self._waiting.get(instance_id)
        if waiting is not None and future in waiting:
            waiting.remove(future)
            if not waiting:
                del self._waiting[instance_id]

    def changed(self, instance_id: str) -> None:
        for future in self._waiting.pop(instance_id, ()):
            if not future.done():
                future.set_result(None)

    def __repr__(self) -> str:
        return f"<Watchers of {len(self._waiting)} instances>"
