"""Load on one unary gRPC method: N connections, M calls at once in all; prints rate and latencies.

    python bench/grpc_load.py 127.0.0.1:50001 /pkg.Service/Method --connections 4 --calls 64 --seconds 5

The message is given in hexadecimal. The client costs about as much as the server it loads: give it its own core.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import time
from dataclasses import asdict

import uvloop

from measure import Load
from pillion.net.grpc_client import Channel


async def drive(options: argparse.Namespace) -> Load:
    """Keep `calls` calls going, spread over the connections, and return what was seen."""
    channels = [Channel(options.address) for _ in range(options.connections)]
    message = bytes.fromhex(options.message)
    metadata = [tuple(pair.split("=", 1)) for pair in options.metadata]
    for channel in channels:
        await channel.unary(options.method, message, metadata=list(metadata))
    latencies: list[float] = []
    clock = time.perf_counter
    began = clock()
    until = began + options.seconds

    async def caller(channel: Channel) -> None:
        now = clock()
        while now < until:
            await channel.unary(options.method, message, metadata=list(metadata))
            before, now = now, clock()
            latencies.append(now - before)

    await asyncio.gather(*(caller(channels[number % len(channels)]) for number in range(options.calls)))
    took = clock() - began
    for channel in channels:
        await channel.close()
    latencies.sort()
    count = len(latencies)
    return Load(count, count / took, latencies[count // 2] * 1e3, latencies[count * 99 // 100] * 1e3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("method")
    parser.add_argument("--message", default="", help="hexadecimal")
    parser.add_argument("--metadata", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--connections", type=int, default=2)
    parser.add_argument("--calls", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    load = uvloop.run(drive(options))
    if options.json:
        print(json.dumps(asdict(load)))
        return
    own = resource.getrusage(resource.RUSAGE_SELF)
    print(
        f"{load.rate:,.0f} calls/s  p50 {load.p50_ms:.2f} ms  p99 {load.p99_ms:.2f} ms"
        f"  client CPU {(own.ru_utime + own.ru_stime) / load.requests * 1e6:.1f} us/call"
    )


if __name__ == "__main__":
    main()
