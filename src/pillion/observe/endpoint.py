"""The metrics port: every path answers with the exposition (spec `runtime.md` 6.1)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pillion.net.exchange import Response
from pillion.observe.metrics import CONTENT_TYPE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillion.net.exchange import Headers, Request
    from pillion.observe.metrics import Registry

MAX_BODY, MAX_HEAD = 4096, 8192
"""Bytes that a scrape may send; scrapers send no body."""


class MetricsApi:
    """The `HttpService` of the metrics port."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def streams(self, method: str, target: bytes, headers: Headers) -> bool:
        return False

    async def serve(self, request: Request) -> Response:
        return Response(200, [(b"content-type", CONTENT_TYPE)], self._pieces())

    async def _pieces(self) -> AsyncIterator[bytes]:
        """Give way to requests between two pieces: a scrape of many series takes tens of milliseconds."""
        for piece in self._registry.text():
            yield piece.encode("utf-8", "backslashreplace")
            await asyncio.sleep(0)
