"""Whose turn it is at one actor: spec `actors-workflows-jobs.md` 1.5, invariants 1 to 3."""

from __future__ import annotations

from collections import deque
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from pillion.actors.turns import UNBOUNDED, Place, Turns
from pillion.kinds.actors import ActorClosed, ActorError, TooDeep
from transcript import check

TRANSCRIPT = Path(__file__).parents[1] / "transcripts" / "actors" / "turns.txt"


class Named(Place):
    __slots__ = ("name",)

    def __init__(self, name: str, chain: str = "") -> None:
        super().__init__(chain)
        self.name = name


def names(places: object) -> str:
    return " ".join(place.name for place in places)  # type: ignore[attr-defined]


class Play:
    def __init__(self) -> None:
        self.turns: Turns[Named] = Turns()
        self.places: dict[str, Named] = {}

    def __call__(self, command: str) -> str:
        verb, *words = command.split()
        if verb == "open":
            self.turns = Turns()
            return self.state("")
        if verb == "close":
            return self.state(f"in vain: {names(self.turns.close())}")
        name, *options = words
        if verb == "leave":
            begun = names(self.turns.leave(self.places[name]))
            return self.state(f"begins: {begun}" if begun else "")
        given = dict(option.partition("=")[::2] for option in options)
        place = self.places[name] = Named(name, given.get("chain", ""))
        depth = UNBOUNDED if "free" in given else int(given.get("depth", 32))
        try:
            return self.state("runs" if self.turns.enter(place, depth) else "waits")
        except ActorError as error:
            return self.state(f"{type(error).__name__}: {error}")

    def state(self, said: str) -> str:
        waiting = " | ".join(names(turn) for turn in self.turns.waiting or ())
        return "\n".join(
            filter(None, [said, f"running: {names(self.turns.running)}".rstrip(), f"waiting: {waiting}".rstrip()])
        )


def test_transcript() -> None:
    check(TRANSCRIPT, Play())


MOVES = st.lists(
    st.tuples(
        st.sampled_from(["enter", "enter", "leave", "close"]), st.integers(0, 30), st.sampled_from(["", "", "x", "y"])
    ),
    max_size=80,
)


@settings(max_examples=400, deadline=None)
@given(MOVES, st.integers(1, 3))
def test_whatever_happens(moves: list[tuple[str, int, str]], depth: int) -> None:
    """At most one turn; every turn is one chain, not deeper than it may be; turns begin in order of arrival; who waits
    has somebody to wait for; nothing begins after the end.
    """
    turns: Turns[Named] = Turns()
    inside: list[Named] = []
    expected: deque[list[Named]] = deque()  # the turns to come, in order
    closed = False
    for number, (verb, choice, chain) in enumerate(moves):
        if verb == "enter":
            place = Named(str(number), chain)
            try:
                runs = turns.enter(place, depth)
            except (TooDeep, ActorClosed):
                pass
            else:
                assert runs == (place in turns.running)
                inside.append(place)
                if not runs:
                    for turn in expected:
                        if chain and turn[0].chain == chain:
                            turn.append(place)
                            break
                    else:
                        expected.append([place])
        elif verb == "leave" and inside:
            place = inside.pop(choice % len(inside))
            ran = place in turns.running
            begun = turns.leave(place)
            if not ran:
                for turn in list(expected):
                    if place in turn:
                        turn.remove(place)
                        if not turn:
                            expected.remove(turn)
                assert not begun
            elif begun:
                assert not closed
                assert list(begun) == expected.popleft()
        elif verb == "close":
            vain = turns.close()
            assert vain == [place for turn in expected for place in turn]
            inside = [place for place in inside if place not in vain]
            expected.clear()
            closed = True
        assert len({place.chain or place.name for place in turns.running}) <= 1
        assert len(turns.running) <= depth
        assert [list(turn) for turn in turns.waiting or ()] == list(expected)
        assert turns.running or not expected
        assert set(inside) == {*turns.running, *(place for turn in expected for place in turn)}
    for place in inside:
        turns.leave(place)
    assert not turns.running
    assert not turns.waiting
