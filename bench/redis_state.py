"""Measure the Redis state store alone: CPU of this process for each get and set.

    python bench/redis_state.py [--address 127.0.0.1:6379] [--callers 16] [--seconds 3]

Without an address a Redis of its own is started.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from pillion.components.redis import RedisState
from pillion.kinds.component import Context, decode
from pillion.kinds.state import Get, Set

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


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
        f"{name:10} {len(waits) / took:9,.0f}/s  CPU {cpu / len(waits) * 1e6:5.2f} us  "
        f"p50 {waits[len(waits) // 2] * 1e3:6.3f} ms  p99 {waits[len(waits) * 99 // 100] * 1e3:6.3f} ms"
    )


async def main(address: str, callers: int, seconds: float) -> None:
    store = RedisState(decode(RedisState.Settings, {"redisHost": address}, where="bench"), Context("bench"))
    await store.open()
    value = b"x" * 128
    await asyncio.gather(*(store.set(Set(f"bench||{who}-{n}", value)) for who in range(callers) for n in range(100)))
    await measure("get", callers, seconds, lambda who, n: store.get(Get(f"bench||{who}-{n % 100}")))
    await measure("set", callers, seconds, lambda who, n: store.set(Set(f"bench||{who}-{n % 100}", value)))
    await measure(
        "transact", callers, seconds, lambda who, n: store.transact([Set(f"bench||{who}-{n % 100}", value)], {})
    )
    await store.close()


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--address", default="")
    options.add_argument("--callers", type=int, default=16)
    options.add_argument("--seconds", type=float, default=3)
    chosen = options.parse_args()
    if chosen.address:
        uvloop.run(main(chosen.address, chosen.callers, chosen.seconds))
    else:
        with RedisServer() as server:
            uvloop.run(main(server.address, chosen.callers, chosen.seconds))
