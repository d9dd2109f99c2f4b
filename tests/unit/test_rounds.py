"""The rounds of a namespace as a machine: transcripts, and both machines together under any interleaving."""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import transcript
from pillion.actors import membership as p
from pillion.actors.membership import Membership, Standing
from pillion.actors.ring import Ring
from pillion.actors.table import Table
from pillion.control import rounds as r
from pillion.control.rounds import Phase, Rounds, Row
from pillion.kinds.actors import NoHost, Owner

FOLDER = Path(__file__).parent.parent / "transcripts" / "placement"


class Player:
    """Plays one transcript. `open 1 a A+B`: stream 1 of host a, which hosts A and B."""

    def __init__(self) -> None:
        self.now = 0.0
        self.machine = Rounds(100, timeout_s=8.0)

    def play(self, command: str) -> str:
        said: list[str] = []
        for line in command.splitlines():
            word, *rest = line.split()
            if word == "new":
                options = {name: float(value) for name, value in (part.split("=") for part in rest)}
                self.machine, self.now = Rounds(100, timeout_s=8.0, **options), 0.0
            elif word == "free":
                said += map(show, self.machine.feed(r.Freed(rest[0]), self.now))
            elif word == "after":
                self.now += float(rest[0])
                if (due := self.machine.due) is not None and due <= self.now:
                    said += map(show, self.machine.feed(r.Ticked(), self.now))
            else:
                said += map(show, self.machine.feed(event(word, rest), self.now))
        return "\n".join([*said, f"[{self.machine.phase.name} {self.machine.version}]"])


def event(word: str, rest: list[str]) -> r.Event:
    stream = int(rest[0])
    if word in ("open", "report"):
        types = tuple(sorted(rest[2].split("+"))) if len(rest) > 2 else ()
        return (r.Opened if word == "open" else r.Reported)(stream, Row(rest[1], "app", types))
    if word == "close":
        return r.Closed(stream, float(rest[1]) if len(rest) > 1 else 0.0)
    return r.Answered(stream, None if word == "ok" else Phase[word.upper()], int(rest[1]) if len(rest) > 1 else None)


def show(effect: r.Effect) -> str:
    if isinstance(effect, r.EndSlow):
        return f"end {effect.stream}: {effect.phase.name} {effect.version}"
    rows = " ".join(f"{row.name}={'+'.join(row.types)}" for row in effect.rows)
    return f"{effect.phase.name} {effect.version} to {effect.streams} {rows}".rstrip()


@pytest.mark.parametrize("name", sorted(path.name for path in FOLDER.glob("rounds-*.txt")))
def test_transcript(name: str) -> None:
    transcript.check(FOLDER / name, Player().play)


# --- both machines -------------------------------------------------------------------------------------------------

GRACE_S, HOLD_S, SLOW_HOLD_S = 10.0, p.SILENCE_S, p.HALT_S + p.MARGIN_S
TYPES = ("A", "B")
IDS = ("1", "2", "3")


@dataclass(eq=False)
class Client:
    """One sidecar: its machine, what runs on it, and what is on its way between it and the server."""

    name: str
    machine: Membership = field(default_factory=lambda: Membership(30.0))
    stream: int | None = None
    down: deque[p.Event] = field(default_factory=deque)
    up: deque[p.Say] = field(default_factory=deque)
    running: set[tuple[str, str]] = field(default_factory=set)
    drain: p.Drain | None = None
    halt_by: float | None = None
    leave: bool = False
    tell: tuple[float, bool] | None = None
    """By when it learns that its stream is lost, and how."""
    deaf: bool = False


