"""Mistakes of several placement servers: who leads, until when, and what tables say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pillion.components import leadership_etcd, leadership_postgresql
from pillion.components.leadership_etcd import EtcdLease
from pillion.components.leadership_postgresql import PostgresLock
from pillion.control import placement
from pillion.control.placement import PlacementService
from pillion.control.rounds import Phase, Rounds
from simulator.mutations.mutation import Mutation

if TYPE_CHECKING:
    from simulator.mutations.mutation import Patch


def versions_come_from_the_clock(patch: Patch) -> None:
    real = PlacementService.lead

    def lead(self: PlacementService, leadership: Any, term: int, *, inherited: bool) -> None:
        self._floor = 0
        real(self, leadership, int(self._clock.now() * 1000), inherited=inherited)

    patch.setattr(PlacementService, "lead", lead)


def leadership_does_not_expire(patch: Patch) -> None:
    for engine in (EtcdLease, PostgresLock):
        patch.setattr(engine, "holds", lambda self: self._leads)


def who_lost_the_lock_serves_on(patch: Patch) -> None:
    patch.setattr(PlacementService, "resign", lambda self, why: None)
    patch.setattr(PlacementService, "leading", property(lambda self: self._leadership is not None))


def the_next_leads_at_once(patch: Patch) -> None:
    patch.setattr(leadership_postgresql, "WAIT_S", 0.0)


def a_lease_counts_from_its_answer(patch: Patch) -> None:
    patch.setattr(leadership_etcd, "MARGIN_S", -3.0)


def a_candidate_waits_for_ever(patch: Patch) -> None:
    patch.setattr(leadership_postgresql, "TURN_S", 3600.0)


def a_new_leader_does_not_wait(patch: Patch) -> None:
    patch.setattr(placement, "wait_s", lambda grace_s: 0.0)


def tables_are_out_before_all_are_locked(patch: Patch) -> None:
    real = Rounds._advance

    def advance(self: Rounds, now: float) -> Any:
        if self.phase is Phase.LOCK:
            for member in self.members.values():
                member.answered = True
        return real(self, now)

    patch.setattr(Rounds, "_advance", advance)


def two_tables_of_one_version(patch: Patch) -> None:
    real = Rounds._begin

    def begin(self: Rounds, now: float) -> Any:
        if not self.untouched:
            self.version -= 1
        return real(self, now)

    patch.setattr(Rounds, "_begin", begin)


MUTATIONS = (
    Mutation("versions come from the clock", "placing", 5, versions_come_from_the_clock),
    Mutation("leadership does not expire", "placing", 5, leadership_does_not_expire),
    Mutation("who lost the lock serves on", "placing", 22, who_lost_the_lock_serves_on),
    Mutation("the next one leads at once", "placing", 15, the_next_leads_at_once),
    Mutation("a lease counts too long", "placing", 11, a_lease_counts_from_its_answer),
    Mutation("a candidate waits for ever", "placing", 8, a_candidate_waits_for_ever),
    Mutation("a new leader does not wait, of several", "placing", 7, a_new_leader_does_not_wait),
    Mutation("tables are out before all are locked", "placing", 0, tables_are_out_before_all_are_locked),
    Mutation("two tables of one version", "placing", 0, two_tables_of_one_version),
)
