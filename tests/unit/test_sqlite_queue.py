"""The tables of `pubsub.sqlite` against a model: whatever members do, no message is lost and none is held twice."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from pillion.components import sqlite_queue as queue
from pillion.errors import ComponentError

if TYPE_CHECKING:
    from collections.abc import Iterator

OWNERS = ("one", "two")
GROUPS = ("red", "blue")
LEASE_S = 60.0


def row(topic: str, number: int, now: float, expires: float | None = None) -> queue.Row:
    return (topic, now, expires, None, None, str(number).encode())


def turn(group: int, now: float, owner: str = "one", **more: object) -> queue.Turn:
    return queue.Turn("t", group, owner, LEASE_S, now, **more)  # type: ignore[arg-type]


class Broker(RuleBasedStateMachine):
    """The model: for each group, which messages it has still to handle, and who holds them."""

    @initialize()
    def start(self) -> None:
        self.db = sqlite3.connect(":memory:", isolation_level=None)
        queue.create(self.db)
        self.now = 1000.0
        self.count = 0
        self.groups: dict[str, int] = {}
        self.joined: set[int] = set()
        self.open: dict[str, set[int]] = {}
        self.held: dict[str, dict[int, tuple[str, int]]] = {}

    def teardown(self) -> None:
        if hasattr(self, "db"):
            self.db.close()

    @rule(name=st.sampled_from(GROUPS))
    def join(self, name: str) -> None:
        if name not in self.groups:
            self.groups[name] = queue.join(self.db, "t", name, self.now)
            kept = self.db.execute("SELECT data FROM broker_messages").fetchall()
            self.open[name] = {int(data) for [data] in kept}
            self.held[name] = {}
            # what a publisher put in is kept while any other group has not handled it
            assert set().union(*self.open.values()) <= self.open[name] | {-1}
        assert queue.join(self.db, "t", name, self.now) == self.groups[name]

    @rule(size=st.integers(1, 5))
    def publish(self, size: int) -> None:
        numbers = range(self.count, self.count + size)
        self.count += size
        queue.publish(self.db, [row("t", number, self.now) for number in numbers])
        for waiting in self.open.values():
            waiting.update(numbers)

    @rule(delay=st.floats(1, 20))
    def publish_later(self, delay: float) -> None:
        queue.publish_all(self.db, [], [(row("t", self.count, self.now), self.now + delay)])
        self.count += 1

    @precondition(lambda self: self.groups)
    @rule(name=st.sampled_from(GROUPS), owner=st.sampled_from(OWNERS), want=st.integers(1, 4))
    def take(self, name: str, owner: str, want: int) -> None:
        if name not in self.groups:
            return
        given = queue.exchange(self.db, turn(self.groups[name], self.now, owner, want=want))
        assert len(given.rows) <= want
        if given.lost:
            self._forget(owner)
        self._notice_delayed()
        for identity, _, _, _, data in given.rows:
            number = int(data)
            assert number in self.open[name], "not handled before"
            assert number not in self.held[name], "not held by another"
            self.held[name][number] = (owner, identity)
        if not given.more and not given.rows:
            assert self.open[name] == set(self.held[name]) | self._failed(name), "nothing was left"

    @precondition(lambda self: any(self.held.values()))
    @rule(data=st.data(), outcome=st.sampled_from(["done", "failed", "returned"]), tidy=st.booleans())
    def settle(self, data: st.DataObject, outcome: str, tidy: bool) -> None:
        name = data.draw(st.sampled_from([name for name, held in self.held.items() if held]))
        number = data.draw(st.sampled_from(sorted(self.held[name])))
        owner, identity = self.held[name].pop(number)
        given = turn(self.groups[name], self.now, owner, tidy=tidy)
        if outcome == "done":
            given.done.append(identity)
            self.open[name].discard(number)
        elif outcome == "failed":
            given.failed.append((identity, self.now + 5))
        else:
            given.returned.append(identity)
        queue.exchange(self.db, given)

    @rule(seconds=st.floats(0.5, 30))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(owner=st.sampled_from(OWNERS))
    def die(self, owner: str) -> None:
        queue.bury_owner(self.db, owner, self.now, only_if_silent=False)
        self._forget(owner)

    @rule()
    def keep_house(self) -> None:
        queue.keep_house(
            self.db, list(self.groups.values()), self.now, retention_s=10_000.0, group_retention_s=10_000.0
        )

    @invariant()
    def everything_open_is_stored(self) -> None:
        if not hasattr(self, "db"):
            return
        stored = {int(data) for [data] in self.db.execute("SELECT data FROM broker_messages")}
        for name, waiting in self.open.items():
            assert waiting <= stored, f"{name} has lost messages"

    def _forget(self, owner: str) -> None:
        for held in self.held.values():
            for number in [number for number, (by, _) in held.items() if by == owner]:
                del held[number]

    def _notice_delayed(self) -> None:
        """Delayed messages that have joined the log concern every group from now on."""
        late = {int(data) for [data] in self.db.execute("SELECT data FROM broker_delayed")}
        stored = {int(data) for [data] in self.db.execute("SELECT data FROM broker_messages")}
        for number in stored - late - self.joined:
            self.joined.add(number)
            [identity] = self.db.execute("SELECT id FROM broker_messages WHERE data=?", (str(number).encode(),))
            for name, group in self.groups.items():
                [cursor] = self.db.execute("SELECT cursor FROM broker_groups WHERE id=?", (group,)).fetchone()
                if identity[0] > cursor or self._leased(group, identity[0]):
                    self.open[name].add(number)

    def _leased(self, group: int, identity: int) -> bool:
        found = self.db.execute("SELECT 1 FROM broker_leases WHERE group_id=? AND message_id=?", (group, identity))
        return found.fetchone() is not None

    def _failed(self, name: str) -> set[int]:
        waiting = self.db.execute(
            "SELECT m.data FROM broker_leases AS l JOIN broker_messages AS m ON m.id=l.message_id"
            " WHERE l.group_id=? AND l.owner IS NULL AND l.due>?",
            (self.groups[name], self.now),
        )
        return {int(data) for [data] in waiting}


TestBroker = Broker.TestCase
TestBroker.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as one:
        queue.create(one)
        yield one


def stored(db: sqlite3.Connection, topic: str = "t") -> list[bytes]:
    return [data for [data] in db.execute("SELECT data FROM broker_messages WHERE topic=? ORDER BY id", (topic,))]


def test_what_all_groups_have_handled_is_deleted(db: sqlite3.Connection) -> None:
    red, blue = queue.join(db, "t", "red", 1.0), queue.join(db, "t", "blue", 1.0)
    queue.publish(db, [row("t", number, 1.0) for number in range(3)])
    ids = {group: [one[0] for one in queue.exchange(db, turn(group, 2.0, want=9)).rows] for group in (red, blue)}
    queue.exchange(db, turn(red, 3.0, done=ids[red], tidy=True))
    assert len(stored(db)) == 3
    queue.exchange(db, turn(blue, 3.0, done=ids[blue][:2], tidy=True))
    assert stored(db) == [b"2"]


def test_rejections_count_and_others_do_not(db: sqlite3.Connection) -> None:
    """The third rejection sends a message to the dead letters; a return and an owner's death change nothing."""
    group = queue.join(db, "t", "g", 1.0)
    queue.publish(db, [("t", 1.0, None, "text/plain", '{"k":"v"}', b"x")])
    now, failures = 1.0, []
    for outcome in ("failed", "returned", "failed", "dead", "failed"):
        now += 10
        [(identity, failed, *_)] = queue.exchange(db, turn(group, now, want=1)).rows
        failures.append(failed)
        end = turn(group, now, max_deliveries=3, dead_letter_topic="dead")
        if outcome == "failed":
            end.failed.append((identity, now))
        elif outcome == "returned":
            end.returned.append(identity)
        else:
            queue.bury_owner(db, "one", now, only_if_silent=False)
        buried = queue.exchange(db, end).buried
    assert failures == [0, 1, 1, 2, 2]
    assert buried == [identity]
    dead = db.execute("SELECT content_type, metadata, data FROM broker_messages WHERE topic='dead'").fetchall()
    assert dead == [("text/plain", '{"k":"v"}', b"x")]
    assert queue.exchange(db, turn(group, now + 99, want=1)).rows == []


