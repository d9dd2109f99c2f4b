"""The reconciliation: what the services counted, against what the file says. Pure.

Nothing here comes from the services' own reading: the rules of `flights.py` are applied to the file's rows, and the
sums are made anew. What was counted by each service on its way must agree in every number.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import flights
from tower import aftermath

if TYPE_CHECKING:
    from tower.watch import Found

OUTCOMES = ("on_time", "late", "cancelled", "lost")
SHOWN = 5
"""How many of the aircraft that differ are named."""
Counts = dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Account:
    """What became of all flights. `imprint` stands for their names, each once.

    `aircraft` are their reports by tail number, `rebooking` is the tally of the workflows.
    """

    airports: Counts
    carriers: Counts
    notes: dict[str, int]
    reasons: dict[str, int]
    total: int
    imprint: str
    aircraft: dict[str, dict[str, Any]]
    rebooking: dict[str, Any]

    @property
    def chases(self) -> dict[str, int]:
        """How often each aircraft is chased."""
        return {tail: each["chased"] for tail, each in self.aircraft.items()}

    def of_aircraft(self, what: str) -> int:
        """Return the sum of a number over all aircraft."""
        return sum(each[what] for each in self.aircraft.values())


def of_file(rows: list[str]) -> Account:
    """Count straight from the file."""
    airports: dict[str, Counter[str]] = {}
    carriers: dict[str, Counter[str]] = {}
    notes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    planes = {plane["tailnum"] for plane in flights.reference("planes")}
    known = {airport["faa"] for airport in flights.reference("airports")}
    names, true = [], []
    for row in rows:
        flight = flights.read(row)
        names.append(flights.name(flight))
        reason = flights.falsehood(flight)
        outcome = "lost" if reason else flights.outcome(flight)
        for counts, key in ((airports, flight["origin"]), (carriers, flight["carrier"])):
            counts.setdefault(key, Counter()).update(["flights", outcome])
        if reason:
            reasons[reason] += 1
            continue
        true.append(flight)
        notes["aircraft not named"] += not flight["tailnum"]
        notes["aircraft unknown"] += bool(flight["tailnum"]) and flight["tailnum"] not in planes
        notes["destination unknown"] += flight["dest"] not in known
        notes["at 24:00"] += "2400" in (flight["dep_time"], flight["arr_time"])
    found = {key: count for key, count in notes.items() if count}
    return Account(
        _plain(airports), _plain(carriers), found, dict(reasons), len(rows), flights.imprint(names),
        aftermath.aircraft(true), aftermath.rebooking(true),
    )  # fmt: skip


def differences(file: Account, found: Found) -> list[str]:
    """Return every number in which a service and the file differ, in words. Empty: all is accounted for."""
    board, lost, counters = found.board, found.lost, found.enrich["counters"]
    shown = {airport: dict(counts) for airport, counts in board["airports"].items()}
    pairs: list[tuple[str, Any, Any]] = [
        ("flights on the board and among the lost", file.total, board["flights"] + lost["flights"]),
        ("names on the board and among the lost", file.imprint, _sum(board["imprint"], lost["imprint"])),
        ("airports, as counted by enrich", file.airports, _of(counters, "airport:")),
        ("airlines, as counted by enrich", file.carriers, _of(counters, "carrier:")),
        ("oddities, as counted by enrich", file.notes, counters.get("notes", {})),
        ("airports, as shown on the board", _without_lost(file.airports), shown),
        ("lost flights by airport", _lost(file.airports), lost["airports"]),
        ("lost flights by reason", file.reasons, lost["reasons"]),
        ("workflows", {"COMPLETED": file.rebooking["flights"]} if file.rebooking["flights"] else {}, found.workflows),
        ("cancelled flights, as counted by rebook", file.rebooking, found.rebook),
        ("flights of aircraft, and those that name none", file.total - lost["flights"],
         sum(each.get("flights", 0) for each in found.aircraft.values())
         + counters.get("notes", {}).get("aircraft not named", 0)),
        ("aircraft", *_unequal(file.aircraft, found.aircraft)),
    ]  # fmt: skip
    return [f"{what}: the file says {right}, counted were {other}" for what, right, other in pairs if right != other]


def _unequal(right: dict[str, Any], found: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return some of what differs in both, nothing when they are equal."""
    keys = sorted(key for key in right.keys() | found.keys() if right.get(key) != found.get(key))[:SHOWN]
    return {key: right.get(key) for key in keys}, {key: found.get(key) for key in keys}


def _plain(counts: dict[str, Counter[str]]) -> Counts:
    return {key: dict(count) for key, count in counts.items()}


def _of(counters: Counts, prefix: str) -> Counts:
    return {key.removeprefix(prefix): value for key, value in counters.items() if key.startswith(prefix)}


def _without_lost(airports: Counts) -> Counts:
    kept = {
        key: {outcome: number for outcome, number in counts.items() if outcome not in ("lost", "flights")}
        for key, counts in airports.items()
    }
    return {key: counts for key, counts in kept.items() if counts}


def _lost(airports: Counts) -> dict[str, int]:
    return {key: counts["lost"] for key, counts in airports.items() if counts.get("lost")}


def _sum(one: str, other: str) -> str:
    return f"{(int(one, 16) + int(other, 16)) % (1 << 64):x}"
