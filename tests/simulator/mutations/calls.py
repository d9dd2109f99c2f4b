"""Mistakes of calls between hosts, and of hosts that leave: when a call is sent again, when turns end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pillion.actors import residents
from pillion.actors.away import Away
from pillion.actors.host import ActorHost
from pillion.actors.instances import Claim, Instance
from pillion.actors.residents import Residents
from pillion.actors.turns import Turns
from pillion.kinds.actors import RemoteFailure
from pillion.peers import actors
from simulator.mutations.mutation import Mutation

if TYPE_CHECKING:
    from simulator.mutations.mutation import Patch


def _sent_again(patch: Patch, *, again: bool) -> None:
    real = actors._failure

    def failure(error: Any) -> Any:
        found = real(error)
        if isinstance(found, RemoteFailure):
            found.retryable = again
        return found

    patch.setattr(actors, "_failure", failure)


def an_answer_is_sent_for_again(patch: Patch) -> None:
    _sent_again(patch, again=True)


def a_broken_connection_fails_the_call(patch: Patch) -> None:
    _sent_again(patch, again=False)


def calls_stay_where_their_actor_was(patch: Patch) -> None:
    patch.setattr(Away, "settled", lambda self: None)


def every_table_ends_every_call(patch: Patch) -> None:
    patch.setattr(Away, "_elsewhere", lambda self, address, actor_type, actor_id: True)
    patch.setattr("pillion.actors.away.LATE_S", 0.0)


def the_place_is_left_before_the_turns_end(patch: Patch) -> None:
    async def close(self: ActorHost) -> None:
        self._closed = True

    patch.setattr(ActorHost, "close", close)


def who_leaves_takes_turns(patch: Patch) -> None:
    async def close(self: Residents) -> None:
        self._idle.close()
        await self.halt_all()

    patch.setattr(Residents, "close", close)


def what_closes_takes_turns(patch: Patch) -> None:
    real = Turns.close

    def close(self: Turns[Any]) -> list[Any]:
        found = real(self)
        self.closed = False
        return found

    patch.setattr(Turns, "close", close)


def turns_end_when_they_like(patch: Patch) -> None:
    patch.setattr(residents, "LAST_TURNS_S", 60.0)


def a_turn_is_not_cut(patch: Patch) -> None:
    patch.setattr(Claim, "end", lambda self, error: None)


def those_who_wait_are_not_told(patch: Patch) -> None:
    real = Instance.begin_to_close

    def begin_to_close(self: Instance) -> bool:
        waiting, self.waiting = self.waiting, None
        begun = real(self)
        self.waiting = waiting
        return begun

    patch.setattr(Instance, "begin_to_close", begin_to_close)


MUTATIONS = (
    Mutation("an answer is sent for again", "counting", 0, an_answer_is_sent_for_again),
    Mutation("a broken connection fails the call", "counting", 0, a_broken_connection_fails_the_call),
    Mutation("calls stay where their actor was", "counting", 20, calls_stay_where_their_actor_was),
    Mutation("every table ends every call", "counting", 0, every_table_ends_every_call),
    Mutation("the place is left before the turns end", "counting", 8, the_place_is_left_before_the_turns_end),
    Mutation("who leaves takes turns", "counting", 42, who_leaves_takes_turns),
    Mutation("what closes takes turns", "counting", 1, what_closes_takes_turns),
    Mutation("turns end when they like", "counting", 95, turns_end_when_they_like),
    Mutation("a turn is not cut", "counting", 3, a_turn_is_not_cut),
    Mutation("those who wait are not told", "counting", 42, those_who_wait_are_not_told),
)
