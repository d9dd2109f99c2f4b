"""A sidecar's side of placement, as a machine: rounds of lock, update, unlock, and what to do when nobody places.

Knows: the protocol of spec `actors-workflows-jobs.md` 1.2, when a table may be used. Never knows: streams, clocks,
actors. `feed` takes what happened and the monotonic time, and returns what to do, in order.

Outages of placement. A table is used only while no other host can have been given what it gives to us:

- The stream is cut while the server lives: the server took us out of the table and may have placed our actors anew, so
  everything is halted at once, as in the reference.
- The server is gone. A server that promises a grace (`pillion-grace-ms` in its initial metadata) says for itself and
  for every later leader: nobody gives away what you host until `wait_s(grace)` seconds after the end of this leader.
  Then we keep the table for up to `grace` seconds after the loss, but only while every address refuses us or says that
  it does not lead. An address that does not answer may be a leader that we are cut off from: it ends the grace at once.
- A server that takes us within the grace and has given out no table yet (`pillion-untouched`) will ask us before its
  first: no table takes effect without our answer to it. The old one stands until then and nothing is interrupted.
  Without that word another table may be out, and everything is halted.

`wait_s` covers the grace, `SILENCE_S` until a host notices by itself that the server is silent, and `HALT_S` to stop
what runs: a new leader that waits so long cannot meet a turn of the old table.

While a leader lives, a host leaves the table for one of these reasons, and its actors are placed anew
- at once when it ends its stream itself: it has halted before; and when it answers the next table: it has drained;
- `HALT_S` and a margin after the server has told it to go, because it was too slow;
- after its silence has lasted long enough for it to notice the same silence, and to halt;
- when its connection breaks - ended by a killed process, or reset somewhere between two ends that live - after
  `SILENCE_S` to notice, `UNSURE_S` to find out whether there is still a leader, and `HALT_S` to halt. A machine that
  refuses connections to the address of the host says that its process is gone: then at once, so that the takeover of
  a killed sidecar does not wait for the sake of a fault that hardly ever happens (`control/probing.py`);
- when it opens another stream the server waits for nothing else, for no table is unlocked without its answer.

The guarantee, which the simulator judges: no two turns of one actor run at the same time, except beside a host that
stood still (SIGSTOP, a paused machine) since its turn began, until it has noticed; it keeps no table over a loss that
it hears of then, whoever died meanwhile. The assumptions: the engine never
lets two lead at once; monotonic clocks of two machines go alike to within `MARGIN_S` in that time; a connection that
ends at one side has ended for the other within `SILENCE_S`; code that was cancelled ends within `HALT_S`; the address
of a host is its own. State has its own fence for hosts that break them, and for servers that promise no grace (the
reference's, and leadership `none`): those give away at once what was lost, while the old turn may run for `HALT_S`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Any

from pillion.actors.table import Table
from pillion.kinds.actors import NoHost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pillion.kinds.actors import Owner

SILENCE_S = 5.0
"""A sidecar that hears nothing from its placement server for so long gives the stream up."""
HALT_S = 2.0
"""How long halting everything may take: what still runs then is cancelled."""
UNSURE_S = 2.0
"""How long what runs may go on while nobody has said whether there is still a leader."""
MARGIN_S = 1.0
"""What is allowed for clocks that do not go alike."""
GRACE_KEY, UNTOUCHED_KEY = "pillion-grace-ms", "pillion-untouched"
"""Initial metadata of `ReportDaprStatus`: our own, unknown to the reference's programs and ignored by them."""


def wait_s(grace_s: float) -> float:
    """Return how long after the end of a leader the next one must not unlock a table, when `grace_s` was promised."""
    return grace_s + SILENCE_S + HALT_S + MARGIN_S if grace_s > 0 else 0.0


class Operation(Enum):
    """What a sidecar reports; the values are those of `HostOperation`."""

    REPORT = 1
    LOCK = 2
    UPDATE = 3
    UNLOCK = 4


class Phase(Enum):
    """Where we are with the server."""

    AWAY = auto()
    """No stream."""
    ASKED = auto()
    """The stream is open and our report sent; nothing has come yet."""
    STEADY = auto()
    LOCKED = auto()
    DRAINING = auto()
    """The new table is in force; what it takes from us still comes to rest."""
    UPDATED = auto()
    """All of that is done and said; changed types wait for the unlock."""


class Standing(Enum):
    """What the table is worth."""

    NONE = auto()
    WHOLE = auto()
    UNSURE = auto()
    """The stream is lost, and nobody has been asked yet: what runs goes on, what is new waits."""
    ADRIFT = auto()
    """Nobody leads: the table is used until the grace ends."""


# --- events --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Linked:
    """A stream is open."""


@dataclass(frozen=True, slots=True)
class Promised:
    """The server's initial metadata: the grace that it promises, seconds (0: none), and whether no table is out yet."""

    grace_s: float = 0.0
    untouched: bool = False


@dataclass(frozen=True, slots=True)
class Lock:
    version: int


