"""How often a piece of work took a worker, or a whole sidecar, down with it, and what follows from that. Pure.

The owner of an instance counts, for all replicas. What it counted is written with the instance, so that neither a
restart nor a move begins the count anew:

    a worker was lost that held the work                            -> one loss
    the sidecar was lost that ran it for the owner                  -> one loss
    the owner itself was lost: the next one finds the work open     -> one loss, for all that was under way may have
                                                                       done it; but of what is under suspicion only
                                                                       for the one that was being tried

From `SUSPICIOUS` losses on work runs apart: a host tries one such piece at a time, and says so in the rows before a
worker has it. So what merely stood by is told from what takes workers down: that alone comes to `MOST_LOSSES`, and is
put aside. A worker, a sidecar or an owner that leaves in order is no loss.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from pillion.workflow.history import varint

if TYPE_CHECKING:
    from collections.abc import Container, Iterable

MOST_LOSSES = 5
"""So many losses, and a piece of work is put aside (quarantine)."""
SUSPICIOUS = 3
"""So many, and it runs apart."""
TURN = -1
"""In the place of an activity's number: the turn of the workflow itself."""
_AT_REST, _TRIED = 1, 1


class Lost(StrEnum):
    """What was lost; its value is what one sidecar says to another."""

    WORKER = "worker"
    HOST = "host"


@dataclass(frozen=True, slots=True)
class Tally:
    """The losses of one piece of work. `tried`: its owner gave it to a worker on purpose, apart from other suspects."""

    workers: int = 0
    hosts: int = 0
    tried: bool = False

    @property
    def count(self) -> int:
        return self.workers + self.hosts

    def after(self, lost: Lost) -> Tally:
        if lost is Lost.WORKER:
            return Tally(self.workers + 1, self.hosts)
        return Tally(self.workers, self.hosts + 1)

    @property
    def why(self) -> str:
        """What happened, for people; "" for nothing."""
        kinds = ((self.workers, "worker"), (self.hosts, "sidecar"))
        named = [f"{count} {kind}{'s' if count > 1 else ''}" for count, kind in kinds if count]
        if not named:
            return ""
        return f"{' and '.join(named)} {'were' if self.count > 1 else 'was'} lost while they ran it"


NOTHING = Tally()


class Losses:
    """The tallies of one instance, by the number of the activity, or `TURN`; what is not there has lost nothing.

    `at_rest`: the owner has parted with the instance in order, so what is open then was not cut off by a crash.
    """

    __slots__ = ("at_rest", "tallies")

    def __init__(self, tallies: dict[int, Tally] | None = None, *, at_rest: bool = False) -> None:
        self.tallies = tallies or {}
        self.at_rest = at_rest

    def of(self, task_id: int) -> Tally:
        return self.tallies.get(task_id, NOTHING)

    def suspicious(self, task_id: int) -> bool:
        return bool(self.tallies) and self.of(task_id).count >= SUSPICIOUS

    def aside(self, task_id: int) -> bool:
        """Whether it is put aside."""
        return bool(self.tallies) and self.of(task_id).count >= MOST_LOSSES

    # --- what happens ---

    def lost(self, task_id: int, what: Lost) -> None:
        self.tallies[task_id] = self.of(task_id).after(what)

    def trying(self, task_id: int) -> None:
        """A suspect is about to be given to a worker."""
        self.tallies[task_id] = replace(self.of(task_id), tried=True)

    def recovered(self, open_: Iterable[int]) -> None:
        """The former owner was lost with all that it had under way, of which `open_` is without a result."""
        for task_id in open_:
            tally = self.of(task_id)
            if not self.aside(task_id) and (tally.tried or not self.suspicious(task_id)):
                self.lost(task_id, Lost.HOST)

    def rest(self) -> None:
        """The owner parts with the instance."""
        self.at_rest = True
        for task_id, tally in self.tallies.items():
            if tally.tried:
                self.tallies[task_id] = replace(tally, tried=False)

    def forget(self, task_id: int) -> None:
        """It has come to its end, or is given another chance."""
        self.tallies.pop(task_id, None)

    def keep(self, open_: Container[int]) -> None:
        """Forget all that is not open any more."""
        self.tallies = {task_id: tally for task_id, tally in self.tallies.items() if task_id in open_}

    # --- as a row ---

    def pack(self) -> bytes:
        """As it is kept; b"" when there is nothing to keep."""
        if not self.tallies and not self.at_rest:
            return b""
        numbers = [_AT_REST if self.at_rest else 0]
        for task_id, tally in sorted(self.tallies.items()):
            numbers += (task_id + 1, tally.workers, tally.hosts, _TRIED if tally.tried else 0)
        return b"".join([varint(number) for number in numbers])

    @classmethod
    def unpack(cls, raw: bytes) -> Losses:
        """Raises `ValueError` for what `pack` does not make."""
        if not raw:
            return cls()
        numbers = _numbers(raw)
        if len(numbers) % 4 != 1:
            raise ValueError("losses that are cut off")
        tallies = {
            numbers[at] - 1: Tally(numbers[at + 1], numbers[at + 2], bool(numbers[at + 3] & _TRIED))
            for at in range(1, len(numbers), 4)
        }
        return cls(tallies, at_rest=bool(numbers[0] & _AT_REST))

    def __repr__(self) -> str:
        return f"<Losses {self.tallies}{' at rest' if self.at_rest else ''}>"


def _numbers(raw: bytes) -> list[int]:
    found: list[int] = []
    number = shift = 0
    for byte in raw:
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            found.append(number)
            number = shift = 0
        elif shift > 63:
            raise ValueError("a number that is too large")
    if shift:
        raise ValueError("losses that are cut off")
    return found
