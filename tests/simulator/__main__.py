"""Tell many seeds: `python -m simulator --seeds 100000 --from 0 --jobs 2`, with `tests` on the path.

Ends with 1 when a seed failed; each that did is told with its story, and can be told again by `--from SEED --seeds 1`.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import time

from simulator.suite import STORIES, attempt

BAR = 30


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m simulator", description="Tell stories of a simulated cluster.")
    parser.add_argument("--seeds", type=int, default=1000, metavar="N", help="how many seeds of each story (1000)")
    parser.add_argument("--from", type=int, default=0, dest="first", metavar="SEED", help="the first seed (0)")
    parser.add_argument("--story", choices=sorted(STORIES), action="append", help="this one alone; may be repeated")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (1)")
    parser.add_argument("--most-failures", type=int, default=10, metavar="N", help="stop after so many (10)")
    parser.add_argument("--json", action="store_true", help="write one JSON line for each failure, and one at the end")
    asked = parser.parse_args()
    names = asked.story or sorted(STORIES)
    began, failures, told, events = time.monotonic(), 0, 0, 0
    total = asked.seeds * len(names)
    with multiprocessing.get_context("spawn").Pool(max(1, asked.jobs)) as pool:
        work = [(name, seed) for seed in range(asked.first, asked.first + asked.seeds) for name in names]
        for name, seed, count, failure in pool.imap_unordered(attempt, work, chunksize=4):
            told, events = told + 1, events + count
            if failure:
                failures += 1
                _show(name, seed, failure, as_json=asked.json)
            if not asked.json:
                _progress(told, total, failures, time.monotonic() - began)
            if failures >= asked.most_failures:
                pool.terminate()
                break
    seconds = time.monotonic() - began
    if asked.json:
        end = {"seeds": told, "failures": failures, "events": events, "seconds": round(seconds, 1)}
        sys.stdout.write(json.dumps(end) + "\n")
    else:
        sys.stdout.write(f"\n{told} seeds, {events} events, {failures} failures in {seconds:.1f} s\n")
    return 1 if failures else 0


def _show(name: str, seed: int, failure: str, *, as_json: bool) -> None:
    if as_json:
        sys.stdout.write(json.dumps({"story": name, "seed": seed, "failure": failure}) + "\n")
    else:
        sys.stdout.write(f"\r{'':100}\r--- {name}, seed {seed}\n{failure}\n")
    sys.stdout.flush()


def _progress(told: int, total: int, failures: int, seconds: float) -> None:
    if sys.stdout.isatty() or told == total:
        done = told * BAR // total
        rate = told / seconds if seconds else 0.0
        bar = "#" * done + "." * (BAR - done)
        sys.stdout.write(f"\r[{bar}] {told}/{total}, {rate:.0f} a second, {failures} failures")
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