@dataclass(frozen=True, slots=True)
class Update:
    table: Table


@dataclass(frozen=True, slots=True)
class Unlock:
    version: int


@dataclass(frozen=True, slots=True)
class Lost:
    """The stream has ended. `gone`: the server's process, or its leadership, ended with it; else nobody knows."""

    gone: bool


@dataclass(frozen=True, slots=True)
class Passed:
    """Every address was tried since the loss, in vain. `refused`: each of them answered that it does not lead."""

    refused: bool


@dataclass(frozen=True, slots=True)
class TypesChanged:
    types: frozenset[str]


@dataclass(frozen=True, slots=True)
class Drained:
    """What the table of `version` takes from us has come to rest."""

    version: int


@dataclass(frozen=True, slots=True)
class Ticked:
    """`due` has passed."""


Event = Linked | Promised | Lock | Update | Unlock | Lost | Passed | TypesChanged | Drained | Ticked


# --- effects -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Say:
    """Send a message with our name; REPORT goes without version."""

    operation: Operation
    types: frozenset[str]
    version: int | None = None


@dataclass(frozen=True, slots=True)
class Drain:
    """Bring to rest what the table no longer gives us among `types`, then feed `Drained`."""

    types: frozenset[str]
    version: int


@dataclass(frozen=True, slots=True)
class Settle:
    """The owners of these types are known again. Whoever waits looks again."""

    types: frozenset[str]


@dataclass(frozen=True, slots=True)
class Wake:
    """Whoever waits looks again."""


@dataclass(frozen=True, slots=True)
class HaltAll:
    """Deactivate every instance, within `HALT_S`, before the next stream is opened."""

    why: str


@dataclass(frozen=True, slots=True)
class Disconnect:
    """End the stream, once everything is halted: until then the server must count on us. `Lost` is not fed for it."""

    why: str


Effect = Say | Drain | Settle | Wake | HaltAll | Disconnect


class OutOfOrder(Exception):
    """An event that has no place in this phase: a defect of the driver's."""


