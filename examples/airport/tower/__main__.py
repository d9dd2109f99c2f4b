"""`./demo`: a day at the airports of New York, on real flights.

Starts the services of this folder with `pillion run`, watches them through a sidecar of its own, and at the end holds
what they counted against the file. Ends with status 0 when every flight is accounted for exactly once.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import flights
from tower import account, data, programs, scene, servers, show, watch

if TYPE_CHECKING:
    from subprocess import Popen

    from tower.scene import Scene

    Process = Popen[bytes]

TWO_WEEKS, ALL = 12_208, 336_776


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="./demo", description="Airport operations on real flights, through sidecars.")
    parser.add_argument("--broker", choices=("sqlite", "redis"), default="sqlite", help="what carries the messages")
    parser.add_argument(
        "--state", choices=("sqlite", "redis", "postgresql"), default="sqlite", help="what keeps the state"
    )
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--flights", type=int, default=TWO_WEEKS, metavar="N",
                        help=f"the first N flights of 2013 (default {TWO_WEEKS:,}: two weeks)")  # fmt: skip
    amount.add_argument("--all", action="store_const", const=ALL, dest="flights", help=f"all {ALL:,} flights")
    parser.add_argument("--twice", action="store_true", help="publish every flight twice; the result must not change")
    parser.add_argument("--crash", action="store_true", help="kill -9 all sidecars in the middle, and start again")
    parser.add_argument("--no-kill", action="store_true", help="let the second sidecars of fleet and rebook live")
    parser.add_argument("--no-node", action="store_true", help="do as if Node.js were missing")
    parser.add_argument("--keep", action="store_true", help="keep the folder of the run")
    given = parser.parse_args()
    if not 1 <= given.flights <= ALL:
        parser.error(f"--flights: 1 to {ALL}")
    return given


def main() -> int:
    given = arguments()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return play(given)
    except KeyboardInterrupt:
        show.warn("stopped")
        return 130
    except (data.NoData, servers.NoServer) as error:
        show.fail(str(error))
        return 1


def _interrupt(*_: object) -> None:
    """Stop once; what is being ended is not interrupted again."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    raise KeyboardInterrupt


def play(given: argparse.Namespace) -> int:
    """One run from its data to its verdict. What has failed leaves its folder behind."""
    show.step(f"flights: {data.archive()}")
    rows = flights.lines(given.flights)
    missing = "--no-node was given" if given.no_node else scene.node_missing()
    if missing:
        show.warn(f"{missing}: a Python stand-in takes the place of the JavaScript board")
    folder = Path(tempfile.mkdtemp(prefix="airport-"))
    keep = True
    try:
        with contextlib.ExitStack() as stack:
            here = prepare(given, folder, stack, node=not missing)
            good = run(here, rows, given)
        keep = given.keep or not good
    except KeyboardInterrupt:
        keep = given.keep
        raise
    finally:
        if keep:
            show.step(f"kept: {folder}")
        else:
            shutil.rmtree(folder)
    return 0 if good else 1


def prepare(given: argparse.Namespace, folder: Path, stack: contextlib.ExitStack, *, node: bool) -> Scene:
    """Start the servers that the chosen components need, and write the run's files."""
    secret = scene.keys()
    environment = {}
    if "redis" in (given.broker, given.state):
        address = stack.enter_context(servers.redis(folder / "redis", secret["redis-password"]))
        environment["AIRPORT_REDIS"] = address
        show.step(f"redis-server at {address}")
    if given.state == "postgresql":
        secret["postgresql"] = stack.enter_context(servers.postgresql(folder / "postgresql", secret["postgresql"]))
        show.step("PostgreSQL started")
    told = {"AIRPORT_FLIGHTS": str(given.flights), "AIRPORT_TWICE": "1" if given.twice else ""}
    here = scene.write(folder, store=given.state, broker=given.broker, node=node, environment=told, secret=secret)
    here.environment.update(environment)
    show.step(f"services: feed, enrich, board ({'JavaScript' if node else 'Python stand-in'}), lost, fleet, rebook; "
              f"state in {given.state}, messages in {given.broker}")  # fmt: skip
    return here


def run(here: Scene, rows: list[str], given: argparse.Namespace) -> bool:
    """Let the services work until every flight is accounted for; tell whether all is right."""
    log = here.folder / "airport.log"
    expected = account.of_file(rows)
    goal = watch.Goal(
        len(rows), len(rows) if given.twice else 0, expected.rebooking["flights"], expected.chases
    )  # fmt: skip
    try:
        if given.crash:
            fall(here, log, len(rows))
        with programs.both(here, log) as (process, second):
            if not given.no_kill:
                lose(here, process, second, len(rows))
            found = watch.to_the_end(here, process, goal)
            elapsed_s = time.monotonic() - here.started
            wrong = account.differences(expected, found)
            show.table(expected)
    except watch.Stalled as error:
        show.fail(str(error))
        show.console.print(log.read_text(errors="replace")[-3000:], markup=False)
        return False
    show.console.print(
        f"{len(rows):,} flights in {elapsed_s:.1f} s; {found.enrich['conflicts']} conflicts of counters were tried "
        f"again, {found.enrich['repeated'] + found.board['repeated']} repeated messages were counted once"
    )
    if process.returncode:
        wrong.append(f"pillion run ended with status {process.returncode}: {log}")
    for difference in wrong:
        show.fail(difference)
    if not wrong:
        show.console.print(f"[bold green]✓[/] reconciled: each of {len(rows):,} flights is accounted for exactly once, "
                           "and all totals equal those of the file")  # fmt: skip
    return not wrong


def lose(here: Scene, process: Process, second: programs.Second, total: int) -> None:
    """Kill the second sidecars of fleet and rebook after a third of the flights; start them again after two thirds.

    Raises `Stalled`.
    """
    done = watch.until(here, process, total, total // 3)
    show.step(f"{done:,} flights are in; {watch.situation(here)}")
    second.kill()
    show.warn("kill -9 of the second sidecars of fleet and rebook; what lived there moves to the first")
    done = watch.until(here, process, total, 2 * total // 3)
    show.step(f"{done:,} flights are in; {watch.situation(here)}")
    second.start()
    show.step("the second sidecars are started again")


def fall(here: Scene, log: Path, total: int) -> None:
    """Kill `pillion run` in the middle, as a power cut of its own would. Raises `Stalled`."""
    with programs.both(here, log) as (process, second):
        done = watch.until(here, process, total, total // 4)
        process.kill()
        second.kill()
        process.wait()
    watch.gone(here.ports)
    show.warn(
        f"kill -9 of pillion run after {done:,} flights; started again, and the feed tells all from the beginning"
    )


if __name__ == "__main__":
    sys.exit(main())
