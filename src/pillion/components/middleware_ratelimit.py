"""`middleware.http.ratelimit`: a token bucket for each client and path.

A client is its address as the connection shows it; headers tell only where there is no address, on a Unix socket, since
anybody may write them. Buckets are bounded: of more clients and paths the one unused for longest is forgotten.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.errors import ConfigError
from pillion.kinds.component import setting
from pillion.net.middleware import plain
from pillion.wire.methods import BadMethod, guarded

if TYPE_CHECKING:
    from pillion.kinds.component import Context
    from pillion.net.exchange import Headers, Request, Response
    from pillion.net.middleware import Next

MOST_BUCKETS = 16384
LONGEST_KEY = 256
"""Characters of a path that tell one bucket from another."""
REFUSAL = "You have reached maximum request limit."


@dataclass(frozen=True)
class RateLimitSettings:
    max_requests_per_second: float = setting(100.0, help="for each client and path; above 0")


class Buckets:
    """Token buckets: `burst` tokens at first, `rate` new ones a second. Pure: the time is given."""

    def __init__(self, rate: float, *, most: int = MOST_BUCKETS) -> None:
        self.rate = rate
        self.burst = max(1, int(rate))
        self._most = most
        self._buckets: OrderedDict[tuple[str, str], tuple[float, float]] = OrderedDict()

    def take(self, key: tuple[str, str], now: float) -> float | None:
        """Take a token; return how many are left, None when there was none."""
        tokens, since = self._buckets.get(key, (float(self.burst), now))
        tokens = min(self.burst, tokens + max(now - since, 0.0) * self.rate)
        enough = tokens >= 1.0
        if enough:
            tokens -= 1.0
        self._buckets[key] = tokens, now
        self._buckets.move_to_end(key)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return tokens if enough else None

    def __len__(self) -> int:
        return len(self._buckets)


class RateLimit:
    """The middleware."""

    Settings = RateLimitSettings

    def __init__(self, settings: RateLimitSettings, context: Context) -> None:
        rate = settings.max_requests_per_second
        if not 0 < rate < float("inf"):
            raise ConfigError("metadata field 'maxRequestsPerSecond' must be above 0")
        self._buckets = Buckets(rate)
        self._clock = time.monotonic

    async def open(self) -> None: ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...

    async def __call__(self, request: Request, next: Next) -> Response:
        left = self._buckets.take((client_of(request), _path(request.target)), self._clock())
        response = await next(request) if left is not None else plain(429, REFUSAL)
        response.headers += self._told(left or 0.0)
        return response

    def _told(self, left: float) -> Headers:
        buckets = self._buckets
        return [
            (b"x-rate-limit-limit", b"%.2f" % buckets.rate),
            (b"x-rate-limit-duration", b"1"),
            (b"ratelimit-limit", b"%d" % buckets.burst),
            (b"ratelimit-remaining", b"%d" % int(left)),
            (b"ratelimit-reset", b"1"),
        ]


def client_of(request: Request) -> str:
    """Return the address of the client; without a connection of its own, what `X-Forwarded-For` or `X-Real-IP` say."""
    if request.peer is not None:
        return request.peer[0]
    for name in (b"x-forwarded-for", b"x-real-ip"):
        if value := request.header(name):
            return value.partition(b",")[0].strip().decode("latin-1")[:64]
    return ""


def _path(target: bytes) -> str:
    """The path as rules see it, so that spelling it differently makes no new bucket."""
    path = target.partition(b"?")[0].decode("utf-8", "replace")
    try:
        return guarded(path)[:LONGEST_KEY]
    except BadMethod:
        return path[:LONGEST_KEY]