class Membership:
    """One sidecar's place among the others. `timeout_s` is `--actors-disseminate-timeout`."""

    def __init__(self, timeout_s: float) -> None:
        self.phase = Phase.AWAY
        self.standing = Standing.NONE
        self.table = Table()
        self.types: frozenset[str] = frozenset()
        self.blocked: frozenset[str] = frozenset()
        """Types whose owners have changed and are not released yet."""
        self._timeout_s = timeout_s
        self._grace_s = 0.0
        self._order = 0
        """The greatest version heard of on this stream."""
        self._unlock_early = 0
        """The version whose unlock came while its drain still ran: a host that changes nothing for others is sent lock,
        table and unlock at once."""
        self._update_until: float | None = None
        self._keep_until: float | None = None
        self._lost_at = 0.0

    @property
    def due(self) -> float | None:
        """When to feed `Ticked`, monotonic seconds."""
        times = [time for time in (self._update_until, self._keep_until) if time is not None]
        return min(times, default=None)

    def feed(self, event: Event, now: float) -> list[Effect]:
        """Take in what happened; return what to do. Raises `OutOfOrder`."""
        phases, move = _TABLE[type(event)]
        if self.phase not in phases:
            raise OutOfOrder(f"{event} while {self.phase.name}")
        return move(self, event, now)

    def find(self, actor_type: str, actor_id: str, now: float) -> Owner | None:
        """Return who owns an actor, or None when the answer must be waited for. Raises `NoHost`."""
        if self.standing is not Standing.WHOLE and not self._adrift(now):
            return None
        if actor_type in self.blocked:
            return None
        ring = self.table.rings.get(actor_type)
        owner = None if ring is None else ring.owner(actor_id)
        if owner is None:
            raise NoHost(f"did not find address for actor '{actor_type}/{actor_id}'")
        return owner

    def _adrift(self, now: float) -> bool:
        """Asked at each look-up: a timer that comes late must not stretch the grace."""
        return self.standing is Standing.ADRIFT and self._keep_until is not None and now < self._keep_until

    # -- moves --------------------------------------------------------------------------------------------------------

    def _linked(self, event: Linked, now: float) -> list[Effect]:
        self.phase, self._order = Phase.ASKED, 0
        return [Say(Operation.REPORT, self.types)]

    def _promised(self, event: Promised, now: float) -> list[Effect]:
        self._grace_s = event.grace_s
        self.phase = Phase.STEADY
        if self.standing is Standing.NONE:
            return []
        if event.untouched and self._keep_until is not None and now < self._keep_until:
            self.standing, self._keep_until = Standing.WHOLE, None
            return [Wake()]
        return self._give_up("placement may have given another table")

    def _locked(self, event: Lock, now: float) -> list[Effect]:
        if event.version < self._order:
            return self._give_up(f"a lock of version {event.version} behind {self._order}")
        self.phase, self._order = Phase.LOCKED, event.version
        self._update_until = now + self._timeout_s
        return [Say(Operation.LOCK, self.types, event.version)]

    def _updated(self, event: Update, now: float) -> list[Effect]:
        table = event.table
        if table.version < self._order:
            return self._give_up(f"a table of version {table.version} behind {self._order}")
        self._order, self._unlock_early = table.version, 0
        self._update_until = None
        self.blocked |= self.table.changed(table)
        self.table = table
        self.phase = Phase.DRAINING
        return [Drain(self.blocked, table.version)]

    def _drained(self, event: Drained, now: float) -> list[Effect]:
        if self.phase is not Phase.DRAINING or event.version != self.table.version:
            return []  # overtaken by another round, or by the end of the stream
        self.phase = Phase.UPDATED
        said: list[Effect] = [Say(Operation.UPDATE, self.types, event.version)]
        return said + self._unlocked(Unlock(event.version), now) if self._unlock_early == event.version else said

    def _unlocked(self, event: Unlock, now: float) -> list[Effect]:
        if event.version != self.table.version:
            return []
        if self.phase is Phase.DRAINING:
            self._unlock_early = event.version
        if self.phase is not Phase.UPDATED:
            return []
        released, self.blocked = self.blocked, frozenset()
        self.phase, self.standing = Phase.STEADY, Standing.WHOLE
        return [Say(Operation.UNLOCK, self.types, event.version), Settle(released)]

    def _lost(self, event: Lost, now: float) -> list[Effect]:
        asked, self.phase, self._update_until = self.phase is Phase.ASKED, Phase.AWAY, None
        if self.standing is Standing.NONE or asked:
            return []  # there is nothing to lose, or this was only a try: `Passed` tells what they came to
        if event.gone and self._grace_s > 0:
            self.standing, self._lost_at = Standing.UNSURE, now
            self._keep_until = now + min(UNSURE_S, self._grace_s)
            return []
        return self._halt("the stream to placement is lost")

    def _passed(self, event: Passed, now: float) -> list[Effect]:
        if self.standing is Standing.NONE:
            return []
        if not event.refused:
            return self._halt("no answer from placement: it may have placed our actors elsewhere")
        if self.standing is Standing.UNSURE:
            self.standing, self._keep_until = Standing.ADRIFT, self._lost_at + self._grace_s
            return [Wake()]
        return []

    def _types_changed(self, event: TypesChanged, now: float) -> list[Effect]:
        if event.types == self.types:
            return []
        added, self.types = event.types - self.types, event.types
        said: list[Effect] = [] if self.phase is Phase.AWAY else [Say(Operation.REPORT, self.types)]
        # A type that was withdrawn and is hosted again before any round took it from us: no table will tell of it.
        known = frozenset(name for name in added - self.blocked if self._names_us(name))
        return [*said, Settle(known)] if known else said

    def _names_us(self, actor_type: str) -> bool:
        """Whether the table in force has this host among those of the type."""
        ring = self.table.rings.get(actor_type)
        return ring is not None and any(owner.local for owner in ring.members.values())

    def _ticked(self, event: Ticked, now: float) -> list[Effect]:
        if self._update_until is not None and now >= self._update_until:
            return self._give_up(f"no table within {self._timeout_s:g} s of its lock")
        if self._keep_until is not None and now >= self._keep_until:
            unsure = self.standing is Standing.UNSURE
            why = "no word of any placement server" if unsure else "no placement server for as long as was granted"
            return self._halt(why) if self.phase is Phase.AWAY else self._give_up(why)
        return []

    def _give_up(self, why: str) -> list[Effect]:
        return [*self._halt(why), Disconnect(why)]

    def _halt(self, why: str) -> list[Effect]:
        held = self.standing is not Standing.NONE or bool(self.table.rings)
        self.phase, self.standing = Phase.AWAY, Standing.NONE
        self.table, self.blocked = Table(), frozenset()
        self._update_until = self._keep_until = None
        return [HaltAll(why)] if held else []

    def __repr__(self) -> str:
        return f"<Membership {self.phase.name}, {self.standing.name}, {self.table!r}, {len(self.blocked)} blocked>"


_ALL = frozenset(Phase)
_SERVED = frozenset((Phase.STEADY, Phase.LOCKED, Phase.DRAINING, Phase.UPDATED))
_TABLE: Mapping[type[Any], tuple[frozenset[Phase], Callable[[Membership, Any, float], list[Effect]]]] = {
    Linked: (frozenset((Phase.AWAY,)), Membership._linked),
    Promised: (frozenset((Phase.ASKED,)), Membership._promised),
    Lock: (_SERVED, Membership._locked),
    Update: (_SERVED, Membership._updated),
    Unlock: (_SERVED, Membership._unlocked),
    Lost: (_ALL - {Phase.AWAY}, Membership._lost),
    Passed: (frozenset((Phase.AWAY,)), Membership._passed),
    TypesChanged: (_ALL, Membership._types_changed),
    Drained: (_ALL, Membership._drained),
    Ticked: (_ALL, Membership._ticked),
}
"""For each event: the phases in which it may come, and the move. What is not listed is an error."""
