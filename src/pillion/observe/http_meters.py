"""What is counted of HTTP: requests of the API, requests to the application, its health probes (spec `runtime.md` 6.1).

Each meter wraps a callable once, when the sidecar is built; without metrics there is no wrapper. The series of a
method, target and status is looked up in one dictionary, which forgets everything when it is full: then series are
found again through their labels.
"""

from __future__ import annotations

from bisect import bisect_left
from time import perf_counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pillion.net.exchange import Request, Response
    from pillion.observe.metrics import Family, Histogram, Registry
    from pillion.observe.paths import Labels

    Handler = Callable[[Request], Awaitable[Response]]

REMEMBERED = 4096
LONGEST_TARGET = 1024
"""Bytes of a target that is worth remembering."""


class _Routes:
    """The series of one family by method, target and status."""

    __slots__ = ("_family", "_labels", "seen")

    def __init__(self, family: Family[Histogram], labels: Labels) -> None:
        self._family = family
        self._labels = labels
        self.seen: dict[tuple[str, bytes, int], Histogram] = {}

    def find(self, method: str, target: bytes, status: int) -> Histogram:
        """Return the series and remember it; `target` has no query."""
        labels = self._labels
        series = self._family.child(labels.method(method), labels.path(target), str(status))
        if len(target) <= LONGEST_TARGET:
            if len(self.seen) >= REMEMBERED:
                self.seen.clear()
            self.seen[method, target, status] = series
        return series


def server(registry: Registry, labels: Labels) -> Callable[[Handler], Handler]:
    """Return what wraps the HTTP API. Latencies are whole milliseconds, up to the head of the response."""
    family = registry.histogram("http_server_latency")
    if labels.increased:
        family.counters.append("http_server_response_count")
    received = registry.histogram("http_server_request_bytes").child()
    sent = registry.histogram("http_server_response_bytes").child()
    routes = _Routes(family, labels)
    seen, find = routes.seen, routes.find
    sizes, received_counts, sent_counts = received.bounds, received.counts, sent.counts
    smallest = sizes[0]

    def wrap(serve: Handler) -> Handler:
        async def metered(request: Request) -> Response:
            # Every request comes through here: `Histogram.observe` is written out, which halves the cost.
            started = perf_counter()
            response = await serve(request)
            elapsed_ms = int((perf_counter() - started) * 1000)
            target = request.target
            if b"?" in target:
                target = target.partition(b"?")[0]
            try:
                series = seen[request.method, target, response.status]
            except KeyError:
                series = find(request.method, target, response.status)
            series.counts[bisect_left(series.bounds, elapsed_ms)] += 1
            series.total += elapsed_ms
            body = request.body
            size = len(body) if isinstance(body, bytes) else body.length or 0
            received_counts[0 if size <= smallest else bisect_left(sizes, size)] += 1
            received.total += size
            answer = response.body
            if isinstance(answer, bytes):
                size = len(answer)
                sent_counts[0 if size <= smallest else bisect_left(sizes, size)] += 1
                sent.total += size
            else:
                response.body = _Counted(answer, sent)
            return response

        return metered

    return wrap


def client(registry: Registry, labels: Labels) -> Callable[[Handler], Handler]:
    """Return what wraps the way to the application; a call without an answer counts as a 500."""
    routes = _Routes(registry.histogram("http_client_roundtrip_latency"), labels)
    sizes = _Routes(registry.histogram("http_client_sent_bytes"), labels)
    received = registry.histogram("http_client_received_bytes").child()
    seen: dict[tuple[str, bytes, int], tuple[Histogram, Histogram]] = {}
    bounds, counts = received.bounds, received.counts
    smallest = bounds[0]

    def find(method: str, target: bytes, status: int) -> tuple[Histogram, Histogram]:
        found = routes.find(method, target, status), sizes.find(method, target, status)
        if len(target) <= LONGEST_TARGET:
            if len(seen) >= REMEMBERED:
                seen.clear()
            seen[method, target, status] = found
        return found

    def count(request: Request, status: int, elapsed_ms: float) -> None:
        target = request.target
        if b"?" in target:
            target = target.partition(b"?")[0]
        try:
            latency, sent = seen[request.method, target, status]
        except KeyError:
            latency, sent = find(request.method, target, status)
        latency.counts[bisect_left(latency.bounds, elapsed_ms)] += 1
        latency.total += elapsed_ms
        body = request.body
        size = len(body) if isinstance(body, bytes) else body.length or 0
        sent.counts[0 if size <= smallest else bisect_left(bounds, size)] += 1
        sent.total += size

    def wrap(send: Handler) -> Handler:
        async def metered(request: Request) -> Response:
            started = perf_counter()
            try:
                response = await send(request)
            except Exception:
                count(request, 500, (perf_counter() - started) * 1000)
                raise
            count(request, response.status, (perf_counter() - started) * 1000)
            body = response.body
            if isinstance(body, bytes):
                size = len(body)
                counts[0 if size <= smallest else bisect_left(bounds, size)] += 1
                received.total += size
            else:
                response.body = _Counted(body, received)
            return response

        return metered

    return wrap


class _Counted:
    """A response body whose size is known when it has ended."""

    __slots__ = ("_body", "_pieces", "_series", "_size")

    def __init__(self, body: AsyncIterator[bytes], series: Histogram) -> None:
        self._body = body
        self._pieces = aiter(body)
        self._series: Histogram | None = series
        self._size = 0

    def __aiter__(self) -> _Counted:
        return self

    async def __anext__(self) -> bytes:
        try:
            piece = await anext(self._pieces)
        except BaseException:
            self._end()
            raise
        self._size += len(piece)
        return piece

    async def aclose(self) -> None:
        """Stop reading; what was read counts."""
        self._end()
        closing = getattr(self._body, "aclose", None)
        if closing is not None:
            await closing()

    def _end(self) -> None:
        series, self._series = self._series, None
        if series is not None:
            series.observe(self._size)
