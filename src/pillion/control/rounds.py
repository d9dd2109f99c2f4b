"""The rounds of one namespace, as a machine: lock, tables, unlock (spec `actors-workflows-jobs.md` 1.2, server side).

Knows: which streams there are, what they host, who has answered. Never knows: gRPC, clocks, leadership. `feed` takes
what happened and the monotonic time, and returns what to do, in order.

No table is unlocked before every live stream has answered LOCK and UPDATE of its version. A stream that does not answer
a phase in time is ended, alone; the others go on in a new round. A round is wanted when the hosts with their types are
not those of the last table; a stream that only lacks the table gets it by itself.

A host whose stream ended otherwise than by its own word may run its actors a little longer: it is held, which means
that no table is taken and none unlocked until it must have halted, or is known to be gone, or is back: then no table is
unlocked without it. Look-ups of unchanged types go on meanwhile.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

MOST_RESTARTS = 3
"""Times that one round begins anew because types change in it; later changes wait for the next, so that sidecars that
change theirs all the time keep nobody from an unlock."""


class Phase(Enum):
    """What all streams of the round are to answer; REPORT: there is no round."""

    REPORT = 1
    LOCK = 2
    UPDATE = 3
    UNLOCK = 4


@dataclass(frozen=True, slots=True)
class Row:
    """A host and the types it hosts, sorted. `name` is `ip:port`, the member of the ring."""

    name: str
    app_id: str
    types: tuple[str, ...] = ()


Rows = tuple[Row, ...]


@dataclass(slots=True)
class Member:
    """One live stream."""

    row: Row
    waiting: bool = False
    """It came in the middle of a round, and is part of the next one."""
    answered: bool = False
    served: bool = False
    """It has been sent a table."""


# --- events --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Opened:
    """A new stream, with its first report. Numbers of streams grow."""

    stream: int
    row: Row


@dataclass(frozen=True, slots=True)
class Reported:
    """A further report of a stream."""

    stream: int
    row: Row


@dataclass(frozen=True, slots=True)
class Answered:
    """`phase` None is a client that names no operation: it answers whatever was asked. `version` None: the current."""

    stream: int
    phase: Phase | None
    version: int | None


@dataclass(frozen=True, slots=True)
class Closed:
    """The stream has ended. `hold_s`: its host may not know yet, and keeps its actors for so long."""

    stream: int
    hold_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Ticked:
    """`due` has passed."""


@dataclass(frozen=True, slots=True)
class Freed:
    """The process of this name is known to be gone: it is not held any more."""

    name: str


Event = Opened | Reported | Answered | Closed | Freed | Ticked


# --- effects -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Order:
    """Send one order to these streams; `rows` are the hosts of the table, for UPDATE alone."""

    streams: tuple[int, ...]
    phase: Phase
    version: int
    rows: Rows = ()


@dataclass(frozen=True, slots=True)
class EndSlow:
    """End the stream with DEADLINE_EXCEEDED; it is forgotten already."""

    stream: int
    phase: Phase
    version: int


Effect = Order | EndSlow


class Rounds:
    """The streams of one namespace.

    `version` is the last one that is taken; the first table has the next. `timeout_s` is `--disseminate-timeout`,
    `coalesce_s` how long further hosts are waited for before a round, `not_before` the monotonic time before which no
    round begins (see `actors.membership`), `slow_hold_s` how long a host is held whose stream was too slow.
    """

    def __init__(
        self,
        version: int,
        *,
        timeout_s: float,
        coalesce_s: float = 0.0,
        not_before: float = 0.0,
        slow_hold_s: float = 0.0,
    ) -> None:
        self.version = version
        self.phase = Phase.REPORT
        self.members: dict[int, Member] = {}
        self.untouched = True
        """Whether no stream was ever sent anything."""
        self._held: dict[str, tuple[Row, float]] = {}
        self._table: Rows = ()
        self._timeout_s, self._coalesce_s, self._not_before = timeout_s, coalesce_s, not_before
        self._slow_hold_s = slow_hold_s
        self._until: float | None = None
        self._start_at: float | None = None
        self._restarts = 0

    @property
    def empty(self) -> bool:
        """Whether there is nothing left to remember."""
        return not self.members and not self._held

    @property
    def due(self) -> float | None:
        """When to feed `Ticked`, monotonic seconds."""
        times = [until for _, until in self._held.values()]
        times += [time for time in (self._until, self._start_at) if time is not None]
        return min(times, default=None)

    @property
    def table(self) -> Rows:
        """The hosts of the last table."""
        return self._table

    def feed(self, event: Event, now: float) -> list[Effect]:
        """Take in what happened; return what to do."""
        return _TABLE[type(event)](self, event, now)

    # -- moves --------------------------------------------------------------------------------------------------------

    def _opened(self, event: Opened, now: float) -> list[Effect]:
        member = self.members[event.stream] = Member(event.row)
        if self.phase is not Phase.REPORT:
            member.waiting = True
            if event.row.name in self._held and self._restarts < MOST_RESTARTS:
                self._restarts += 1
                return self._begin(now)
            return []
        self._held.pop(event.row.name, None)
        return self._settle(now, patient=True)

    def _reported(self, event: Reported, now: float) -> list[Effect]:
        member = self.members.get(event.stream)
        if member is None:
            return []
        if member.row == event.row:
            if not event.row.types and self.phase is Phase.REPORT:
                member.served = False
                return self._settle(now, patient=True)
            return []
        member.row = event.row
        if self.phase is Phase.REPORT:
            return self._settle(now, patient=True)
        if member.waiting or self._restarts >= MOST_RESTARTS:
            return []
        self._restarts += 1
        return self._begin(now)

    def _answered(self, event: Answered, now: float) -> list[Effect]:
        member = self.members.get(event.stream)
        if member is None or member.waiting or self.phase is Phase.REPORT:
            return []
        if event.version is not None and event.version != self.version:
            return []
        if event.phase is not None and event.phase is not self.phase:
            return []
        member.answered = True
        return self._advance(now)

    def _closed(self, event: Closed, now: float) -> list[Effect]:
        member = self.members.pop(event.stream, None)
        if member is None:
            return []
        self._hold(member.row, now, event.hold_s)
        if self.phase is Phase.REPORT:
            return self._settle(now)
        return [] if member.waiting else self._advance(now)

    def _freed(self, event: Freed, now: float) -> list[Effect]:
        if self._held.pop(event.name, None) is None:
            return []
        return self._settle(now) if self.phase is Phase.REPORT else self._advance(now)

    def _ticked(self, event: Ticked, now: float) -> list[Effect]:
        for name, (_, until) in list(self._held.items()):
            if now >= until:
                del self._held[name]
        if self.phase is Phase.REPORT:
            return self._settle(now, patient=self._start_at is not None and now < self._start_at)
        if self._until is None or now < self._until:
            return self._advance(now)
        slow = [stream for stream, member in self.members.items() if not member.waiting and not member.answered]
        ended: list[Effect] = [EndSlow(stream, self.phase, self.version) for stream in slow]
        self._until = None  # all others have answered: what they wait for now is a host that is held
        for stream in slow:
            self._hold(self.members.pop(stream).row, now, self._slow_hold_s)
        if slow and self._wanted(self._rows(held=False)):
            return [*ended, *self._begin(now)]
        return [*ended, *self._advance(now)]

    def _hold(self, row: Row, now: float, hold_s: float) -> None:
        if hold_s > 0 and row.types and all(row.name != member.row.name for member in self.members.values()):
            until = self._held[row.name][1] if row.name in self._held else now
            self._held[row.name] = (row, max(until, now + hold_s))

    def _free_at(self, now: float) -> float:
        """When nobody is held any more."""
        return max((until for _, until in self._held.values()), default=now)

    # -- rounds -------------------------------------------------------------------------------------------------------

    def _rows(self, *, waiting: bool = True, held: bool = True) -> Rows:
        """Return the hosts as they are now. Of two streams with one name the later one counts: the other is a ghost."""
        rows = {name: row for name, (row, _) in self._held.items()} if held else {}
        for stream in sorted(self.members):
            member = self.members[stream]
            if waiting or not member.waiting:
                rows[member.row.name] = member.row
        return tuple(rows[name] for name in sorted(rows) if rows[name].types)

    def _wanted(self, rows: Rows) -> bool:
        return rows != self._table

    def _settle(self, now: float, *, patient: bool = False) -> list[Effect]:
        """There is no round: begin one if it is wanted and may begin. `patient` waits for further hosts before."""
        wanted = self._wanted(self._rows())
        lacking = [stream for stream, member in self.members.items() if not member.served]
        if not wanted and not lacking:
            self._start_at = None
            return []
        wait_s = self._coalesce_s if patient and wanted else 0.0
        if self._start_at is None:
            self._start_at = max(now + wait_s, self._not_before)
        elif not patient:
            self._start_at = max(min(self._start_at, now), self._not_before)
        if wanted:
            self._start_at = max(self._start_at, self._free_at(now))
        if now < self._start_at:
            return []
        self._start_at = None
        return self._begin(now) if wanted else self._tell(lacking)

    def _tell(self, streams: Iterable[int]) -> list[Effect]:
        """Give streams that lack it the table that is in force; their answers are not waited for."""
        those = tuple(streams)
        for stream in those:
            self.members[stream].served = True
        self.untouched = False
        return [
            Order(those, Phase.LOCK, self.version),
            Order(those, Phase.UPDATE, self.version, self._table),
            Order(those, Phase.UNLOCK, self.version),
        ]

    def _begin(self, now: float) -> list[Effect]:
        if not self.members:
            self.phase, self._until, self._table = Phase.REPORT, None, self._rows()
            return []
        self.version += 1
        self.phase, self._until, self._start_at = Phase.LOCK, now + self._timeout_s, None
        self.untouched = False
        for member in self.members.values():
            member.waiting = member.answered = False
            self._held.pop(member.row.name, None)  # it is asked itself from now on
        return [Order(tuple(self.members), Phase.LOCK, self.version)]

    def _advance(self, now: float) -> list[Effect]:
        """Go on to the next phase when all of the round have answered."""
        streams = tuple(stream for stream, member in self.members.items() if not member.waiting)
        if not all(self.members[stream].answered for stream in streams):
            return []
        if self.phase is Phase.UNLOCK or not streams:
            return self._end(now)
        if self._free_at(now) > now:
            return []
        self._until = now + self._timeout_s
        for stream in streams:
            self.members[stream].answered = False
        if self.phase is Phase.LOCK:
            self.phase, self._table = Phase.UPDATE, self._rows(waiting=False)
            for stream in streams:
                self.members[stream].served = True
            return [Order(streams, Phase.UPDATE, self.version, self._table)]
        self.phase = Phase.UNLOCK
        return [Order(streams, Phase.UNLOCK, self.version)]

    def _end(self, now: float) -> list[Effect]:
        removed = not {row.name for row in self._table} <= {row.name for row in self._rows()}
        self.phase, self._until, self._restarts = Phase.REPORT, None, 0
        for member in self.members.values():
            member.waiting = False
        return self._settle(now, patient=not removed)

    def __repr__(self) -> str:
        return f"<Rounds {self.version} {self.phase.name}: {len(self.members)} streams, {len(self._held)} held>"


_TABLE: Mapping[type[Any], Callable[[Rounds, Any, float], list[Effect]]] = {
    Opened: Rounds._opened,
    Reported: Rounds._reported,
    Answered: Rounds._answered,
    Closed: Rounds._closed,
    Freed: Rounds._freed,
    Ticked: Rounds._ticked,
}
