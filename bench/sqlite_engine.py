"""Measure the SQLite engine alone: durable writes and reads, many callers at once.

python bench/sqlite_engine.py [--callers 64] [--seconds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import uvloop

from pillion.components.sqlite_engine import Location, open_engine

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Awaitable, Callable, Sequence

MANY = (
    "INSERT INTO t (k, v) SELECT value ->> 0, value ->> 1 FROM json_each(?) WHERE true"
    " ON CONFLICT (k) DO UPDATE SET v = excluded.v"
)
ONE = "INSERT INTO t (k, v) VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v = excluded.v"
FIND = "SELECT asked.key, t.v FROM json_each(?) AS asked LEFT JOIN t ON t.k = asked.value"


def put_many(db: sqlite3.Connection, rows: Sequence[Any]) -> Sequence[Any]:
    db.execute(MANY, (orjson.dumps(rows).decode(),))
    return [None] * len(rows)


def find_many(db: sqlite3.Connection, keys: Sequence[Any]) -> Sequence[Any]:
    return [value for _, value in db.execute(FIND, (orjson.dumps(keys).decode(),))]


async def measure(name: str, callers: int, seconds: float, call: Callable[[int, int], Awaitable[Any]]) -> None:
    waits: list[float] = []
    stop = time.perf_counter() + seconds

    async def caller(who: int) -> None:
        number = 0
        while (begun := time.perf_counter()) < stop:
            await call(who, number)
            waits.append(time.perf_counter() - begun)
            number += 1

    before = resource.getrusage(resource.RUSAGE_SELF)
    begun = time.perf_counter()
    await asyncio.gather(*(caller(who) for who in range(callers)))
    took = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    waits.sort()
    print(
        f"{name:12} {len(waits) / took:9,.0f}/s  CPU {cpu / len(waits) * 1e6:5.1f} us  "
        f"p50 {waits[len(waits) // 2] * 1e3:6.2f} ms  p99 {waits[len(waits) * 99 // 100] * 1e3:6.2f} ms  "
        f"max {waits[-1] * 1e3:6.2f} ms"
    )


async def main(callers: int, seconds: float) -> None:
    with tempfile.TemporaryDirectory(dir=".") as folder:
        engine = await open_engine(Location.parse(str(Path(folder) / "bench.sqlite")))
        await engine.write(lambda db: db.execute("CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT)") and None)
        value = "x" * 128

        def key(who: int, number: int) -> str:
            return f"{who}-{number % 500}"

        def put(row: tuple[str, str]) -> Awaitable[Any]:
            return engine.write(lambda db: db.execute(ONE, row) and None)

        def find(wanted: str) -> Awaitable[Any]:
            return engine.read(lambda db: db.execute("SELECT v FROM t WHERE k = ?", (wanted,)).fetchone())

        await measure("write_row", callers, seconds, lambda w, n: engine.write_row(put_many, (key(w, n), value)))
        await measure("write", callers, seconds, lambda w, n: put((key(w, n), value)))
        await measure("read_row", callers, seconds, lambda w, n: engine.read_row(find_many, key(w, n)))
        await measure("read", callers, seconds, lambda w, n: find(key(w, n)))
        await engine.close()


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--callers", type=int, default=64)
    options.add_argument("--seconds", type=float, default=3)
    chosen = options.parse_args()
    uvloop.run(main(chosen.callers, chosen.seconds))
