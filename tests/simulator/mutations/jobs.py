"""Mistakes in jobs and those who keep their time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pillion.jobs import machine
from pillion.jobs.leases import Leases
from pillion.jobs.near import Near
from pillion.kinds.jobs import Outcome
from simulator.mutations.mutation import Mutation

if TYPE_CHECKING:
    from simulator.mutations.mutation import Patch


def an_undelivered_tick_counts(patch: Patch) -> None:
    real = machine.settle
    patch.setattr(
        machine, "settle",
        lambda stored, outcome, fired: real(stored, Outcome.SUCCESS if outcome is Outcome.FAILED else outcome, fired),
    )  # fmt: skip


def fire_after_the_lease(patch: Patch) -> None:
    patch.setattr(Leases, "hold", lambda self: self.certain)


def fire_early(patch: Patch) -> None:
    real = Near.pop
    patch.setattr(Near, "pop", lambda self, now: real(self, now + 0.05))


def one_tick_too_many(patch: Patch) -> None:
    real = machine.settle

    def settle(stored: Any, outcome: Outcome, fired: float) -> Any:
        forgotten = stored.count == 4 and stored.last is not None
        return real(replace(stored, count=3) if forgotten else stored, outcome, fired)

    patch.setattr(machine, "settle", settle)


MUTATIONS = (
    Mutation("a failed tick counts as done", "ticking", 0, an_undelivered_tick_counts),
    Mutation("ticks are fired after the lease", "ticking", 1, fire_after_the_lease),
    Mutation("ticks are fired early", "ticking", 0, fire_early),
    Mutation("one tick too many", "ticking", 0, one_tick_too_many),
)  # fmt: skip
