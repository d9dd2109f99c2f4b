"""Which partitions are ours at this moment, and the renewal of that.

The database says so, for a time. We count that time from before we asked, by a clock that nobody sets, and stop a part
of it early. An answer that did not reach us may have taken something from us: until the next one nothing is certain.

Knows: the share. Never knows: jobs.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.kinds.jobs import Share

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.clock import Clock
    from pillion.kinds.jobs import JobStore, Member

log = logging.getLogger("pillion.jobs")

MARGIN = 0.9
"""The part of a lease after which we fire no more unless it was renewed: clocks differ in speed."""


class Leases:
    """The share of one member. `changed` is called with the old share and the new one, `renewed` after every try."""

    def __init__(
        self,
        store: JobStore,
        member: Member,
        clock: Clock,
        seconds: float,
        changed: Callable[[Share, Share], None],
        renewed: Callable[[], None],
    ) -> None:
        self.share = Share()
        self.certain = False
        self._store, self._member, self._clock, self._seconds = store, member, clock, seconds
        self._changed, self._renewed = changed, renewed
        self._until = 0.0
        self._look = asyncio.Event()

    @property
    def partitions(self) -> frozenset[int]:
        return self.share.partitions

    @property
    def epochs(self) -> dict[int, int]:
        return self.share.epochs

    def hold(self) -> bool:
        """Tell whether we may fire at this moment. When the lease is over all is dropped: it may be another's."""
        if self._clock.monotonic() < self._until:
            return self.certain
        if self.share.partitions:
            log.warning("the share of the jobs was not renewed in time: others may fire them now")
            self._take(Share(members=self.share.members))
        return False

    def look(self) -> None:
        """Ask the database soon: others have come or gone."""
        self._look.set()

    async def keep(self) -> None:
        """Renew the share for ever."""
        while True:
            try:
                async with asyncio.timeout(self._seconds / 3):
                    await self._look.wait()
            except TimeoutError:
                pass
            self._look.clear()
            try:
                await self.renew()
            except ComponentError as error:
                log.warning("the share of the jobs cannot be renewed, no job is fired: %s", error)
                self.hold()
                self._renewed()

    async def renew(self) -> None:
        """Ask once. Raises `ComponentError`."""
        asked = self._clock.monotonic()
        try:
            async with asyncio.timeout(self._seconds / 2):
                share = await self._store.lease(self._member, self._seconds)
        except TimeoutError as error:
            self.certain = False
            raise ComponentError("no answer in time") from error
        except ComponentError:
            self.certain = False
            raise
        self.certain = True
        self._until = asked + self._seconds * MARGIN
        self._take(share)
        self._renewed()

    def _take(self, share: Share) -> None:
        old, self.share = self.share, share
        if not old.partitions <= share.partitions:
            self._look.set()  # tells the others that what they take from us is not fired here any more
        self._changed(old, share)

    async def leave(self) -> None:
        """Give everything up; what cannot be given up is free when its lease is over."""
        known, self.share, self.certain = bool(self.share.members), Share(), False
        if not known:
            return
        try:
            await self._store.leave(self._member)
        except ComponentError as error:
            log.warning("the partitions are given up by the end of their lease only: %s", error)

    def __repr__(self) -> str:
        return f"<Leases of {self._member.id}: {len(self.partitions)} partitions, {len(self.share.members)} members>"
