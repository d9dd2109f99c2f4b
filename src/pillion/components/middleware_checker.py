"""`middleware.http.routerchecker`: only requests whose path and query match a rule pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pillion.components.regex import compiled
from pillion.errors import ConfigError
from pillion.kinds.component import setting
from pillion.net.middleware import plain

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.kinds.component import Context
    from pillion.net.exchange import Request, Response
    from pillion.net.middleware import Next


@dataclass(frozen=True)
class RouterCheckerSettings:
    rule: str = setting(help="a regular expression (RE2) that must be found in path and query")


class RouterChecker:
    """The middleware."""

    Settings = RouterCheckerSettings

    def __init__(self, settings: RouterCheckerSettings, context: Context) -> None:
        try:
            self._search: Callable[[bytes], Any] = compiled(settings.rule).search
        except ValueError as error:
            raise ConfigError(f"metadata field 'rule': {error}") from error

    async def open(self) -> None: ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...

    async def __call__(self, request: Request, next: Next) -> Response:
        if self._search(request.target) is None:
            return plain(400, "invalid router")
        return await next(request)
