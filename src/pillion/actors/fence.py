"""One activation's hold on the state of its actor: a row that it wrote, and that every later write of it must find.

The row is `<app>||T||I||pillion.fence`, JSON with the epoch, the address of the host and the token of the activation.

Why a stale activation cannot write. Every activation takes the fence before it first reads or writes state: it
replaces the row on the condition that nobody replaced it since it was read (ETag, or first-write where there was none).
Every transaction of the activation replaces the row again, on the condition that it is as this activation left it; the
store applies all of a transaction or nothing. So once another activation has taken the fence, no transaction of an
earlier one is applied, however late it arrives, whatever its host believes about time: what it would have to find is
gone for ever, because the row is never deleted and so no ETag of it comes twice. And what the later activation reads
after taking the fence is final.

It remains to say who may take it. The epoch is the version of placement's table when the actor was activated. Our
placement service makes versions that grow across restarts, from the wall clock, all of them at least `COMPARABLE`. An
owner by a later table therefore has the greater epoch, and an activation that finds a greater one than its own refuses
to take: it belongs to the past. With equal epochs the owner is the same host, started anew. A placement service of the
reference counts from small numbers and begins again when it restarts; between such numbers nothing can be said, and the
last one to take the fence wins: there is still only one writer at any time, but one that was paused since before its
first touch may take the fence from a newer one, once, which then gives way and is activated anew.

Knows: the row and the rules. Never knows: stores (`state.py` reads and writes), instances.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import orjson

from pillion.kinds.actors import LostPlace

KEY = "pillion.fence"
COMPARABLE = 1 << 32
"""Epochs from here on are milliseconds since 1970, or come after such."""


@dataclass(frozen=True, slots=True)
class Mark:
    """What the row says."""

    epoch: int
    host: str
    token: str

    def write(self) -> bytes:
        return orjson.dumps({"epoch": self.epoch, "host": self.host, "token": self.token}, option=orjson.OPT_SORT_KEYS)


def read(value: bytes) -> Mark:
    """Read the row. One that nobody of ours has written says nothing, and holds nobody off."""
    try:
        found = orjson.loads(value)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        return Mark(0, "", "")
    epoch, host, token = found.get("epoch"), found.get("host"), found.get("token")
    return Mark(epoch if isinstance(epoch, int) else 0, str(host or ""), str(token or ""))


def admit(mine: Mark, there: Mark) -> None:
    """Raise `LostPlace` when the activation of `mine` must not take the fence from that of `there`."""
    if there.epoch > mine.epoch >= COMPARABLE:
        raise LostPlace(f"the actor was taken over by {there.host}")


class Fence:
    """`etag` is that of the row as this activation left it, "" before it took the fence in `store`. `lock` is held by
    whoever takes it or moves it.
    """

    __slots__ = ("etag", "lock", "mark", "store")

    def __init__(self, mark: Mark, store: object) -> None:
        self.mark = mark
        self.store = store
        self.etag = ""
        self.lock = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<Fence {self.mark} {self.etag or 'not taken'}>"