def test_a_silent_owner_is_buried_and_told(db: sqlite3.Connection) -> None:
    """One that has shown itself is spared; one that comes back learns that its messages went to others."""
    group = queue.join(db, "t", "g", 1.0)
    queue.publish(db, [row("t", 1, 1.0)])
    assert queue.exchange(db, turn(group, 1.0, want=1)).lost, "nobody knew it yet"
    assert queue.bury_owner(db, "one", 60.0, only_if_silent=True) == []
    assert queue.bury_owner(db, "one", 61.0, only_if_silent=True) == ["t"]
    given = queue.exchange(db, turn(group, 62.0, "two", want=1))
    assert len(given.rows) == 1
    late = queue.exchange(db, turn(group, 63.0, "one", want=1, failed=[(given.rows[0][0], 63.0)]))
    assert late.lost
    assert late.rows == [], "its late rejection does not take the message from the other"


def test_retention_without_groups(db: sqlite3.Connection) -> None:
    """A topic that nobody subscribed to keeps its messages for a time; a topic with a group until they are handled."""
    queue.join(db, "kept", "g", 100.0)
    queue.publish(db, [row("t", 1, 10.0), row("t", 2, 95.0), row("kept", 3, 10.0), row("other", 4, 10.0)])
    queue.publish_all(db, [], [(row("t", 5, 10.0), 20.0), (row("t", 6, 10.0), 99.0)])
    queue.keep_house(db, [], 100.0, retention_s=50.0, group_retention_s=0.0)
    assert [stored(db, topic) for topic in ("t", "kept", "other")] == [[b"2"], [b"3"], []]
    assert db.execute("SELECT data FROM broker_delayed").fetchall() == [(b"6",)]


