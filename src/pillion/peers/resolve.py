"""Whom a call is for, and where its sidecars are.

Knows: the forms of a target (spec `http-api.md` 4.1, `grpc-api.md` 5), which instances were found, which of them are
believed dead. Never knows: connections, what is sent to a target.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.records import record
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from pillion.kinds.names import Resolver

FRESH_S = 20.0
"""How long found addresses are used before they are looked up again."""
DEAD_S = 5.0
"""How long an instance that could not be reached is left alone while there are others."""
EMPTY_TRIES, EMPTY_WAIT_S = 5, 0.1
"""How often, and after how long, a resolver that found nothing is asked again."""
REMEMBERED = 1024
NO_RESOLVER = "name resolver not initialized"


class Place(Enum):
    """Where a target is."""

    HERE = "the application beside this sidecar"
    PEER = "another sidecar"
    URL = "a URL given by the caller"
    ENDPOINT = "an HTTPEndpoint resource"


@record
class Target:
    """A parsed target. `name` is the app id without its namespace, the URL, or the name of the resource."""

    text: str
    place: Place
    name: str
    namespace: str = ""


class BadTarget(ComponentError):
    """The text is no form of a target."""


def parse_target(text: str, app_id: str, namespace: str, endpoints: Container[str]) -> Target:
    """Return whom `text` means to the sidecar `app_id` in `namespace`. Raises `BadTarget`."""
    if not text:
        raise BadTarget("app id is empty")
    if text.startswith(("http://", "https://")):
        return Target(text, Place.URL, text)
    if text in endpoints:
        return Target(text, Place.ENDPOINT, text)
    name, *rest = text.split(".")
    if len(rest) > 1:
        raise BadTarget(f"invalid app id {text}")
    where = rest[0] if rest else namespace
    if not name:
        raise BadTarget("app id is empty")
    if name == app_id and where == namespace:
        return Target(text, Place.HERE, name, where)
    return Target(text, Place.PEER, name, where)


@dataclass(slots=True)
class _Found:
    addresses: tuple[str, ...]
    until: float
    turn: int = 0


@dataclass(slots=True)
class Directory:
    """The instances of other applications, in turn.

    One lookup at a time for each application, shared by all who wait for it. `resolver` None: nothing is found.
    """

    resolver: Resolver | None
    monotonic: Callable[[], float] = time.monotonic
    _found: dict[tuple[str, str], _Found] = field(default_factory=dict)
    _dead: dict[str, float] = field(default_factory=dict)
    _asking: dict[tuple[str, str], asyncio.Task[tuple[str, ...] | Exception]] = field(default_factory=dict)
    _tasks: Tasks = field(default_factory=lambda: Tasks("name resolution"))

    def known(self, name: str, namespace: str) -> str | None:
        """Return what `pick` would, without waiting; None where it has to look up."""
        found = self._found.get((name, namespace))
        if found is None or self.monotonic() >= found.until:
            return None
        return self._next(found)

    async def pick(self, name: str, namespace: str) -> str:
        """Return the address of the next instance that is not believed dead, of any when all are.

        Raises `ComponentError` when there is none.
        """
        return self.known(name, namespace) or self._next(await self._look_up(name, namespace))

    def _next(self, found: _Found) -> str:
        addresses = found.addresses
        count = len(addresses)
        if count == 1:
            return addresses[0]
        dead = self._dead
        for _ in range(count):
            found.turn = (found.turn + 1) % count
            address = addresses[found.turn]
            if address not in dead or self._revived(address):
                return address
        return addresses[found.turn]

    def _revived(self, address: str) -> bool:
        if self.monotonic() < self._dead[address]:
            return False
        del self._dead[address]
        return True

    def others(self, name: str, namespace: str) -> bool:
        """Whether an instance is known that is not believed dead: worth trying at once after a failure."""
        found = self._found.get((name, namespace))
        return found is not None and any(
            address not in self._dead or self._revived(address) for address in found.addresses
        )

    def failed(self, name: str, namespace: str, address: str) -> None:
        """Take note that `address` could not be reached: leave it alone for a while, and look up anew when it was all
        there was.
        """
        if len(self._dead) >= REMEMBERED:
            self._dead.clear()
        self._dead[address] = self.monotonic() + DEAD_S
        if not self.others(name, namespace):
            self._found.pop((name, namespace), None)
        if self.resolver is not None:
            self.resolver.failed(name, namespace, address)

    def alive(self, address: str) -> None:
        """Take note that `address` answered."""
        if self._dead:
            self._dead.pop(address, None)

    async def _look_up(self, name: str, namespace: str) -> _Found:
        key = (name, namespace)
        task = self._asking.get(key)
        if task is None:
            task = self._asking[key] = self._tasks.start(self._ask(name, namespace), f"{name}.{namespace}")
            task.add_done_callback(lambda _: self._asking.pop(key, None))
        addresses = await asyncio.shield(task)
        if isinstance(addresses, Exception):
            raise addresses
        found = self._found.get(key)
        if found is None or found.addresses != addresses or self.monotonic() >= found.until:
            if len(self._found) >= REMEMBERED:
                self._found.clear()
            found = self._found[key] = _Found(addresses, self.monotonic() + FRESH_S)
        return found

    async def _ask(self, name: str, namespace: str) -> tuple[str, ...] | Exception:
        """Ask the resolver; an error is a result, since any number of callers wait for it."""
        if self.resolver is None:
            return ComponentError(NO_RESOLVER)
        try:
            for attempt in range(EMPTY_TRIES):
                if attempt:
                    await asyncio.sleep(EMPTY_WAIT_S)
                addresses = tuple(dict.fromkeys(await self.resolver.resolve(name, namespace)))
                if addresses:
                    return addresses
        except Exception as error:
            return error
        return ComponentError(f"failed to resolve address for '{name}'")

    async def close(self) -> None:
        """Stop looking up."""
        await self._tasks.close()
