"""Who sat in a flight that was cancelled, and where there is room: made up, for the file names no passengers.

Every number follows from the name of a flight alone, so that whoever asks gets the same one. Later flights are those of
the same route and day that did depart, as the file knows with hindsight. Pure.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

import flights

if TYPE_CHECKING:
    from collections.abc import Iterable

ATTEMPTS = 5
"""How often the airline's reservations are asked to move the passengers of a flight."""
NEVER = 99
"""Refusals of a flight that will not be moved, however often it is asked."""


class Departure(NamedTuple):
    """A flight that departs. `scheduled` is hours and minutes, as the file writes them: 1305."""

    scheduled: int
    name: str


class Timetable:
    """What departs, by day and route, in order of schedule."""

    def __init__(self, rows: Iterable[str]) -> None:
        self._departures: dict[str, list[Departure]] = {}
        for row in rows:
            flight = flights.read(row)
            if flight["dep_time"] and not flights.falsehood(flight):
                departure = Departure(int(flight["sched_dep_time"]), flights.name(flight))
                self._departures.setdefault(route(departure.name, flight["dest"]), []).append(departure)
        for departures in self._departures.values():
            departures.sort()

    def later(self, name: str, destination: str, scheduled: int) -> list[Departure]:
        """Return what departs later on the same day, to the same place, the earliest first."""
        return [each for each in self._departures.get(route(name, destination), ()) if each.scheduled > scheduled]


def route(name: str, destination: str) -> str:
    """Return day, origin and destination of a flight."""
    day, _, rest = name.partition("-")
    return f"{day}-{rest.rpartition('-')[2]}-{destination}"


def passengers(name: str) -> int:
    return 40 + _dice(name, "passengers") % 120


def free_seats(name: str) -> int:
    """How many seats of a flight are free before anybody is moved."""
    return _dice(name, "seats") % 30


def refusals(name: str) -> int:
    """How often the reservations fail before they move the passengers of a flight: `NEVER` for one flight in ten."""
    return NEVER if _dice(name, "stubborn") % 10 == 0 else _dice(name, "moody") % (ATTEMPTS - 1)


def _dice(name: str, what: str) -> int:
    return int.from_bytes(hashlib.sha256(f"{what} {name}".encode()).digest()[:4], "big")
