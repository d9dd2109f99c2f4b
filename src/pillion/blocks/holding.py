"""Messages that are held back until a time, on behalf of brokers that cannot do so themselves.

A held message is safe when `hold` returns. One task for each broker sleeps until the next message is due, or until
somebody says that there is a new one. Knows: leases, retries, when to look. Never knows: where messages are held, or
envelopes: what is held is what goes to the broker.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from pillion.blocks.broker import described
from pillion.errors import ComponentError
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pillion.blocks.broker import Broker
    from pillion.kinds.holding import HeldMessage, Holding, Leased

log = logging.getLogger("pillion.blocks.holding")

MOST_LEAD_S = 366 * 86_400.0
"""How far ahead a message may be published."""
BATCH = 50
"""Messages leased, and with the broker, at the same time."""
LEASE_S = 30.0
"""How long a message stays with a sidecar that has died."""
PUBLISH_S = 20.0
"""How long a broker may take for one message: well within the lease, or another sidecar would publish it too."""
LOOK_S = 30.0
"""The longest wait without a look: should word of another process's message, or of its death, have been lost."""
FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
"""The pauses before a message, or the holding area, is tried again: each twice the one before."""


class NotHeld(ComponentError):
    """There is no place to hold messages for a broker: the operator must name one."""


class Holdings:
    """The holding areas of one sidecar.

    `brokers` is the live registry. `make` gives a broker's store, None where its component names none and there is no
    default; it may raise `ComponentError`.
    """

    def __init__(self, app: str, brokers: Mapping[str, Broker], make: Callable[[Broker], Holding | None]) -> None:
        self._app = app
        self._brokers = brokers
        self._make = make
        self._keepers: dict[str, _Keeper] = {}
        self._tasks = Tasks("held messages")

    def resume(self) -> None:
        """Go on with what was held before this sidecar started."""
        for name in list(self._brokers):
            self.broker_changed(name)

    def broker_changed(self, name: str) -> None:
        """A component came, or was replaced: what is held for it may be published. What is held for one that has gone
        stays."""
        broker = self._brokers.get(name)
        if broker is None or broker.delays or name in self._keepers:
            return
        try:
            holding = self._make(broker)
        except ComponentError as error:
            log.error("pubsub %r: the holding area cannot be used: %s", name, error)
            return
        if holding is not None and holding.exists:
            self._keep(name, holding)

    async def hold(self, broker: Broker, messages: Sequence[HeldMessage]) -> None:
        """Keep messages until they are due; returns when they are safe. Raises `ComponentError`."""
        keeper = self._keepers.get(broker.name)
        if keeper is None:
            holding = self._make(broker)
            if holding is None:
                raise NotHeld(
                    f"pubsub {broker.name} cannot delay messages: give its component the metadata pillion.holding, "
                    "the path of a SQLite file or a postgres:// address"
                )
            keeper = self._keep(broker.name, holding)
        await keeper.hold(messages)

    def _keep(self, name: str, holding: Holding) -> _Keeper:
        keeper = self._keepers[name] = _Keeper(name, f"{self._app}||{name}", holding, self._brokers)
        self._tasks.keep(keeper.run, name)
        return keeper

    async def close(self) -> None:
        """End; what is being published goes back into its area."""
        await self._tasks.close()
        for keeper in self._keepers.values():
            await keeper.close()
        self._keepers = {}


class _Keeper:
    """One area, and the broker it is for."""

    def __init__(self, name: str, area: str, holding: Holding, brokers: Mapping[str, Broker]) -> None:
        self._name = name
        self._area = area
        self._holding = holding
        self._brokers = brokers
        self._stirred = asyncio.Event()
        self._opening = asyncio.Lock()
        self._is_open = False
        self._next_look = 0.0
        self._failing_s = FIRST_PAUSE_S

    async def hold(self, messages: Sequence[HeldMessage]) -> None:
        await self._open()
        await self._holding.hold(messages)
        if min(message.due for message in messages) < self._next_look:
            self._stirred.set()

    async def _open(self) -> None:
        if self._is_open:
            return
        async with self._opening:
            if not self._is_open:
                await self._holding.open(self._area, self._stirred.set)
                self._is_open = True

    async def close(self) -> None:
        try:
            await self._holding.close()
        except ComponentError as error:
            log.warning("pubsub %r: the holding area could not be left in order: %s", self._name, error)

    async def run(self) -> None:
        """Publish what is due, for as long as the sidecar lives."""
        pause_s = FIRST_PAUSE_S
        while True:
            self._stirred.clear()
            try:
                wait_s = await self._turn()
                pause_s = FIRST_PAUSE_S
            except ComponentError as error:
                log.warning(
                    "pubsub %r: looking after held messages failed, again in %g s: %s", self._name, pause_s, error
                )
                wait_s, pause_s = pause_s, min(pause_s * 2, LONGEST_PAUSE_S)
            if wait_s <= 0:
                continue
            self._next_look = time.time() + wait_s
            try:
                async with asyncio.timeout(wait_s):
                    await self._stirred.wait()
            except TimeoutError:
                continue

    async def _turn(self) -> float:
        """Publish one batch; return for how many seconds there is nothing to do."""
        await self._open()
        self._next_look = float("inf")  # what is added from here on may be missed by this look
        leased, next_s = await self._holding.lease(LEASE_S, BATCH)
        if leased:
            if await self._publish(leased):
                self._failing_s = FIRST_PAUSE_S
                return 0.0
            # The broker takes nothing: the others that are due need not find that out one by one.
            pause_s, self._failing_s = self._failing_s, min(self._failing_s * 2, LONGEST_PAUSE_S)
            return pause_s
        # A millisecond late is never early: timers may fire a little before their time.
        return LOOK_S if next_s is None else min(max(next_s, 0.0) + 0.001, LOOK_S)

    async def _publish(self, leased: Sequence[Leased]) -> bool:
        """Publish all at once, begun in the order of their times; what fails is tried again later. Returns whether the
        broker took anything."""
        errors = await asyncio.gather(*(self._one(one.message) for one in leased))
        done = [one.id for one, error in zip(leased, errors, strict=True) if not error]
        failed = [(one, error) for one, error in zip(leased, errors, strict=True) if error]
        if done:
            await self._holding.done(done)
        if failed:
            first, error = failed[0]
            log.warning(
                "%d of %d held messages could not be published to pubsub %s and are tried again; topic %s: %s",
                len(failed), len(leased), self._name, first.message.topic, error,
            )  # fmt: skip
            pauses = (min(FIRST_PAUSE_S * 2.0 ** min(one.attempts - 1, 10), LONGEST_PAUSE_S) for one, _ in failed)
            await asyncio.gather(
                *(self._holding.again(one.id, pause_s) for (one, _), pause_s in zip(failed, pauses, strict=True))
            )
        return bool(done)

    async def _one(self, message: HeldMessage) -> str:
        """Publish one message; return the error's text, "" when it went well."""
        broker = self._brokers.get(self._name)
        if broker is None:
            return "the component is not loaded"
        try:
            async with asyncio.timeout(PUBLISH_S):
                await broker.publish(message.topic, message.data, message.content_type, message.metadata)
        except (ComponentError, TimeoutError) as error:
            return described(error)
        except Exception as error:
            log.exception("pubsub %r: publishing a held message failed", self._name)
            return described(error)
        return ""
