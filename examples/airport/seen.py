"""What the enriching service makes of one flight: read, judged, described. Pure: state goes in, nothing is asked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import flights

NOTES = "notes"
Known = dict[str, tuple[Any, str]]
"""Value and ETag by key, of what is in state."""


@dataclass(slots=True)
class Seen:
    """One flight as it came. `reason` is why it cannot be true; `entries` are the messages that told of it."""

    name: str
    flight: flights.Flight
    reason: str | None
    entries: list[str] = field(default_factory=list)

    @property
    def record(self) -> str:
        return f"flight:{self.name}"

    @property
    def counters(self) -> tuple[str, ...]:
        if self.reason == flights.FORGED:
            return (NOTES,)
        return (f"airport:{self.flight['origin']}", f"carrier:{self.flight['carrier']}", NOTES)

    @property
    def has_aircraft(self) -> bool:
        """Whether there is an aircraft to be told: the row can be true and names one."""
        return not self.reason and bool(self.flight["tailnum"])

    @property
    def asks(self) -> tuple[str, ...]:
        """What is to be looked up for it."""
        keys = (
            ("airline", self.flight.get("carrier")),
            ("airport", self.flight.get("dest")),
            ("plane", self.flight.get("tailnum")),
        )
        return tuple(f"known-{kind}:{key}" for kind, key in keys if key)

    @property
    def outcome(self) -> str:
        return "lost" if self.reason else flights.outcome(self.flight)


def look(event: dict[str, str], key: str) -> Seen:
    """Read what the feed published; a row that it did not sign is not even read."""
    row = event["row"]
    if not flights.genuine(row, event["signature"], key):
        return Seen("forged-" + hashlib.sha256(row.encode()).hexdigest()[:16], {}, flights.FORGED)
    flight = flights.read(row)
    return Seen(flights.name(flight), flight, flights.falsehood(flight))


def enriched(seen: Seen, known: Known) -> dict[str, Any]:
    """Return the event for everybody who wants to know of flights."""
    flight = seen.flight

    def about(kind: str, column: str) -> Any:
        return known.get(f"known-{kind}:{flight[column]}", (None, ""))[0]

    return {
        "name": seen.name,
        "origin": flight["origin"],
        "destination": {"code": flight["dest"], "known": about("airport", "dest")},
        "airline": {"code": flight["carrier"], "known": about("airline", "carrier")},
        "aircraft": {"code": flight["tailnum"] or None, "known": about("plane", "tailnum")},
        "scheduled": int(flight["sched_dep_time"]),
        "cancelled": not flight["dep_time"],
        "departed": _clock(flight["dep_time"]),
        "departure_delay": _number(flight["dep_delay"]),
        "arrival_delay": _number(flight["arr_delay"]),
    }


def notes(seen: Seen, known: Known) -> list[str]:
    """Return what is odd about a flight, though it may be true."""
    flight = seen.flight
    if seen.reason:
        return []
    found = []
    if not flight["tailnum"]:
        found.append("aircraft not named")
    elif f"known-plane:{flight['tailnum']}" not in known:
        found.append("aircraft unknown")
    if f"known-airport:{flight['dest']}" not in known:
        found.append("destination unknown")
    if str(flights.MIDNIGHT) in (flight["dep_time"], flight["arr_time"]):
        found.append("at 24:00")
    return found


def _number(text: str) -> int | None:
    return int(text) if text else None


def _clock(time: str) -> str | None:
    """Return a time as people write it; 2400 is the midnight that ends the day."""
    return f"{int(time) // 100 % 24:02}:{int(time) % 100:02}" if time else None