class World:
    """Any number of clients and one server at a time, on one clock."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.now = 0.0
        self.clients = [Client(f"10.0.0.{number}:1") for number in range(3)]
        self.streams: dict[int, Client] = {}
        self.opened = 0
        self.quiet_until = 0.0
        self.server = self.new_server(0.0)
        for client in self.clients:
            client.machine.feed(p.TypesChanged(frozenset(TYPES)), 0.0)

    def new_server(self, not_before: float) -> Rounds:
        self.quiet_until = not_before
        return Rounds(int(self.now * 1000), timeout_s=8.0, not_before=not_before, slow_hold_s=SLOW_HOLD_S)

    # what the machines ask for

    def serve(self, event: r.Event) -> None:
        for effect in self.server.feed(event, self.now):
            if isinstance(effect, r.EndSlow):
                client = self.streams.pop(effect.stream)
                client.down.clear()
                self.lose(client, gone=False)
                continue
            for stream in effect.streams:
                down = self.streams[stream].down
                if effect.phase is Phase.LOCK:
                    down.append(p.Lock(effect.version))
                elif effect.phase is Phase.UNLOCK:
                    down.append(p.Unlock(effect.version))
                else:
                    down.append(p.Update(self.table(effect, self.streams[stream].name)))

    def table(self, order: r.Order, own: str) -> Table:
        rings = {}
        for name in TYPES:
            hosts = {row.name: Owner(row.name, "app", "ns", row.name == own) for row in order.rows if name in row.types}
            if hosts:
                rings[name] = Ring(hosts, 5)
        return Table(order.version, 5, rings)

    def tell(self, client: Client, event: p.Event) -> None:
        for effect in client.machine.feed(event, self.now):
            match effect:
                case p.Say():
                    client.up.append(effect)
                case p.Drain():
                    client.drain = effect
                case p.HaltAll():
                    client.halt_by, client.drain = self.now + p.HALT_S, None
                case p.Disconnect():
                    client.leave = True
                    if client.halt_by is None:
                        self.halted(client)

    def lose(self, client: Client, *, gone: bool) -> None:
        """The client's stream is over, and it learns of it now."""
        client.stream, client.tell = None, None
        client.up.clear()
        client.down.clear()
        if client.machine.phase is not p.Phase.AWAY:
            self.tell(client, p.Lost(gone))

    def halted(self, client: Client) -> None:
        client.running.clear()
        client.halt_by = None
        if client.leave:
            client.leave = False
            self.hang_up(client)

    def hang_up(self, client: Client) -> None:
        stream, client.stream = client.stream, None
        client.up.clear()
        client.down.clear()
        if stream is not None and self.streams.pop(stream, None) is not None:
            self.serve(r.Closed(stream))

    # what may happen

    def open(self, client: Client) -> None:
        if client.stream is None and client.halt_by is None and client.machine.phase is p.Phase.AWAY:
            self.opened += 1
            client.stream, client.tell = self.opened, None
            self.streams[self.opened] = client
            client.down.append(p.Promised(GRACE_S, self.server.untouched and self.now < self.quiet_until))
            self.tell(client, p.Linked())
            report = client.up.popleft()
            self.serve(r.Opened(self.opened, Row(client.name, "app", tuple(sorted(report.types)))))

    def down(self, client: Client) -> None:
        if client.down and not client.deaf:
            event = client.down.popleft()
            if client.machine.phase is not p.Phase.AWAY:
                self.tell(client, event)

    def up(self, client: Client) -> None:
        if client.up and client.stream in self.streams:
            said = client.up.popleft()
            if said.operation is p.Operation.REPORT:
                self.serve(r.Reported(client.stream, Row(client.name, "app", tuple(sorted(said.types)))))
            else:
                self.serve(r.Answered(client.stream, Phase(said.operation.value), said.version))

    def drained(self, client: Client) -> None:
        if client.drain is not None:
            drain, client.drain = client.drain, None
            table = client.machine.table
            for actor_type, actor_id in list(client.running):
                ring = table.rings.get(actor_type)
                owner = None if ring is None else ring.owner(actor_id)
                if actor_type in drain.types and (owner is None or not owner.local):
                    client.running.discard((actor_type, actor_id))
            self.tell(client, p.Drained(drain.version))

    def run(self, client: Client) -> None:
        """Start whatever is ours."""
        for actor_type in TYPES:
            for actor_id in IDS:
                try:
                    owner = client.machine.find(actor_type, actor_id, self.now)
                except NoHost:
                    continue
                if owner is not None and owner.local:
                    client.running.add((actor_type, actor_id))

    def types(self, client: Client) -> None:
        chosen = frozenset(name for name in TYPES if self.random.random() < 0.7)
        self.tell(client, p.TypesChanged(chosen))

    def kill(self, client: Client) -> None:
        """The process ends and is started again."""
        client.halt_by, client.drain, client.leave = None, None, False
        client.running.clear()
        self.hang_up(client)
        client.machine = Membership(30.0)
        client.machine.feed(p.TypesChanged(frozenset(TYPES)), self.now)
        client.tell, client.deaf = None, False

    def cut(self, client: Client) -> None:
        """Nothing comes through any more: the server notices first, the client within the time that it is held."""
        if client.stream is not None and self.streams.pop(client.stream, None) is not None:
            stream, client.stream = client.stream, None
            client.up.clear()
            client.down.clear()
            self.serve(r.Closed(stream, HOLD_S))
            client.tell = (self.now + HOLD_S - p.HALT_S - 0.1, False)

    def crash(self, client: Client) -> None:
        """The server ends; the next one leads at once, and waits."""
        self.server = self.new_server(self.now + p.wait_s(GRACE_S))
        streams, self.streams = self.streams, {}
        for each in streams.values():
            each.stream = None
            each.up.clear()
            each.down.clear()
            each.tell = (self.now + p.SILENCE_S, True)

    def notice(self, client: Client) -> None:
        if client.tell is not None:
            self.lose(client, gone=client.tell[1])

    def passed(self, client: Client) -> None:
        if client.machine.phase is p.Phase.AWAY and client.halt_by is None and client.tell is None:
            self.tell(client, p.Passed(self.random.random() < 0.8))

    def deafen(self, client: Client) -> None:
        client.deaf = not client.deaf

    def wait(self, client: Client) -> None:
        self.pass_time(self.random.choice((0.1, 0.5, 2.0, 5.0)))

    def pass_time(self, seconds: float) -> None:
        """Let time pass; what must happen by a time happens by then."""
        end = self.now + seconds
        while True:
            times: list[tuple[float, int, int | None]] = [(end, 9, None)]
            for number, client in enumerate(self.clients):
                if client.tell is not None:
                    times.append((client.tell[0], 0, number))
                if client.halt_by is not None:
                    times.append((client.halt_by, 1, number))
                if (due := client.machine.due) is not None:
                    times.append((due, 2, number))
            if (due := self.server.due) is not None:
                times.append((due, 3, None))
            time, what, who = min(times, key=lambda entry: (entry[0], entry[1]))
            self.now = max(self.now, time)
            if what == 9:
                return
            if who is None:
                self.serve(r.Ticked())
            elif what == 0:
                self.notice(self.clients[who])
            elif what == 1:
                self.halted(self.clients[who])
            else:
                self.tell(self.clients[who], p.Ticked())
            self.check()

    # what must hold

    def check(self) -> None:
        seen: dict[tuple[str, str], str] = {}
        for client in self.clients:
            for actor in client.running:
                assert actor not in seen, f"{actor} runs on {seen[actor]} and {client.name} at {self.now}"
                seen[actor] = client.name

    def quieten(self) -> None:
        """From now on nothing bad happens: everybody settles."""
        for client in self.clients:
            client.deaf = False
        for _ in range(400):
            for client in self.clients:
                self.notice(client)
                self.open(client)
                self.down(client)
                self.drained(client)
                self.up(client)
                self.run(client)
                self.check()
            self.pass_time(0.25)


