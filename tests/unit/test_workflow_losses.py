"""What was lost over a piece of work: how it is counted, kept, and when it counts for whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from pillion.workflow.losses import MOST_LOSSES, NOTHING, SUSPICIOUS, TURN, Losses, Lost, Tally


def test_five_losses_of_any_kind_put_aside_and_say_why() -> None:
    losses = Losses()
    assert (losses.pack(), losses.aside(3), losses.of(3)) == (b"", False, NOTHING)
    for number in range(MOST_LOSSES):
        assert losses.suspicious(3) is (number >= SUSPICIOUS)
        assert not losses.aside(3)
        losses.lost(3, Lost.HOST if number == 1 else Lost.WORKER)
    assert losses.aside(3)
    assert losses.of(3).why == "4 workers and 1 sidecar were lost while they ran it"
    losses.forget(3)
    assert (losses.pack(), losses.aside(3)) == (b"", False)


@pytest.mark.parametrize(
    ("tally", "why"),
    [
        (Tally(), ""),
        (Tally(1), "1 worker was lost while they ran it"),
        (Tally(5), "5 workers were lost while they ran it"),
        (Tally(0, 2), "2 sidecars were lost while they ran it"),
    ],
)
def test_why(tally: Tally, why: str) -> None:
    assert tally.why == why


def test_what_stood_by_is_not_counted_beyond_suspicion() -> None:
    """An owner is lost again and again, with a hundred activities open, of which one is to blame."""
    losses, open_ = Losses(), [TURN, *range(100)]
    for _ in range(SUSPICIOUS):
        losses.recovered(open_)
    assert all(losses.suspicious(task_id) for task_id in open_)
    losses.recovered(open_)
    assert {losses.of(task_id).count for task_id in open_} == {SUSPICIOUS}, "none was tried"
    for _ in range(MOST_LOSSES - SUSPICIOUS):
        losses.trying(42)
        losses = Losses.unpack(losses.pack())  # what the next owner finds
        losses.recovered(open_)
    assert [task_id for task_id in open_ if losses.aside(task_id)] == [42]
    losses.recovered(open_)
    assert losses.of(42).count == MOST_LOSSES, "what is put aside is with nobody"


def test_leaving_in_order_is_no_loss_of_what_is_tried() -> None:
    losses = Losses({7: Tally(SUSPICIOUS)})
    losses.trying(7)
    losses.rest()
    found = Losses.unpack(losses.pack())
    assert found.at_rest
    assert found.of(7) == Tally(SUSPICIOUS)
    found.recovered([7])
    assert found.of(7).count == SUSPICIOUS


def test_what_is_over_is_forgotten() -> None:
    losses = Losses({1: Tally(1), 2: Tally(2), TURN: Tally(3)})
    losses.keep({2})
    assert losses.tallies == {2: Tally(2)}
    losses.keep(())
    assert losses.pack() == b""


TALLIES = st.builds(Tally, st.integers(0, 300), st.integers(0, 300), st.booleans())


@given(st.dictionaries(st.integers(-1, 2**31 - 1), TALLIES), st.booleans())
def test_what_is_kept_is_what_was(tallies: dict[int, Tally], at_rest: bool) -> None:
    found = Losses.unpack(Losses(tallies, at_rest=at_rest).pack())
    assert (found.tallies, found.at_rest) == (tallies, at_rest)


@given(st.binary(max_size=40))
def test_anything_else_is_refused_or_understood(raw: bytes) -> None:
    try:
        found = Losses.unpack(raw)
    except ValueError:
        return
    assert Losses.unpack(found.pack()).tallies == found.tallies


class Bounded(RuleBasedStateMachine):
    """One activity takes down whatever runs it; others stand by. Owners come and go, some in order, some not.

    As an owner does it: count, write, then give out; suspects one at a time, and written down before.
    """

    work = Bundle("work")

    def __init__(self) -> None:
        super().__init__()
        self.rows = b""
        self.losses = Losses()
        self.open: dict[int, bool] = {}
        """Activities, and whether they are to blame."""
        self.held: list[int] = []
        self.killed: dict[int, int] = {}

    def write(self) -> None:
        self.rows = self.losses.pack()

    @rule(target=work, guilty=st.booleans())
    def schedule(self, guilty: bool) -> int:
        task_id = len(self.open)
        self.open[task_id] = guilty
        return task_id

    @rule()
    def give_out(self) -> None:
        tried = any(self.losses.suspicious(each) for each in self.held)
        for task_id in self.open:
            if task_id in self.held or self.losses.aside(task_id):
                continue
            if not self.losses.suspicious(task_id):
                self.held.append(task_id)
            elif not tried:
                tried = True
                self.losses.trying(task_id)
                self.write()
                self.held.append(task_id)

    def blame(self) -> None:
        for task_id in self.held:
            if self.open[task_id]:
                self.killed[task_id] = self.killed.get(task_id, 0) + 1

    @rule()
    def a_worker_is_lost(self) -> None:
        if any(self.open[each] for each in self.held):
            self.blame()
            for task_id in self.held:
                self.losses.lost(task_id, Lost.WORKER)
            self.write()
            self.held.clear()

    @rule()
    def the_owner_is_lost(self) -> None:
        if any(self.open[each] for each in self.held):
            self.blame()
            self.held.clear()
            self.losses = Losses.unpack(self.rows)
            self.losses.recovered(each for each in self.open if not self.losses.aside(each))
            self.write()

    @rule()
    def the_owner_leaves(self) -> None:
        self.losses.rest()
        self.write()
        self.held.clear()
        self.losses = Losses.unpack(self.rows)
        self.losses.at_rest = False
        self.write()

    @rule(task_id=consumes(work))
    def it_ends(self, task_id: int) -> None:
        if task_id in self.held and not self.open[task_id]:
            self.held.remove(task_id)
            del self.open[task_id]
            self.losses.keep(self.open)
            self.write()

    @invariant()
    def nothing_kills_more_often_than_it_may(self) -> None:
        assert all(count <= MOST_LOSSES for count in self.killed.values()), self.killed

    @invariant()
    def what_stood_by_needs_several_to_blame(self) -> None:
        """With one that is guilty no other one is put aside."""
        for task_id, guilty in self.open.items():
            if not guilty and self.losses.aside(task_id):
                assert sum(self.open.values()) > 1


TestBounded = Bounded.TestCase
