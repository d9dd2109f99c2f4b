"""Name resolution: from an app id to the addresses of its sidecars (spec `components.md` 9)."""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pillion.kinds.component import Component
from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@record
class Instance:
    """What a sidecar tells the resolver of itself when it starts. `address` has no port and no brackets."""

    app_id: str
    namespace: str
    address: str
    internal_port: int
    http_port: int = 0
    app_port: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)


@runtime_checkable
class Resolver(Component, Protocol):
    """Registers this sidecar and finds the others.

    `open` connects; `register` announces this instance and keeps it announced until `close`, which takes it back.
    """

    async def register(self, instance: Instance) -> None: ...

    async def resolve(self, app_id: str, namespace: str) -> Sequence[str]:
        """Return `host:port` of every instance believed alive, IPv6 hosts in brackets; the order means nothing.

        Raises `ComponentError` `couldn't find service: <id>` when there is none.
        """
        ...

    def failed(self, app_id: str, namespace: str, address: str) -> None:
        """The caller could not connect to `address`: leave it alone for a while, look it up anew."""
        ...