def test_a_group_that_stays_away_is_forgotten(db: sqlite3.Connection) -> None:
    here, away = queue.join(db, "t", "here", 10.0), queue.join(db, "t", "away", 10.0)
    queue.publish(db, [row("t", 1, 10.0)])
    given = queue.exchange(db, turn(here, 10.0, want=1))
    queue.exchange(db, turn(away, 10.0, want=1))
    queue.exchange(db, turn(here, 10.0, done=[given.rows[0][0]]))
    kept = {"retention_s": 10.0, "group_retention_s": 50.0}
    assert queue.keep_house(db, [here], 60.0, **kept) == ([], False)
    assert stored(db) == [b"1"]
    assert queue.keep_house(db, [here], 61.0, **kept) == ([("t", "away")], False)
    assert stored(db) == []
    assert not queue.exchange(db, turn(away, 62.0, want=1)).group_known


def test_expired_messages_pass_by(db: sqlite3.Connection) -> None:
    """In the log and after a rejection."""
    group = queue.join(db, "t", "g", 1.0)
    queue.publish(db, [row("t", 1, 1.0, 5.0), row("t", 2, 1.0, 20.0), row("t", 3, 1.0)])
    given = queue.exchange(db, turn(group, 6.0, want=9))
    assert [data for *_, data in given.rows] == [b"2", b"3"]
    failed = [(one[0], 10.0) for one in given.rows]
    queue.exchange(db, turn(group, 7.0, failed=failed))
    assert [data for *_, data in queue.exchange(db, turn(group, 21.0, want=9)).rows] == [b"3"]


def test_when_to_come_back(db: sqlite3.Connection) -> None:
    """The turn's answer names the next time at which something is due."""
    group = queue.join(db, "t", "g", 1.0)
    assert queue.exchange(db, turn(group, 1.0, want=1)).next_due is None
    queue.publish_all(db, [row("t", 1, 1.0)], [(row("t", 2, 1.0), 50.0)])
    given = queue.exchange(db, turn(group, 1.0, want=1))
    assert given.next_due == 50.0
    assert queue.exchange(db, turn(group, 2.0, failed=[(given.rows[0][0], 17.0)])).next_due == 17.0
    assert queue.stirring(db, {group: "t"}, 16.9) == set()
    assert queue.stirring(db, {group: "t"}, 17.0) == {group}


def test_a_claim_is_bounded_in_bytes(db: sqlite3.Connection) -> None:
    """Large messages are taken few at a time, each of them nevertheless."""
    group = queue.join(db, "t", "g", 1.0)
    for _ in range(4):
        queue.publish(db, [("t", 1.0, None, None, None, bytes(10 * 1024 * 1024))])
    given = queue.exchange(db, turn(group, 1.0, want=9))
    assert (len(given.rows), given.more) == (2, True)
    assert len(queue.exchange(db, turn(group, 1.0, want=9)).rows) == 2


def test_another_layout_is_refused(db: sqlite3.Connection) -> None:
    db.execute("UPDATE broker_about SET layout=2")
    with pytest.raises(ComponentError, match="layout 2"):
        queue.create(db)
