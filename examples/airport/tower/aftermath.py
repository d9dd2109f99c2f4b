"""What must have become of aircraft and of the passengers of cancelled flights, straight from the file. Pure.

The services enter flights one by one, in whatever order they come, and take seats the earliest first, several at a
time. Here sums are made over all rows, and seats are given from the evening backwards: another way to the same total.
(Whoever is cancelled earlier may take all seats that those cancelled later may take, and takes others first. So none is
left empty that somebody wanted, in whatever order they come.)
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import bookings
import flights
import logbook

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flights import Flight


def aircraft(true: Iterable[Flight]) -> dict[str, dict[str, Any]]:
    """Return what each aircraft reports, by tail number, when it has been told of all its flights."""
    names: dict[str, list[str]] = {}
    sums: dict[str, Counter[str]] = {}
    last: dict[str, tuple[tuple[int, ...], str, str]] = {}
    for flight in true:
        if not (tail := flight["tailnum"]):
            continue
        name, counts = flights.name(flight), sums.setdefault(tail, Counter())
        names.setdefault(tail, []).append(name)
        if not flight["dep_time"]:
            continue
        late_min = int(flight["arr_delay"])
        counts["flown"] += 1
        counts["late_min"] += late_min if late_min > 0 else 0
        counts["chased"] += late_min >= logbook.CHASE_MIN
        at = tuple(int(flight[column]) for column in ("year", "month", "day", "sched_dep_time"))
        last[tail] = max(last.get(tail, ((), "", "")), (at, name, flight["dest"]))
    return {
        tail: {
            "flights": len(names[tail]),
            "flown": counts["flown"],
            "late_min": counts["late_min"],
            "chased": counts["chased"],
            "at": last[tail][2] if tail in last else "",
            "imprint": flights.imprint(names[tail]),
        }
        for tail, counts in sums.items()
    }


def rebooking(true: Iterable[Flight]) -> dict[str, Any]:
    """Return the tally of rebooking when each cancelled flight has been dealt with."""
    totals: Counter[str] = Counter(flights=0, passengers=0, rebooked=0, refunded=0, refused=0)
    routes: dict[tuple[str, ...], list[Flight]] = {}
    names = []
    for flight in true:
        key = tuple(flight[column] for column in ("year", "month", "day", "origin", "dest"))
        routes.setdefault(key, []).append(flight)
        if not flight["dep_time"]:
            name = flights.name(flight)
            names.append(name)
            refused = bookings.refusals(name) >= bookings.ATTEMPTS
            totals.update(flights=1, passengers=bookings.passengers(name), refused=int(refused))
    totals["rebooked"] = sum(map(_seated, routes.values()))
    totals["refunded"] = totals["passengers"] - totals["rebooked"]
    return dict(totals) | {"imprint": flights.imprint(names)}


def _seated(route: list[Flight]) -> int:
    """Return how many passengers of one route and day find a seat on a later flight."""
    seats = seated = 0
    by_time: dict[int, list[Flight]] = {}
    for flight in route:
        by_time.setdefault(int(flight["sched_dep_time"]), []).append(flight)
    for time in sorted(by_time, reverse=True):
        names = [(flights.name(flight), bool(flight["dep_time"])) for flight in by_time[time]]
        for name, departed in names:
            if not departed and bookings.refusals(name) < bookings.ATTEMPTS:
                taken = min(seats, bookings.passengers(name))
                seated, seats = seated + taken, seats - taken
        seats += sum(bookings.free_seats(name) for name, departed in names if departed)
    return seated
