"""The consistent hash that says which host an actor lives on (spec `actors-workflows-jobs.md` 1.3).

Knows: the hash, virtual nodes, who owns an id. Never knows: how hosts come and go. Every sidecar, ours or the
reference's, must find the same owner in equal tables, so this is kept bit for bit.
"""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping

H = TypeVar("H")
REPLICAS = 100
"""Virtual nodes of a host where a table says nothing else."""
MOST_POINTS = 4_000_000
"""Virtual nodes of one ring: a table that asks for more is not a table."""
_LOOPBACK = frozenset(("localhost", "127.0.0.1", "::1", "[::1]"))


def hash64(text: str) -> int:
    """Return the first eight bytes of unkeyed BLAKE2b-512, little-endian.

    The digest is computed at its full length: BLAKE2b of another length is another hash (RFC 7693 2.5).
    """
    return int.from_bytes(blake2b(text.encode("utf-8", "surrogatepass")).digest()[:8], "little")


@lru_cache(maxsize=2048)
def points(host: str, replicas: int) -> tuple[int, ...]:
    """Return the virtual nodes of a host. Remembered: most hosts of a new table were in the last one."""
    return tuple([hash64(f"{host}{number}") for number in range(replicas)])


class Ring(Generic[H]):
    """The hosts of one actor type: name to whatever stands for the host. Never changes.

    Raises `ValueError` when there would be more than `MOST_POINTS` virtual nodes.
    """

    __slots__ = ("_hosts", "_points", "members", "replicas")

    def __init__(self, members: Mapping[str, H], replicas: int = REPLICAS) -> None:
        if replicas < 1 or replicas * len(members) > MOST_POINTS:
            raise ValueError(f"{len(members)} hosts with {replicas} virtual nodes each make no ring")
        self.members = dict(members)
        self.replicas = replicas
        places: dict[int, H] = {}
        for name in sorted(members):  # two hosts on one point: the same one wins everywhere
            places.update(dict.fromkeys(points(name, replicas), members[name]))
        self._points = sorted(places)
        self._hosts = [places[point] for point in self._points]

    def owner(self, actor_id: str) -> H | None:
        """Return the host whose virtual node is the first at or behind the id's hash; None in an empty ring.

        The key is the id alone: the type has chosen the ring.
        """
        hosts = self._hosts
        if not hosts:
            return None
        at = bisect_left(self._points, hash64(actor_id))
        return hosts[at if at < len(hosts) else 0]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Ring):
            return NotImplemented
        return self.replicas == other.replicas and self.members == other.members

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<Ring of {sorted(self.members)}>"


def is_local(name: str, own: str) -> bool:
    """Whether the host `name` is this one, whose name is `own`: equal, or the same port of the same loopback."""
    if name == own:
        return True
    host, _, port = name.rpartition(":")
    own_host, _, own_port = own.rpartition(":")
    return port == own_port and host in _LOOPBACK and own_host in _LOOPBACK
