"""Is the application there, and is it well (spec `runtime.md` 1.4 step 18 and 7.7).

`Verdict` is the pure part: outcomes of probes in, changes of health out. The drivers below it wait for the port and
run the probes.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.errors import Code, code_name
from pillion.net.exchange import Request, RpcError
from pillion.net.tls import HTTP1, HTTP2, unverified_client_context

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.app.channel import AppChannel

    CountProbe = Callable[[str, str, float], None]

log = logging.getLogger("pillion.app.health")
DIAL_TIMEOUT_S = 0.5
DIAL_PAUSE_S = 0.1
SAY_EVERY = 100
HEALTH_METHOD = "/dapr.proto.runtime.v1.AppCallbackHealthCheck/HealthCheck"


@dataclass(slots=True)
class Verdict:
    """Unhealthy at first; one success is health, `threshold` failures in a row are the end of it."""

    threshold: int
    healthy: bool = False
    failures: int = 0

    def feed(self, success: bool) -> bool | None:
        """Take the outcome of one probe; return the new health when it changed, else None."""
        if success:
            self.failures = 0
            if not self.healthy:
                self.healthy = True
                return True
            return None
        self.failures = min(self.failures + 1, self.threshold)
        if self.healthy and self.failures >= self.threshold:
            self.healthy = False
            return False
        return None


async def port_open(channel: AppChannel) -> None:
    """Return when the port of the application accepts a connection, and a handshake where it speaks TLS.

    Waits for ever, as applications may take their time; says every ten seconds what it waits for. There is no event
    for a port of another process that opens, so it dials again after a pause.
    """
    context = None
    if channel.protocol in ("https", "grpcs"):
        context = unverified_client_context(alpn=HTTP1 if channel.protocol == "https" else HTTP2)
    attempt = 0
    while True:
        attempt += 1
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S):
                _, writer = await asyncio.open_connection(channel.address, channel.port, ssl=context)
        except (OSError, TimeoutError):
            if attempt % SAY_EVERY == 0:
                log.info("waiting for the application to listen on %s:%d", channel.address, channel.port)
            await asyncio.sleep(DIAL_PAUSE_S)
            continue
        writer.close()
        return


async def probe(channel: AppChannel, path: str, timeout_s: float, count: CountProbe | None = None) -> bool:
    """Ask the application once: 2xx of an HTTP GET, or an answered HealthCheck."""
    started = time.perf_counter()
    protocol, status = ("http", "500") if channel.http is not None else ("grpc", code_name(Code.UNAVAILABLE))
    try:
        async with asyncio.timeout(timeout_s):
            if channel.http is not None:
                response = await channel.http.request(Request("GET", path.encode(), []))
                if not isinstance(response.body, bytes):
                    async for _ in response.body:
                        pass
                status = str(response.status)
                return 200 <= response.status < 300
            assert channel.grpc is not None
            await channel.grpc.unary(HEALTH_METHOD, b"", timeout_s=timeout_s)
            status = code_name(0)
            return True
    except Exception as error:
        if isinstance(error, RpcError):
            status = code_name(error.code)
        log.debug("health probe failed: %s", error)
        return False
    finally:
        if count is not None:
            count(protocol, status, (time.perf_counter() - started) * 1000)


async def watch(
    channel: AppChannel,
    *,
    path: str,
    interval_s: float,
    timeout_s: float,
    threshold: int,
    changed: Callable[[bool], Awaitable[None]],
    count: CountProbe | None = None,
) -> None:
    """Probe at once and then every `interval_s`, never two at a time; report each change. Runs until cancelled.

    `count` is told the protocol, the status and the milliseconds of each probe.
    """
    verdict = Verdict(threshold)
    channel.healthy = False
    loop = asyncio.get_running_loop()
    while True:
        started = loop.time()
        change = verdict.feed(await probe(channel, path, timeout_s, count))
        if change is not None:
            channel.healthy = change
            log.info("the application is %s", "healthy" if change else f"unhealthy: {threshold} probes failed in a row")
            await changed(change)
        await asyncio.sleep(max(0.0, started + interval_s - loop.time()))
