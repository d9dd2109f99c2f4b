"""What one sidecar tells of itself: metrics on their port, spans to their receivers, profiles on their port.

Knows: the configuration, the flags and the ports. Never knows: what is counted (`observe/meters.py`).
"""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from pillion.net import listen
from pillion.net.http_server import HttpServer
from pillion.observe import process
from pillion.observe.endpoint import MAX_BODY, MAX_HEAD, MetricsApi
from pillion.observe.export import TIMEOUT_S, Batches
from pillion.observe.exporters import exporters, resource
from pillion.observe.meters import Meters
from pillion.observe.metrics import Registry
from pillion.observe.profiling import ProfilingApi
from pillion.observe.tracing import Tracer
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillion.blocks.health import Readiness
    from pillion.kinds.config import Configuration
    from pillion.net.exchange import HttpService
    from pillion.observe.tracing import Span
    from pillion.sidecar.environment import Environment
    from pillion.sidecar.flags import Options

log = logging.getLogger("pillion.sidecar")
METRICS = "metrics-exporter"
"""The health target (spec `runtime.md` 1.7)."""
GRACE_S = 1.0
"""How long a scrape may go on once the sidecar stops."""


class Telemetry:
    """The registry of a sidecar and its meters, which count nothing when the configuration switches metrics off, or a
    flag their port: what nobody can read need not be counted.

    `open` listens on the ports. A port that is taken is tried again for ten seconds while the sidecar starts; when it
    stays taken that is logged, and the sidecar works without.
    """

    def __init__(self, options: Options, config: Configuration, environment: Environment) -> None:
        metric = config.metric
        self.registry = Registry(
            {"app_id": options.app_id, "namespace": environment.namespace_raw},
            latencies_ms=metric.latency_buckets_ms,
            rules=metric.rules,
        )
        self.registry.collect(process.text)
        counts = metric.enabled and options.enable_metrics
        self.meters = Meters.of_registry(self.registry, metric) if counts else Meters()
        if counts and metric.increased_cardinality is None:
            log.warning(
                "metric.http.increasedCardinality is not set and means true: paths of applications become labels, "
                "up to a bound. Set it, or name the paths in metric.http.pathMatching"
            )
        self.tracer: Tracer | None = None
        self._options = options
        self._tracing = config.tracing
        self._sender = resource(options.app_id, environment.variables)
        self._stack = AsyncExitStack()
        self._tasks = Tasks("telemetry")

    async def open(self, readiness: Readiness) -> None:
        """Listen on the ports that are switched on, and make ready to send spans. Raises `ConfigError`.

        The health target of metrics becomes ready also when their port is taken: the sidecar works without.
        """
        options = self._options
        self._stack.push_async_callback(self._tasks.close)
        self._trace()
        if options.enable_metrics:
            readiness.expect(METRICS)
            await self._serve(
                "metrics", MetricsApi(self.registry), (options.metrics_listen_address,), options.metrics_port
            )
            readiness.ready(METRICS)
        if options.enable_profiling:
            where = options.dapr_listen_addresses or ("",)
            await self._serve("profiles", ProfilingApi(), where, options.profile_port)

    def _trace(self) -> None:
        """Make the tracer, unless there is nothing to trace for (spec `runtime.md` 3.2): a rate of "0" switches all of
        it off, and without a rate and without an exporter contexts pass through as they come.
        """
        tracing = self._tracing
        if tracing.sampling_rate == "0" or not (tracing.exporting or tracing.sampling_rate):
            return
        batches = []
        for exporter in exporters(tracing, self._sender):
            limit = tracing.otel.timeout_s if exporter.name.startswith("otlp") else None
            batches.append(Batches(exporter, self.registry, timeout_s=limit or TIMEOUT_S))
            self._stack.push_async_callback(batches[-1].close)
        self.tracer = Tracer(self._options.app_id, tracing.rate, _sink([each.offer for each in batches]))

    async def _serve(self, what: str, service: HttpService, addresses: Sequence[str], port: int) -> None:
        server = HttpServer(service, max_body=MAX_BODY, max_head=MAX_HEAD)
        self._stack.push_async_callback(server.close, GRACE_S)

        async def attempt(retry_s: float) -> None:
            listeners = await listen.tcp(server, addresses, port, retry_s=retry_s)
            self._stack.callback(listeners.close)
            log.info("%s are served on port %d", what, listeners.port)

        async def insist() -> None:
            try:
                await attempt(10.0)
            except listen.CannotListen as error:
                log.error("%s are not served: %s", what, error)

        try:
            await attempt(0.0)
        except listen.CannotListen:
            self._tasks.start(insist(), f"listening for {what}")

    async def close(self) -> None:
        """Stop serving. May be called after half an `open`."""
        await self._stack.aclose()

    def __repr__(self) -> str:
        return f"<Telemetry: {self.registry}>"


def _sink(offers: Sequence[Callable[[Span], None]]) -> Callable[[Span], None] | None:
    """Return what takes each span that is recorded."""
    if len(offers) < 2:
        return offers[0] if offers else None

    def offer(span: Span) -> None:
        for each in offers:
            each(span)

    return offer
