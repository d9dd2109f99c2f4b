"""The reconciliation: what the services counted, against what the file says. Pure.

Nothing here comes from the services' own reading: the rules of `flights.py` are applied to the file's rows, and the
sums are made anew. What was counted by each service on its way must agree in every number.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import flights

OUTCOMES = ("on_time", "late", "cancelled", "lost")
Counts = dict[str, dict[str, int]]


@dataclass(frozen=True, slots=True)
class Account:
    """What became of all flights. `imprint` stands for their names, each once."""

    airports: Counts
    carriers: Counts
    notes: dict[str, int]
    reasons: dict[str, int]
    total: int
    imprint: str


def of_file(rows: list[str]) -> Account:
    """Count straight from the file."""
    airports: dict[str, Counter[str]] = {}
    carriers: dict[str, Counter[str]] = {}
    notes: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    planes = {plane["tailnum"] for plane in flights.reference("planes")}
    known = {airport["faa"] for airport in flights.reference("airports")}
    names = []
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
        notes["aircraft not named"] += not flight["tailnum"]
        notes["aircraft unknown"] += bool(flight["tailnum"]) and flight["tailnum"] not in planes
        notes["destination unknown"] += flight["dest"] not in known
        notes["at 24:00"] += "2400" in (flight["dep_time"], flight["arr_time"])
    found = {key: count for key, count in notes.items() if count}
    return Account(_plain(airports), _plain(carriers), found, dict(reasons), len(rows), flights.imprint(names))


def differences(file: Account, enrich: dict[str, Any], board: dict[str, Any], lost: dict[str, Any]) -> list[str]:
    """Return every number in which a service and the file differ, in words. Empty: all is accounted for."""
    counters = enrich["counters"]
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
    ]
    return [f"{what}: the file says {right}, counted were {found}" for what, right, found in pairs if right != found]


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
