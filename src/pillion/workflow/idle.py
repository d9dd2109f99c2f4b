"""Instances in memory that nothing is done for at present: how many there are, how large, which may go first. Pure."""

from __future__ import annotations

from collections import OrderedDict

OVERHEAD = 2000
"""Bytes that an instance takes besides its history."""


class Idle:
    """Their ids, the one that has rested longest first. `most` and `most_bytes` are what may stay in memory."""

    def __init__(self, most: int, most_bytes: int) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._sizes: OrderedDict[str, int] = OrderedDict()
        self._bytes = 0

    def put(self, instance_id: str, size: int) -> None:
        """It rests from now on; `size` is that of its history."""
        self.take(instance_id)
        self._sizes[instance_id] = size + OVERHEAD
        self._bytes += size + OVERHEAD

    def take(self, instance_id: str) -> None:
        """It is in use, or gone."""
        size = self._sizes.pop(instance_id, None)
        if size is not None:
            self._bytes -= size

    @property
    def surplus(self) -> str | None:
        """One that has to go, None when there is room for all."""
        if len(self._sizes) > self._most or (self._bytes > self._most_bytes and len(self._sizes) > 1):
            return next(iter(self._sizes))
        return None

    def __len__(self) -> int:
        return len(self._sizes)

    def __repr__(self) -> str:
        return f"<Idle {len(self._sizes)}, {self._bytes} bytes>"
