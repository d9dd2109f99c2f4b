"""The demo in small form: real applications in two languages, with the official SDKs and without, on every choice of
components. What it proves it proves itself: it ends with 0 only when its reconciliation closes.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import pty
import random
import re
import signal
import subprocess
import sys
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from servers import ServerMissing, program

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parent.parent.parent
FLIGHTS = 500
"""Enough for dead letters: the 453rd flight is the first that cannot be true."""
RUN_S = 240
MARK = "PILLION_TEST_MARK"


def demo(*options: str, flights: int = FLIGHTS) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end, without a terminal."""
    command = [str(ROOT / "demo"), "--flights", str(flights), *options]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=RUN_S
    )


def reconciled(done: subprocess.CompletedProcess[str]) -> str:
    """Return what it printed, once it is known to be good."""
    assert done.returncode == 0, done.stdout
    assert f"reconciled: each of {FLIGHTS} flights is accounted for exactly once" in done.stdout, done.stdout
    assert "cannot be true: 2 arrived, no flight time" in done.stdout
    assert "cancelled: 2 workflows for " in done.stdout
    assert "aircraft: 436 with 498 flights" in done.stdout
    assert "kill -9 of the second sidecars of fleet and rebook" in done.stdout
    return done.stdout


def need(name: str, package: str, also_in: str = "") -> None:
    try:
        program(name, package, also_in=also_in)
    except ServerMissing as missing:
        if os.environ.get("PILLION_REQUIRE_SERVERS") == "1":
            pytest.fail(f"{missing} (PILLION_REQUIRE_SERVERS=1)")
        pytest.skip(str(missing))


@pytest.mark.timeout(300)
def test_nothing_but_python_is_needed() -> None:
    """On SQLite, with a stand-in for the JavaScript board, which is said clearly."""
    printed = reconciled(demo("--no-node"))
    assert "a Python stand-in takes the place of the JavaScript board" in printed


@pytest.mark.node
@pytest.mark.timeout(300)
def test_javascript_board_on_sqlite_with_every_flight_told_twice() -> None:
    """Messages that come again, dead letters included, change no total."""
    need("node", "nodejs")
    need("npm", "npm")
    printed = reconciled(demo("--twice"))
    assert "board (JavaScript)" in printed
    repeated = re.search(r"(\d+) repeated messages were counted once", printed)
    assert repeated is not None
    assert int(repeated[1]) >= FLIGHTS


@pytest.mark.timeout(300)
def test_kill_9_of_all_sidecars_loses_nothing_and_counts_nothing_twice() -> None:
    """In the middle of the work; messages and state are what the disk has."""
    done = demo("--crash", flights=2500)
    assert done.returncode == 0, done.stdout
    assert "kill -9 of pillion run after" in done.stdout
    assert "reconciled: each of 2,500 flights is accounted for exactly once" in done.stdout


@pytest.mark.redis
@pytest.mark.timeout(300)
def test_same_applications_on_redis() -> None:
    need("redis-server", "redis-server")
    printed = reconciled(demo("--broker", "redis", "--state", "redis"))
    assert "state in redis, messages in redis" in printed


