"""What the simulator found, or what its readers did, made wrong again."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pillion.actors.placement_link import Beats
from pillion.control import terms
from pillion.jobs.reading import Reading
from simulator.mutations.mutation import Mutation

if TYPE_CHECKING:
    from simulator.mutations.mutation import Patch


def who_stood_still_believes_what_it_hears(patch: Patch) -> None:
    patch.setattr(Beats, "missed", property(lambda self: False))


def a_broken_connection_is_the_end_of_a_host(patch: Patch) -> None:
    patch.setattr(terms.Terms, "broken_hold_s", property(lambda self: 0.0))


def what_is_heard_while_reading_is_lost(patch: Patch) -> None:
    async def reread(self: Any) -> None:
        keys = list(self._stale)[:100]
        rows = await asyncio.gather(*(self._store.get(key) for key in keys), return_exceptions=True)
        for key, row in zip(keys, rows, strict=True):
            if isinstance(row, BaseException):
                raise row
            self._stale.pop(key, None)
            self._found(key, row)

    patch.setattr(Reading, "_reread", reread)


MUTATIONS = (
    Mutation("who stood still believes what it hears", "placing", 85, who_stood_still_believes_what_it_hears),
    Mutation("a broken connection is the end of a host", "counting", 220, a_broken_connection_is_the_end_of_a_host),
    Mutation("what is heard while reading is lost", "ticking", 6, what_is_heard_while_reading_is_lost),
)
