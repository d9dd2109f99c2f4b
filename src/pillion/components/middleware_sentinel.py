"""`middleware.http.sentinel`: rules for the flow of requests, by verb and path."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.components import sentinel_rules
from pillion.errors import ConfigError
from pillion.kinds.component import setting
from pillion.net.middleware import plain

if TYPE_CHECKING:
    from pillion.kinds.component import Context
    from pillion.net.exchange import Request, Response
    from pillion.net.middleware import Next

log = logging.getLogger("pillion.components.sentinel")


@dataclass(frozen=True)
class SentinelSettings:
    app_name: str = setting(help="the application's name, for the log")
    log_dir: str = setting("", help="without effect: what is blocked is in the sidecar's own log")
    flow_rules: str = setting("", help="JSON list: at most so many requests in an interval")
    circuit_breaker_rules: str = setting("", help="JSON list: stop where answers are slow or fail")
    hot_spot_param_rules: str = setting("", help="without effect: HTTP requests have no parameters in this sense")
    isolation_rules: str = setting("", help="JSON list: at most so many requests at once")
    system_rules: str = setting("", help="JSON list: limits for all requests together")


class Sentinel:
    """The middleware. A resource is `VERB:/path`."""

    Settings = SentinelSettings

    def __init__(self, settings: SentinelSettings, context: Context) -> None:
        try:
            self._rules = sentinel_rules.read(
                settings.flow_rules, settings.circuit_breaker_rules, settings.isolation_rules, settings.system_rules
            )
        except (ValueError, TypeError) as error:
            raise ConfigError(f"rules: {error}") from error
        self._app_name = settings.app_name
        self._idle = [name for name in ("log_dir", "hot_spot_param_rules") if getattr(settings, name).strip()]

    async def open(self) -> None:
        for name in self._idle:
            log.warning("%s: %s has no effect here", self._app_name, name)

    async def ping(self) -> None: ...

    async def close(self) -> None: ...

    async def __call__(self, request: Request, next: Next) -> Response:
        path = request.target.partition(b"?")[0].decode("utf-8", "replace")
        resource = f"{request.method}:{path}"
        began = time.monotonic()
        if blocked := self._rules.enter(resource, began):
            log.info("%s: %s was blocked by a %s rule", self._app_name, resource, blocked)
            return plain(429)
        failed = True
        try:
            response = await next(request)
            failed = response.status >= 500
        finally:
            now = time.monotonic()
            self._rules.leave(resource, now, now - began, failed)
        return response
