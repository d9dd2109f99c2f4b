"""Load on one unary gRPC method: N connections, M calls at once on each; prints rate and latencies.

    python bench/grpc_client.py 127.0.0.1:50001 /pkg.Service/Method --connections 4 --streams 16 --seconds 5

The message is given in hexadecimal. The client costs about as much as the server it loads: give it its own core.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import time

import uvloop

from pillion.net.grpc_client import Channel


async def caller(channel: Channel, method: str, message: bytes, until: float, latencies: list[float]) -> None:
    clock = time.perf_counter
    now = clock()
    while now < until:
        await channel.unary(method, message)
        before, now = now, clock()
        latencies.append(now - before)


async def run(options: argparse.Namespace) -> None:
    channels = [Channel(options.address) for _ in range(options.connections)]
    message = bytes.fromhex(options.message)
    for channel in channels:
        await channel.unary(options.method, message)
    latencies: list[float] = []
    before, began = cpu_of(options.pid), time.perf_counter()
    until = began + options.seconds
    await asyncio.gather(
        *(
            caller(channel, options.method, message, until, latencies)
            for channel in channels
            for _ in range(options.streams)
        )
    )
    took = time.perf_counter() - began
    own = resource.getrusage(resource.RUSAGE_SELF)
    latencies.sort()
    count = len(latencies)
    p50, p99 = latencies[count // 2] * 1e3, latencies[count * 99 // 100] * 1e3
    print(
        f"{count / took:,.0f} calls/s  p50 {p50:.2f} ms  p99 {p99:.2f} ms"
        f"  client CPU {(own.ru_utime + own.ru_stime) / count * 1e6:.1f} us/call"
        + (f"  server CPU {(cpu_of(options.pid) - before) / count * 1e6:.1f} us/call" if options.pid else "")
    )
    for channel in channels:
        await channel.close()


def cpu_of(pid: int) -> float:
    """Return the CPU seconds a process has used so far (Linux)."""
    if not pid:
        return 0.0
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / 100


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("method")
    parser.add_argument("--message", default="", help="hexadecimal")
    parser.add_argument("--connections", type=int, default=1)
    parser.add_argument("--streams", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--pid", type=int, default=0, help="also report the CPU that this process used")
    uvloop.run(run(parser.parse_args()))
