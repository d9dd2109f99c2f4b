"""What an aircraft remembers of its flights. Pure: a log goes in, another one comes out.

A log has `flights`, by name: schedule, destination ("" when the flight was cancelled) and minutes late; and `chased`,
the names of flights for which somebody went after the aircraft.
"""

from __future__ import annotations

from typing import Any

import flights

Log = dict[str, Any]
CHASE_MIN = 90
"""How late an arrival is that has the aircraft chased."""


def told(flight: flights.Flight) -> dict[str, Any]:
    """Return what an aircraft is told of one of its flights, from the file's row, which can be true."""
    month, day, scheduled = (int(flight[column]) for column in ("month", "day", "sched_dep_time"))
    cancelled = not flight["dep_time"]
    return {
        "name": flights.name(flight),
        "scheduled": f"{flight['year']}-{month:02}-{day:02} {scheduled:04}",
        "to": "" if cancelled else flight["dest"],
        "late_min": 0 if cancelled else max(0, int(flight["arr_delay"])),
    }


def is_to_be_chased(flight: dict[str, Any]) -> bool:
    late_min: int = flight["late_min"]
    return late_min >= CHASE_MIN


def entered(log: Log, flight: dict[str, Any]) -> Log:
    """Return the log with a flight, which it may have already."""
    entry = [flight["scheduled"], flight["to"], flight["late_min"]]
    return log | {"flights": log["flights"] | {flight["name"]: entry}}


def chased(log: Log, name: str) -> Log:
    """Return the log with the note that the aircraft was chased for a flight."""
    return log if name in log["chased"] else log | {"chased": sorted([*log["chased"], name])}


def summary(log: Log) -> dict[str, Any]:
    """Return the sums of a log; `at` is where the last flight went, by schedule, "" when none departed."""
    flown = [(scheduled, name, to) for name, (scheduled, to, _) in log["flights"].items() if to]
    return {
        "flights": len(log["flights"]),
        "flown": len(flown),
        "late_min": sum(late_min for *_, late_min in log["flights"].values()),
        "chased": len(log["chased"]),
        "at": max(flown)[2] if flown else "",
        "imprint": flights.imprint(log["flights"]),
    }
