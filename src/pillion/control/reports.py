"""What sidecars report to placement, judged, and the orders that go back to them.

Pure. Knows: the messages of `dapr.proto.placement.v1`, bounds. Never knows: streams, rounds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from pillion.control.rounds import Phase, Row
from pillion.errors import Code
from pillion.kinds.actors import RESERVED
from pillion.net.exchange import RpcError
from pillion.wire.messages import placement as m

if TYPE_CHECKING:
    from pillion.control.rounds import Order

API_LEVEL = 20
MOST_NAME, MOST_TYPES = 512, 10_000
"""Characters of a name, and types of one host: what a report may claim."""
_WORDS = {Phase.LOCK: "lock", Phase.UPDATE: "update", Phase.UNLOCK: "unlock"}


def read_report(message: bytes) -> m.Host:
    """Return a report. Raises `RpcError`."""
    try:
        return m.Host.FromString(message)
    except DecodeError as error:
        raise RpcError(Code.INVALID_ARGUMENT, f"a report that is none: {error}") from error


def row_of(host: m.Host) -> Row:
    """Return the row of the table that a report asks for. Raises `RpcError`."""
    if not host.id or not host.namespace:
        raise RpcError(Code.INVALID_ARGUMENT, "id and namespace must not be empty")
    if host.operation == m.UNKNOWN and host.HasField("version") and host.version:
        raise RpcError(Code.INVALID_ARGUMENT, "an operation must be given with a version")
    if not host.name or max(len(host.name), len(host.id), len(host.namespace)) > MOST_NAME:
        raise RpcError(Code.INVALID_ARGUMENT, "name, id and namespace must have 1 to 512 characters")
    if len(host.entities) > MOST_TYPES or any(len(entity) > MOST_NAME for entity in host.entities):
        raise RpcError(Code.INVALID_ARGUMENT, "too many actor types, or too long ones")
    own = f"{RESERVED}{host.namespace}.{host.id}."
    for entity in host.entities:
        if entity.startswith(RESERVED) and not entity.startswith(own):
            raise RpcError(Code.PERMISSION_DENIED, f"entity {entity!r} belongs to another application")
    return Row(host.name, host.id, tuple(sorted(set(host.entities))))


def write_order(namespace: str, effect: Order, replicas: int) -> bytes:
    """Write an order once for all of its streams. Every order carries its version; UPDATE the table."""
    order = m.PlacementOrder(operation=_WORDS[effect.phase], version=effect.version)
    if effect.phase is Phase.UPDATE:
        tables = order.tables
        tables.version = str(effect.version)
        tables.replication_factor = replicas
        tables.api_level = API_LEVEL
        for row in effect.rows:
            host = m.Host(name=row.name, id=row.app_id, namespace=namespace)
            for entity in row.types:
                tables.entries[entity].load_map[row.name].CopyFrom(host)
    return order.SerializeToString(deterministic=True)
