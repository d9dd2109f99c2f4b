"""Holding areas: where messages wait that are to be published later, for brokers that cannot hold them back.

An area belongs to one component of one application. Its sidecars share it: each due message is leased to one of them,
which publishes it and then takes it out. Whoever dies with a lease loses it when its time is up, so a message is
published at least once. The store's own clock decides what is due.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


@dataclass(slots=True)
class HeldMessage:
    """One message and when it is to be published, in seconds since 1970."""

    topic: str
    data: bytes
    content_type: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    due: float = 0.0


@dataclass(slots=True)
class Leased:
    """A due message that is ours for a while. `attempts` counts the leases it has had, this one included."""

    id: int
    attempts: int
    message: HeldMessage


class Holding(Protocol):
    """A store of held messages. Every method may raise `ComponentError`."""

    @property
    def exists(self) -> bool:
        """Whether something may be in it already, or come from another sidecar, as far as is known before `open`."""
        ...

    async def open(self, area: str, stirred: Callable[[], None]) -> None:
        """Make what is missing. `stirred` is called on the loop when another process has added to the area."""
        ...

    async def close(self) -> None:
        """Give up the leases and end; works after half an `open`."""
        ...

    async def hold(self, messages: Sequence[HeldMessage]) -> None:
        """Keep all messages or none; returns when they are as durable as the store makes them."""
        ...

    async def lease(self, lease_s: float, limit: int) -> tuple[list[Leased], float | None]:
        """Take up to `limit` due messages, in the order of their times; where there are none, return in how many
        seconds the next one is due (or free again), None when nothing is held.
        """
        ...

    async def done(self, ids: Sequence[int]) -> None:
        """Take published messages out."""
        ...

    async def again(self, id: int, pause_s: float) -> None:
        """Put a message back that could not be published; it is due after `pause_s` seconds."""
        ...
