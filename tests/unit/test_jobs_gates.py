"""Gates: how many triggers of one kind are under way at once (spec `actors-workflows-jobs.md` 2.7)."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from pillion.jobs import gates as module
from pillion.jobs.gates import Entry, Gates
from pillion.kinds.jobs import Limit


def test_first_come_first_served() -> None:
    gates: Gates[int] = Gates()
    assert gates.limit("one", [Limit("k", 2)]) == []
    assert [gates.enter(number, ["", "k"]) for number in range(4)] == [Entry.PASSED] * 2 + [Entry.WAITS] * 2
    assert gates.standing() == {"k": (2, 2)}
    assert gates.leave(1) == [2]
    assert gates.leave(3) == []  # withdrawn while it waited
    assert gates.leave(0) == []
    assert gates.enter(5, ["k"]) is Entry.PASSED


def test_the_newest_limit_holds_and_goes_with_its_owner() -> None:
    gates: Gates[int] = Gates()
    gates.limit("one", [Limit("k", 1)])
    assert [gates.enter(number, ["k"]) for number in range(3)] == [Entry.PASSED, Entry.WAITS, Entry.WAITS]
    assert gates.limit("two", [Limit("k", 2)]) == [1]
    assert gates.drop("two") == []
    assert gates.drop("one") == [2]
    assert not gates
    assert gates.enter(9, ["k"]) is Entry.PASSED


def test_shares_of_schedulers() -> None:
    """A limit of 5 is 2, 2 and 1 for three schedulers; nobody gets less than 1."""
    counts = []
    for index in range(3):
        gates: Gates[int] = Gates()
        gates.share(index, 3)
        gates.limit("one", [Limit("k", 5), Limit("small", 1)])
        counts.append(sum(gates.enter(number, ["k"]) is Entry.PASSED for number in range(9)))
        assert gates.enter(99, ["small"]) is Entry.PASSED
    assert counts == [2, 2, 1]


def test_all_gates_at_once() -> None:
    """A trigger of two gates holds neither while it waits for the other."""
    gates: Gates[str] = Gates()
    gates.limit("one", [Limit("T", 1), Limit("T:x", 1)])
    assert gates.enter("a", ["T:x"]) is Entry.PASSED
    assert gates.enter("b", ["T", "T:x"]) is Entry.WAITS
    assert gates.enter("c", ["T"]) is Entry.PASSED
    assert gates.leave("a") == []
    assert gates.leave("c") == ["b"]


def test_full_queue() -> None:
    gates: Gates[int] = Gates()
    gates.limit("one", [Limit("k", 1)])
    for number in range(module.MOST_WAITING + 1):
        gates.enter(number, ["k"])
    assert gates.enter(-1, ["k"]) is Entry.REFUSED


@settings(max_examples=200)
@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.sampled_from(["", "a", "b"]), st.sampled_from(["", "x", "y"])), max_size=80
    )
)
def test_never_more_and_never_stuck(story: list[tuple[int, str, str]]) -> None:
    """Whatever comes and goes: no gate has more inside than it lets, and when all have left nobody waits."""
    gates: Gates[int] = Gates()
    most = {"a": 2, "x": 1, "y": 3}
    gates.limit("one", [Limit(key, number) for key, number in most.items()])
    inside: dict[int, tuple[str, str]] = {}
    asked: dict[int, tuple[str, str]] = {}

    def passed(tickets: list[int]) -> None:
        for ticket in tickets:
            inside[ticket] = asked[ticket]
        for key, number in most.items():
            assert sum(key in keys for keys in inside.values()) <= number

    for number, (act, kind, key) in enumerate(story):
        if act and inside:
            ticket = sorted(inside)[act % len(inside)]
            del inside[ticket]
            passed(gates.leave(ticket))
        else:
            asked[number] = (kind, key)
            if gates.enter(number, (kind, key)) is Entry.PASSED:
                passed([number])

    while inside:
        ticket = min(inside)
        del inside[ticket]

        passed(gates.leave(ticket))
    assert all(waiting == 0 for _, waiting in gates.standing().values())
