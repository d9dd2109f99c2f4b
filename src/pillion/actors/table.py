"""A table of placement: who hosts which actor types, as of one version.

Knows: rings and what differs between two tables. Never knows: rounds, streams.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pillion.actors.ring import REPLICAS, Ring, is_local
from pillion.kinds.actors import Owner

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pillion.wire.messages.placement import PlacementTables

MOST_TYPES, MOST_HOSTS = 100_000, 20_000
"""Bounds on one table: what a faulty server may make us keep."""


class BadTable(ValueError):
    """A table beyond all measure."""


@dataclass(frozen=True, slots=True)
class Table:
    """The rings of all types."""

    version: int = 0
    replicas: int = REPLICAS
    rings: Mapping[str, Ring[Owner]] = field(default_factory=dict)

    def changed(self, to: Table) -> frozenset[str]:
        """Return the types whose owners may differ between this table and `to`: added, removed, other members."""
        types = self.rings.keys() | to.rings.keys()
        return frozenset(name for name in types if self.rings.get(name) != to.rings.get(name))

    def __repr__(self) -> str:
        return f"<Table {self.version}: {len(self.rings)} types>"


@dataclass(frozen=True, slots=True)
class Reader:
    """Reads tables as they come over the wire, for the host `own` (`ip:port`) in `namespace`."""

    own: str
    namespace: str

    def read(self, tables: PlacementTables, version: int, before: Table | None = None) -> Table:
        """Return the table; rings that are as they were `before` are taken from there. Raises `BadTable`.

        The members are read from `load_map`: the ring itself is never on the wire.
        """
        if len(tables.entries) > MOST_TYPES:
            raise BadTable(f"a table of {len(tables.entries)} types")
        replicas = tables.replication_factor or REPLICAS
        known = {} if before is None else before.rings
        rings: dict[str, Ring[Owner]] = {}
        same: dict[frozenset[tuple[str, str]], Ring[Owner]] = {}  # most types have the same hosts
        for name, entry in tables.entries.items():
            if len(entry.load_map) > MOST_HOSTS:
                raise BadTable(f"{len(entry.load_map)} hosts of type {name!r}")
            members = frozenset((host.name or key, host.id) for key, host in entry.load_map.items())
            ring = same.get(members)
            if ring is None:
                ring = same[members] = self._ring(members, replicas, known.get(name))
            rings[name] = ring
        return Table(version, replicas, rings)

    def _ring(self, members: Iterable[tuple[str, str]], replicas: int, before: Ring[Owner] | None) -> Ring[Owner]:
        owners = {name: Owner(name, app, self.namespace, is_local(name, self.own)) for name, app in members}
        if before is not None and before.replicas == replicas and before.members == owners:
            return before
        try:
            return Ring(owners, replicas)
        except ValueError as error:
            raise BadTable(str(error)) from error
