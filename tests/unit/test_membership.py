"""A sidecar's side of placement as a machine: transcripts, and invariants under any order of events."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

import transcript
from pillion.actors import membership as p
from pillion.actors.membership import Membership, OutOfOrder, Phase, Standing
from pillion.actors.ring import Ring
from pillion.actors.table import Table
from pillion.kinds.actors import NoHost, Owner

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path(__file__).parent.parent / "transcripts" / "placement"
OWN = "me:1"


def table(version: int, types: dict[str, list[str]]) -> Table:
    """A table in which one-letter hosts host types."""
    rings = {
        name: Ring({host: Owner(host, "app", "default", host == OWN) for host in hosts}, 10)
        for name, hosts in types.items()
        if hosts
    }
    return Table(version, 10, rings)


@dataclass
class Player:
    """Plays one transcript: a line is an event or a look-up, after how many seconds."""

    machine: Membership = field(default_factory=lambda: Membership(30.0))
    now: float = 0.0

    def play(self, command: str) -> str:
        said = []
        for line in command.splitlines():
            word, *rest = line.split()
            if word == "after":
                self.now += float(rest[0])
                if (due := self.machine.due) is not None and due <= self.now:
                    said += [show(effect) for effect in self.machine.feed(p.Ticked(), self.now)]
            elif word == "find":
                said.append(f"{rest[0]}: {self.find(rest[0])}")
            else:
                try:
                    said += [show(effect) for effect in self.machine.feed(event(word, rest), self.now)]
                except OutOfOrder as error:
                    said.append(f"out of order: {error}")
        said.append(f"[{self.machine.phase.name} {self.machine.standing.name}]")
        return "\n".join(said)

    def find(self, actor_type: str) -> str:
        try:
            owner = self.machine.find(actor_type, "1", self.now)
        except NoHost as error:
            return str(error)
        return "wait" if owner is None else owner.address


def event(word: str, rest: list[str]) -> p.Event:
    if word == "update":
        return p.Update(table(int(rest[0]), {part.split("=")[0]: part.split("=")[1].split("+") for part in rest[1:]}))
    events: dict[str, Callable[[], p.Event]] = {
        "linked": lambda: p.Linked(),
        "promised": lambda: p.Promised(float(rest[0]), "untouched" in rest),
        "lock": lambda: p.Lock(int(rest[0])),
        "unlock": lambda: p.Unlock(int(rest[0])),
        "gone": lambda: p.Lost(True),
        "cut": lambda: p.Lost(False),
        "refused": lambda: p.Passed(True),
        "unanswered": lambda: p.Passed(False),
        "types": lambda: p.TypesChanged(frozenset(rest)),
        "drained": lambda: p.Drained(int(rest[0])),
    }
    return events[word]()


def show(effect: p.Effect) -> str:
    match effect:
        case p.Say(operation, types, version):
            return f"say {operation.name} {version if version is not None else '-'} {','.join(sorted(types))}".rstrip()
        case p.Drain(types, version):
            return f"drain {version} {','.join(sorted(types))}".rstrip()
        case p.Settle(types):
            return f"settle {','.join(sorted(types))}".rstrip()
        case p.HaltAll(why):
            return f"halt all: {why}"
        case p.Disconnect(why):
            return f"disconnect: {why}"
    return "wake"


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("member-*.txt")))
def test_transcript(name: str) -> None:
    transcript.check(FOLDER / name, Player().play)


TABLES = [{"A": ["me:1"]}, {"A": ["me:1", "you:1"]}, {"A": ["you:1"], "B": ["me:1"]}, {}, {"B": ["me:1"]}]
STEPS = st.one_of(
    st.sampled_from(["linked", "promised", "untouched", "gone", "cut", "refused", "unanswered", "drained", "stale"]),
    st.sampled_from(["lock", "update", "unlock"]),
    st.floats(0.1, 12.0),
)


@given(st.lists(st.tuples(STEPS, st.integers(0, 4)), max_size=60))
def test_whatever_comes_no_answer_is_given_without_right(steps: list[tuple[str | float, int]]) -> None:
    """Invariants 5 and 7: between a table and its unlock no changed type is looked up, UPDATE is acknowledged only
    after the drain; when the grace has ended nothing is looked up at all."""
    machine, now, version = Membership(30.0), 0.0, 1
    granted: float | None = None
    drained = -1
    for step, number in steps:
        if isinstance(step, float):
            now += step
            if machine.due is not None and machine.due <= now and number:  # sometimes the timer is late
                machine.feed(p.Ticked(), now)
        else:
            before = machine.table
            fed: p.Event
            if step == "lock":
                version += 1
                fed = p.Lock(version)
            elif step == "update":
                fed = p.Update(table(version, TABLES[number]))
            elif step == "drained":
                drained = machine.table.version
                fed = p.Drained(drained)
            elif step == "stale":
                fed = p.Update(table(max(version - 1, 0), TABLES[number]))
            elif step in ("promised", "untouched"):
                fed = p.Promised(10.0 * (number % 2), step == "untouched")
            else:
                fed = event(step, [str(version)])
            was = machine.standing
            try:
                effects = machine.feed(fed, now)
            except OutOfOrder:
                continue
            if step == "gone" and was is Standing.WHOLE:
                granted = now + 10.0
            if machine.standing is Standing.WHOLE:
                granted = None
            if isinstance(fed, p.Update) and machine.phase is Phase.DRAINING:
                assert before.changed(machine.table) <= machine.blocked
            for effect in effects:
                if isinstance(effect, p.Say) and effect.operation is p.Operation.UPDATE:
                    assert effect.version == drained == machine.table.version
                if isinstance(effect, p.HaltAll):
                    assert machine.standing is Standing.NONE
        for actor_type in ("A", "B"):
            try:
                owner = machine.find(actor_type, "1", now)
            except NoHost:
                owner = None
            if owner is not None:
                assert actor_type not in machine.blocked
                assert machine.standing in (Standing.WHOLE, Standing.ADRIFT)
                assert granted is None or now < granted
