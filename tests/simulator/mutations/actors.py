"""Mistakes in actors and their placement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pillion.actors.host import ActorHost
from pillion.actors.membership import Drained, HaltAll, Membership
from pillion.actors.placement import Placement
from pillion.actors.state import ActorState
from pillion.actors.turns import Turns
from pillion.control import placement
from simulator.mutations.mutation import Mutation

if TYPE_CHECKING:
    from pillion.actors.fence import Fence
    from pillion.actors.residents import Residents
    from simulator.mutations.mutation import Patch


def no_fence(patch: Patch) -> None:
    async def take_nothing(self: ActorState, store: Any, prefix: str, held: Fence) -> None:
        held.etag = "any"

    async def write(self: ActorState, store: Any, prefix: str, held: Fence, etag: str, keyed: Any) -> None:
        await store.transact(keyed, {})

    patch.setattr(ActorState, "_take", take_nothing)
    patch.setattr(ActorState, "_move", write)


def acknowledge_before_the_drain(patch: Patch) -> None:
    real = Placement._drain

    async def drain(self: Placement, before: Any, types: Any, version: int) -> None:
        self._feed(Drained(version))
        await real(self, before, types, version)

    patch.setattr(Placement, "_drain", drain)


def keep_actors_when_the_place_is_lost(patch: Patch) -> None:
    real = Membership._halt
    patch.setattr(
        Membership, "_halt", lambda self, why: [one for one in real(self, why) if not isinstance(one, HaltAll)]
    )


def a_new_leader_does_not_wait(patch: Patch) -> None:
    patch.setattr(placement, "wait_s", lambda grace_s: 0.0)


def turns_overlap(patch: Patch) -> None:
    def enter(self: Turns[Any], place: Any, max_depth: int = 1) -> bool:
        self.running.append(place)
        return True

    patch.setattr(Turns, "enter", enter)


def the_moved_are_served(patch: Patch) -> None:
    async def drain(self: Residents, actor_types: Any, stays: Any) -> None:
        return None

    patch.setattr(ActorHost, "drain", drain)


MUTATIONS = (
    Mutation("state is not fenced", "counting", 322, no_fence),
    Mutation("a table is acknowledged before the drain", "counting", 13, acknowledge_before_the_drain),
    Mutation("actors go on when the place is lost", "counting", 152, keep_actors_when_the_place_is_lost),
    Mutation("a new leader does not wait", "counting", 16, a_new_leader_does_not_wait),
    Mutation("turns overlap", "counting", 0, turns_overlap),
    Mutation("what moves is not drained", "counting", 11, the_moved_are_served),
)  # fmt: skip
