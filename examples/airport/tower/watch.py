"""How far the services are: asked through a sidecar of the tower's own, and those of the fleet and of rebooking.

Knows: what a run looks like when it moves, and when it does not. Never knows: what the numbers ought to be.
"""

from __future__ import annotations

import json
import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tower import show

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterable

    from tower.scene import Scene

STALL_S = 90.0
"""How long nothing may move before the run counts as failed: longer than a broker waits before it delivers again."""
LOOK_S = 0.25
STOP_S = 30.0
AT_ONCE = 8
"""Aircraft that are asked for a report at the same time."""
PAGE = 1000
COUNTING = ("enrich", "board", "lost", "rebook")
"""Services that keep a tally."""
Tally = dict[str, Any]


class Stalled(Exception):
    """The run does not come to its end; the text says what was seen last."""


@dataclass(frozen=True, slots=True)
class Found:
    """What the services say when all is done: tallies, the aircraft's reports by tail number, workflows by status."""

    enrich: Tally
    board: Tally
    lost: Tally
    rebook: Tally
    aircraft: dict[str, Tally]
    workflows: dict[str, int]


@dataclass(frozen=True, slots=True)
class Goal:
    """When all is done: so many flights, repeats, cancelled flights, and chases by tail number."""

    flights: int
    repeats: int
    cancelled: int
    chases: dict[str, int]


def to_the_end(here: Scene, process: subprocess.Popen[bytes], goal: Goal) -> Found:
    """Wait until everything is in; return what the services say. Raises `Stalled`."""
    until(here, process, goal.flights, goal.flights)
    _moving(process, "repeats", goal.repeats, lambda: ask(here, "enrich").get("repeated", 0))
    show.step(f"all flights are in; {situation(here)}")
    _moving(process, "cancelled flights dealt with", goal.cancelled, lambda: ask(here, "rebook").get("flights", 0))
    flows: dict[str, int] = {}
    aircraft: dict[str, Tally] = {}

    def completed() -> int:
        flows.clear()
        flows.update(workflows(here))
        return flows.get("COMPLETED", 0)

    def settled() -> int:
        """How many aircraft have reported, all their chases with it; reminders may still be under way."""
        waiting = [tail for tail, number in goal.chases.items() if aircraft.get(tail, {}).get("chased", -1) < number]
        aircraft.update(reports(here, waiting))
        return sum(aircraft[tail].get("chased", -1) >= number for tail, number in goal.chases.items())

    _moving(process, "workflows completed", goal.cancelled, completed)
    _moving(process, "aircraft with all their chases", len(goal.chases), settled)
    tallies: dict[str, Tally] = {}

    def answers() -> int:
        """An instance that has just been started may not answer yet."""
        tallies.update({who: found for who in COUNTING if who not in tallies and (found := ask(here, who))})
        return len(tallies)

    _moving(process, "services that answer", len(COUNTING), answers)
    return Found(**tallies, aircraft=aircraft, workflows=flows)


def until(here: Scene, process: subprocess.Popen[bytes], total: int, number: int) -> int:
    """Show progress until so many of all flights are in; return how many they are. Raises `Stalled`."""
    with show.progress(total, here.started) as tell:

        def done() -> int:
            shown, lost = (ask(here, who).get("flights", 0) for who in ("board", "lost"))
            tell(shown, lost)
            return int(shown + lost)

        return _moving(process, f"of {total} flights", number, done)


def _moving(process: subprocess.Popen[bytes], what: str, number: int, look: Callable[[], int]) -> int:
    """Look until there are so many; return how many they are. Raises `Stalled` when nothing moves."""
    last, moved = -1, time.monotonic()
    while (done := look()) < number:
        if done != last:
            last, moved = done, time.monotonic()
        if process.poll() is not None:
            raise Stalled(f"pillion run has ended with status {process.returncode}")
        if time.monotonic() - moved > STALL_S:
            raise Stalled(f"nothing moves: {done} {what} after {STALL_S:g} s, not {number}")
        time.sleep(LOOK_S)
    return done


def situation(here: Scene) -> str:
    """Say where aircraft live, and how far the workflows are."""
    lives = [aircraft(port) for port in here.sidecars["fleet"]]
    where = " and ".join(str(each) if each is not None else "no answer" for each in lives)
    found = workflows(here)
    states = ", ".join(f"{number} {status.lower()}" for status, number in sorted(found.items())) or "none"
    return f"aircraft on the instances of fleet: {where}; workflows: {states}"


def aircraft(port: int) -> int | None:
    """Return how many aircraft live at a sidecar, by its metadata; None when it does not answer."""
    runtime = _get(port, "v1.0/metadata").get("actorRuntime")
    if runtime is None:
        return None
    return sum(each.get("count", 0) for each in runtime.get("activeActors", ()) if each["type"] == "Aircraft")


def workflows(here: Scene) -> dict[str, int]:
    """Return how many workflows there are by status, as the first sidecar that answers tells."""
    for port in here.sidecars["rebook"]:
        counts: dict[str, int] = {}
        token = ""
        while page := _get(port, f"v1.0-pillion/workflows?limit={PAGE}&token={token}"):
            for each in page["workflows"]:
                counts[each["status"]] = counts.get(each["status"], 0) + 1
            token = page["token"]
            if not token:
                return counts
    return {}


def reports(here: Scene, tails: Iterable[str]) -> dict[str, Tally]:
    """Ask aircraft how things stand, through the tower's sidecar; nothing from one that cannot answer."""

    def one(tail: str) -> Tally:
        return _get(here.port, f"v1.0/actors/Aircraft/{tail}/method/Report", method="PUT")

    tails = sorted(tails)
    with ThreadPoolExecutor(AT_ONCE) as workers:
        return dict(zip(tails, workers.map(one, tails), strict=True))


def ask(here: Scene, who: str) -> Tally:
    """Ask a service for its tally; nothing while it cannot answer."""
    return _get(here.port, f"v1.0/invoke/{who}/method/tally")


def _get(port: int, path: str, *, method: str = "GET") -> Tally:
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: Tally = json.load(answer)
            return found
    except (OSError, ValueError):
        return {}


def gone(ports: Iterable[int]) -> None:
    """Wait until nobody listens on ports any more: applications outlive a killed `pillion run` by a moment.

    Raises `Stalled`.
    """
    deadline = time.monotonic() + STOP_S
    for port in ports:
        while listened(port):
            if time.monotonic() > deadline:
                raise Stalled(f"somebody still listens on port {port}, though pillion run was killed")
            time.sleep(0.05)


def listened(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
