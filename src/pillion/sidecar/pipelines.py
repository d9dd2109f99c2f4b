"""Which loaded components make up the two pipelines, kept up to date as components come and go (spec `runtime.md` 5).

Knows: how a handler of the Configuration finds its component. Never knows: what a member does. A handler whose
component is not there is left out, as in the reference, and that is said aloud. While a component is being replaced its
requests wait for the new one: a hot reload must not open a door.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.net.middleware import Pipeline, plain
from pillion.sidecar.loading import category

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.kinds.config import Configuration, Handler
    from pillion.net.exchange import Request, Response
    from pillion.net.middleware import Middleware, Next
    from pillion.sidecar.components import Loaded

log = logging.getLogger("pillion.sidecar")
REPLACED_WITHIN_S = 30.0
"""How long a request waits for a component that is being replaced, before it is answered with 503."""


class Pipelines:
    """`http` in front of the API, `app` on the way to the application and to HTTPEndpoints; None: none is configured.

    `replacing` tells of a component that is gone only until its new version opens.
    """

    def __init__(self, config: Configuration) -> None:
        self.http = Pipeline() if config.http_pipeline else None
        self.app = Pipeline() if config.app_http_pipeline else None
        self.replacing: Callable[[str], bool] = lambda name: False
        self._handlers = (
            ("httpPipeline", self.http, config.http_pipeline),
            ("appHttpPipeline", self.app, config.app_http_pipeline),
        )
        self._members: dict[str, tuple[tuple[str, str], Middleware]] = {}

    def component_changed(self, loaded: Loaded, arrived: bool) -> None:
        """Follow the component registry."""
        if category(loaded.resource) != "middleware":
            return
        name, kind = loaded.name, (loaded.type.lower(), loaded.version or "v1")
        if arrived:
            member: Middleware = loaded.component
            before = self._members.get(name)
            if before is not None and isinstance(before[1], _Awaited):
                before[1].arrived(member)
            self._members[name] = kind, member
        elif self.replacing(name):
            self._members[name] = kind, _Awaited(name)
        else:
            self._members.pop(name, None)
        self._compose()

    def warn(self) -> None:
        """Say which handlers have no component."""
        for where, _, handlers in self._handlers:
            for handler in handlers:
                if self._find(handler) is None:
                    shown = f"{handler.name} ({handler.type}/{handler.version})"
                    log.warning("%s: no loaded component is %s; requests pass without it", where, shown)

    def _compose(self) -> None:
        for where, pipeline, handlers in self._handlers:
            if pipeline is None:
                continue
            found = [member for member in map(self._find, handlers) if member is not None]
            if list(pipeline.members) != found:
                pipeline.replace(found)
                log.info("%s: %d of %d handlers are in place", where, len(found), len(handlers))

    def _find(self, handler: Handler) -> Middleware | None:
        kind, member = self._members.get(handler.name, (None, None))
        return member if kind == (handler.type.lower(), handler.version) else None


class _Awaited:
    """In the place of a component that is being replaced: holds requests until the new one is open."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._member: asyncio.Future[Middleware] = asyncio.get_running_loop().create_future()

    def arrived(self, member: Middleware) -> None:
        self._member.set_result(member)

    async def __call__(self, request: Request, next: Next) -> Response:
        try:
            async with asyncio.timeout(REPLACED_WITHIN_S):
                member = await asyncio.shield(self._member)
        except TimeoutError:
            log.error("middleware %s has not come back; a request was refused", self._name)
            return plain(503)
        return await member(request, next)

    async def open(self) -> None: ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...