@pytest.mark.postgresql
@pytest.mark.timeout(300)
def test_same_applications_on_postgresql() -> None:
    need("postgres", "postgresql", "/usr/lib/postgresql/*/bin")
    printed = reconciled(demo("--state", "postgresql"))
    assert "state in postgresql, messages in sqlite" in printed


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.timeout(300)
def test_ctrl_c_leaves_no_process_and_no_folder(tmp_path: Path) -> None:
    """In the middle of a run, on a terminal."""
    mark = uuid.uuid4().hex
    ours, theirs = pty.openpty()
    environment = os.environ | {MARK: mark, "TERM": "xterm", "TMPDIR": str(tmp_path)}
    process = subprocess.Popen(
        [str(ROOT / "demo"), "--no-node"],
        env=environment,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    try:
        printed = b""
        while not re.search(rb"[1-9]\d*/12208", printed):
            assert process.poll() is None, printed
            with contextlib.suppress(OSError):  # the other end is closed: it has just ended
                printed += os.read(ours, 65536)
        os.killpg(process.pid, signal.SIGINT)  # as the terminal does: everybody in the foreground gets it
        with contextlib.suppress(OSError):  # the other end is closed
            while read := os.read(ours, 65536):
                printed += read
        assert process.wait(RUN_S) == 130, printed
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert not left_of(mark), printed
    assert not list(tmp_path.iterdir())


def left_of(mark: str) -> list[str]:
    """Return the command lines of processes that were started with a mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"{MARK}={mark}".encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


@pytest.fixture
def account() -> Iterator[Any]:
    """The reconciliation, from the example's folder."""
    sys.path.insert(0, str(ROOT / "examples" / "airport"))
    try:
        account = importlib.import_module("tower.account")
        if not account.flights.archive().exists():
            pytest.skip("the flights have not been fetched yet: run ./demo")
        yield account
    finally:
        sys.path.remove(str(ROOT / "examples" / "airport"))


def tallies(account: Any, file: Any) -> Any:
    """What services say that counted everything right, when there is nothing lost."""
    counters = {f"airport:{key}": dict(value) for key, value in file.airports.items()}
    counters |= {f"carrier:{key}": dict(value) for key, value in file.carriers.items()} | {"notes": dict(file.notes)}
    shown = {key: {k: v for k, v in value.items() if k != "flights"} for key, value in file.airports.items()}
    board = {"flights": file.total, "airports": shown, "imprint": file.imprint}
    lost = {"flights": 0, "airports": {}, "reasons": {}, "imprint": "0"}
    cancelled = file.rebooking["flights"]
    workflows = {"COMPLETED": cancelled} if cancelled else {}
    watch = importlib.import_module("tower.watch")
    aircraft = {tail: dict(each) for tail, each in file.aircraft.items()}
    return watch.Found({"counters": counters}, board, lost, dict(file.rebooking), aircraft, workflows)


def test_reconciliation_sees_a_flight_that_took_the_place_of_another(account: Any) -> None:
    """Every number is right, and yet one flight was counted twice and another one not at all."""
    rows = account.flights.lines(100)
    file = account.of_file(rows)
    found = tallies(account, file)
    assert account.differences(file, found) == []
    names = [account.flights.name(account.flights.read(row)) for row in rows]
    found.board["imprint"] = account.flights.imprint([*names[:-1], names[0]])
    (difference,) = account.differences(file, found)
    assert difference.startswith("names on the board and among the lost")


def test_reconciliation_names_the_number_that_differs(account: Any) -> None:
    file = account.of_file(account.flights.lines(100))
    found = tallies(account, file)
    found.enrich["counters"]["carrier:UA"]["late"] += 1
    (difference,) = account.differences(file, found)
    assert difference.startswith("airlines, as counted by enrich")


def test_reconciliation_names_the_aircraft_that_differs(account: Any) -> None:
    """It was chased twice for one flight."""
    file = account.of_file(account.flights.lines(500))
    found = tallies(account, file)
    tail = next(tail for tail, number in file.chases.items() if number)
    found.aircraft[tail]["chased"] += 1
    differences = account.differences(file, found)
    assert any(tail in difference for difference in differences)


def test_seats_are_given_alike_in_whatever_order_workflows_come(account: Any) -> None:
    """The total that the tower computes backwards is the one that workflows come to, the earliest seats first."""
    bookings, aftermath = importlib.import_module("bookings"), importlib.import_module("tower.aftermath")
    rows = account.flights.lines(40_000)
    true = [flight for row in rows if not account.flights.falsehood(flight := account.flights.read(row))]
    expected = aftermath.rebooking(true)
    timetable = bookings.Timetable(rows)
    cancelled = [flight for flight in true if not flight["dep_time"]]
    for seed in range(3):
        random.Random(seed).shuffle(cancelled)
        taken: Counter[str] = Counter()
        for flight in cancelled:
            name = account.flights.name(flight)
            left = bookings.passengers(name) if bookings.refusals(name) < bookings.ATTEMPTS else 0
            for each in timetable.later(name, flight["dest"], int(flight["sched_dep_time"])):
                number = min(left, bookings.free_seats(each.name) - taken[each.name])
                taken[each.name] += number
                left -= number
        assert taken.total() == expected["rebooked"] > 0
