"""Mistakes with events from outside: each is taken once, in the order of their acknowledgements."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pillion.workflow import instance, reception, runner, turn
from pillion.workflow.history import nanoseconds, timestamp
from pillion.workflow.runner import Runner
from simulator.mutations.mutation import Mutation

if TYPE_CHECKING:
    from simulator.mutations.mutation import Patch


def whoever_takes_an_event_gives_it_its_time(patch: Patch) -> None:
    real = Runner.add
    taken = [0]

    async def add(self: Runner, event: Any, execution: str | None = None) -> None:
        taken[0] += 1
        if event.HasField("eventRaised"):
            event.timestamp.CopyFrom(timestamp(nanoseconds(event.timestamp) + taken[0]))
        await real(self, event, execution)

    patch.setattr(Runner, "add", add)


def an_event_is_known_by_its_name(patch: Patch) -> None:
    patch.setattr(reception, "_mark", lambda event: (event.eventRaised.name, 0))


def a_generation_forgets_what_it_heard(patch: Patch) -> None:
    patch.setattr(reception, "has_heard", lambda heard, mark: False)


def events_that_go_on_are_not_remembered(patch: Patch) -> None:
    real = instance.heard_by_now
    patch.setattr(runner, "heard_by_now", lambda found, mail: real(found, []))


class _Durable(dict[Any, Any]):
    """Says of every event that it is durable."""

    def __getitem__(self, mark: Any) -> None:
        return None


def a_second_try_is_acknowledged_before_the_first(patch: Patch) -> None:
    real = Runner.__init__

    def init(self: Runner, *arguments: Any) -> None:
        real(self, *arguments)
        self._raised = _Durable(self._raised)

    patch.setattr(Runner, "__init__", init)


def the_newest_event_is_first(patch: Patch) -> None:
    real = turn.begin
    patch.setattr(turn, "begin", lambda found, mail, now_ns: real(found, mail[::-1], now_ns))


MUTATIONS = (
    Mutation("whoever takes an event gives it its time", "hearing", 0, whoever_takes_an_event_gives_it_its_time),
    Mutation("an event is known by its name", "hearing", 0, an_event_is_known_by_its_name),
    Mutation("a generation forgets what it heard", "hearing", 1, a_generation_forgets_what_it_heard),
    Mutation("events that go on are not remembered", "hearing", 1, events_that_go_on_are_not_remembered),
    Mutation("a second try is acknowledged first", "hearing", 4, a_second_try_is_acknowledged_before_the_first),
    Mutation("the newest event is first", "hearing", 0, the_newest_event_is_first),
)
