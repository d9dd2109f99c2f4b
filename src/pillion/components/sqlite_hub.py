"""What all `pubsub.sqlite` components of one process and loop share for one file: the engine, the doorbell, the owner's
name under which leases are held, the watch over owners that died, and the housekeeping.

Knows: when to look. Never knows: handlers; what is in the tables is `sqlite_queue`'s.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
import zlib
from functools import partial
from typing import TYPE_CHECKING, Protocol

from pillion.components import sqlite_queue as queue
from pillion.components.doorbell import MAX_RING, Doorbell
from pillion.components.sqlite_engine import Engine, Location, open_engine
from pillion.errors import ComponentError
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger("pillion.components.sqlite_broker")

SWEEP_S = 5.0
"""The pause between two looks for dead owners. A ring that meets a dead process brings the look forward."""
HOUSEKEEPING_S = 600.0


class Member(Protocol):
    """A subscription, as the hub sees it."""

    topic: str
    group: int

    def wake(self) -> None: ...

    def holds(self) -> bool: ...

    def let_go(self) -> None: ...


class Hub:
    """Made by `enter`, given back by `leave`."""

    def __init__(self, key: tuple[Location, asyncio.AbstractEventLoop], engine: Engine, lease_s: float) -> None:
        self._key = key
        self._users = 0
        self.engine = engine
        self.owner = secrets.token_hex(8)
        self.lease_s = lease_s
        self.retention_s = 0.0
        self.group_retention_s = 0.0
        self._renewed = 0.0
        self._members: dict[int, list[Member]] = {}
        self._rung: set[int] = set()
        self._dead: set[str] = set()
        self._look_now = asyncio.Event()
        self._tasks = Tasks(f"pubsub.sqlite {self.owner}")
        self._doorbell: Doorbell | None = None

    async def open(self) -> None:
        await self.engine.write(queue.create)
        where = self._key[0]
        if not where.memory:
            path = where.path
            bell = Doorbell(path, self.owner, self._heard)
            try:
                await bell.open()
            except OSError as error:
                bell.close()
                log.warning("no doorbell beside %s (%s): other processes are noticed with delay", path, error)
            else:
                self._doorbell = bell
        self._tasks.keep(self._watch, "watch")

    async def close(self) -> None:
        await self._tasks.close()
        if self._doorbell is not None:
            self._doorbell.close()
            self._doorbell = None
        try:
            await self.engine.write(partial(queue.bury_owner, owner=self.owner, now=time.time(), only_if_silent=False))
        except ComponentError as error:
            log.warning("could not sign off: %s", error)
        await self.engine.close()

    # --- who wants to know of a topic ---

    def add(self, member: Member) -> None:
        self._members.setdefault(_mark(member.topic), []).append(member)

    def remove(self, member: Member) -> None:
        same = self._members.get(_mark(member.topic), [])
        if member in same:
            same.remove(member)
            if not same:
                del self._members[_mark(member.topic)]

    def ring(self, topic: str) -> None:
        """Say, here and to other processes, that a topic has something new. Rings of one loop turn go out together."""
        if not self._rung:
            self._key[1].call_soon(self._ring_out)
        self._rung.add(_mark(topic))

    def _ring_out(self) -> None:
        marks = list(self._rung)
        self._rung.clear()
        self._wake(marks)
        if self._doorbell is None:
            return
        step = MAX_RING // 4
        for start in range(0, len(marks), step):
            data = b"".join(mark.to_bytes(4, "big") for mark in marks[start : start + step])
            dead = self._doorbell.ring(data)
            if dead:
                self._dead.update(dead)
                self._look_now.set()

    def _heard(self, data: bytes) -> None:
        self._wake(int.from_bytes(data[at : at + 4], "big") for at in range(0, len(data), 4))

    def _wake(self, marks: Iterable[int]) -> None:
        for mark in marks:
            for member in self._members.get(mark, ()):
                member.wake()

    def _everyone(self) -> list[Member]:
        return [member for same in self._members.values() for member in same]

    # --- the owner's life and the others' ---

    def noted(self, now: float) -> float:
        """Return for how long the owner counts as alive from `now` on; whoever asks writes that down."""
        self._renewed = now
        return self.lease_s

    def lost(self) -> None:
        """Others took this process for dead and have what it held: hand no more of that to handlers."""
        held = [member for member in self._everyone() if member.holds()]
        if held:
            log.warning("this process was silent for longer than %g s; its messages went to others", self.lease_s)
        for member in held:
            member.let_go()

    async def _watch(self) -> None:
        housekeeping = 0.0
        while True:
            self._look_now.clear()
            try:
                if time.monotonic() >= housekeeping:
                    more = await self._keep_house()
                    housekeeping = time.monotonic() + (0.0 if more else HOUSEKEEPING_S)
                await self._look()
            except ComponentError as error:
                log.warning("looking after the broker's file failed: %s", error)
            try:
                async with asyncio.timeout(min(SWEEP_S, self.lease_s / 4)):
                    await self._look_now.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        """Renew what this process holds, hand on what dead ones held, and see whether a ring was missed."""
        now = time.time()
        dead = set(self._dead)
        members = self._everyone()
        if now - self._renewed > self.lease_s / 4 and any(member.holds() for member in members):
            renew = partial(queue.renew, owner=self.owner, now=now, lease_s=self.noted(now))
            if await self.engine.write(renew):
                self.lost()
        for owner, until in await self.engine.read(queue.owners):
            if owner == self.owner:
                continue
            alive = False if owner in dead else self._doorbell.alive(owner) if self._doorbell else None
            if alive is False or until <= now:
                bury = partial(queue.bury_owner, owner=owner, now=now, only_if_silent=alive is not False)
                for topic in await self.engine.write(bury):
                    log.info("what a process that ended held of topic %s is delivered again", topic)
                    self.ring(topic)
        self._dead -= dead  # not before: what was not handed on is looked at again
        groups = {member.group: member.topic for member in members}
        stirring = await self.engine.read(partial(queue.stirring, groups=groups, now=now)) if groups else ()
        for member in members:
            if member.group in stirring:
                member.wake()

    async def _keep_house(self) -> bool:
        """Return whether there is more to do."""
        present = [member.group for member in self._everyone()]
        work = partial(
            queue.keep_house,
            present=present,
            now=time.time(),
            retention_s=self.retention_s,
            group_retention_s=self.group_retention_s,
        )
        forgotten, more = await self.engine.write(work)
        for topic, name in forgotten:
            log.warning("consumer group %s of topic %s was absent for too long and is forgotten", name, topic)
        return more

    def __repr__(self) -> str:
        return f"<Hub {self.owner} of {self.engine!r}, {len(self._everyone())} subscriptions>"


def _mark(topic: str) -> int:
    """Four bytes that stand for a topic in a ring; two topics with the same mark wake each other in vain."""
    return zlib.crc32(topic.encode())


_hubs: dict[tuple[Location, asyncio.AbstractEventLoop], Hub] = {}
_opening: dict[asyncio.AbstractEventLoop, asyncio.Lock] = {}


async def enter(location: Location, *, lease_s: float, retention_s: float, group_retention_s: float) -> Hub:
    """Return the hub of a file on this loop, opening it when it is the first. Raises `ComponentError`.

    Where components of one file differ in their settings, the longest time wins (0 is the longest for groups).
    """
    loop = asyncio.get_running_loop()
    key = (location, loop)
    async with _opening.setdefault(loop, asyncio.Lock()):
        hub = _hubs.get(key)
        if hub is None:
            hub = Hub(key, await open_engine(location), lease_s)
            hub.retention_s, hub.group_retention_s = retention_s, group_retention_s
            try:
                await hub.open()
            except BaseException:
                await hub.engine.close()
                raise
            _hubs[key] = hub
        hub._users += 1
        hub.lease_s = max(hub.lease_s, lease_s)
        hub.retention_s = max(hub.retention_s, retention_s)
        both = (hub.group_retention_s, group_retention_s)
        hub.group_retention_s = 0.0 if 0.0 in both else max(both)
        return hub


async def leave(hub: Hub) -> None:
    """Give back one `enter`; the last one closes the hub."""
    loop = asyncio.get_running_loop()
    async with _opening.setdefault(loop, asyncio.Lock()):
        hub._users -= 1
        if hub._users == 0:
            del _hubs[hub._key]
            await hub.close()
    if not any(key[1] is loop for key in _hubs):
        _opening.pop(loop, None)