ACTIONS = (
    "open",
    "down",
    "up",
    "drained",
    "run",
    "types",
    "kill",
    "cut",
    "crash",
    "notice",
    "passed",
    "deafen",
    "wait",
)
WEIGHTS = (4, 14, 14, 8, 10, 1, 1, 1, 1, 2, 2, 1, 6)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32))
def test_no_actor_ever_runs_twice_and_everybody_settles(seed: int) -> None:
    """Invariants 1, 5, 6, 7 through kills, cuts, deaf clients and new leaders; left alone, all agree."""
    world = World(seed)
    for _ in range(400):
        action = world.random.choices(ACTIONS, WEIGHTS)[0]
        getattr(world, action)(world.random.choice(world.clients))
        world.run(world.random.choice(world.clients))
        world.check()
    world.quieten()
    assert world.server.phase is Phase.REPORT
    owners = set()
    for client in world.clients:
        assert client.machine.standing is Standing.WHOLE
        assert not client.machine.blocked
        answers = []
        for actor_type in TYPES:
            for actor_id in IDS:
                try:
                    owner = client.machine.find(actor_type, actor_id, world.now)
                except NoHost:
                    answers.append("none")
                else:
                    assert owner is not None
                    answers.append(owner.address)
        owners.add(tuple(answers))
    assert len(owners) == 1
