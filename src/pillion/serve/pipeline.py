"""The middleware in front of the API (spec `runtime.md` 5): where pipeline and dispatch meet.

Whether a body streams is decided by the path as it came; a member may have changed the path since, and the route that
it leads to now gets the body as it wants it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pillion.net.exchange import BodyIncomplete, BodyTooLarge
from pillion.net.middleware import failed_body, plain, request_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.net.exchange import Headers, Request, Response
    from pillion.net.middleware import Next, Pipeline

log = logging.getLogger("pillion.serve.http")


def through(pipeline: Pipeline, serve: Next, streams: Callable[[str, bytes, Headers], bool]) -> Next:
    """Return `serve` behind the pipeline. What a member raises becomes an answer: nothing gets past it by failing."""

    async def fitting(request: Request) -> Response:
        wants_stream = streams(request.method, request.target, request.headers)
        if wants_stream and request.failure is not None:
            request.body = _Failing(request.failure)
        elif not wants_stream and not isinstance(request.body, bytes):
            try:
                await request_body(request)
            except (BodyTooLarge, BodyIncomplete) as error:
                request.body, request.failure = b"", error
        return await serve(request)

    enter = pipeline.over(fitting)

    async def piped(request: Request) -> Response:
        try:
            return await enter(request)
        except Exception as error:
            answer = failed_body(error)
            if answer is None:
                path = request.target.partition(b"?")[0].decode("utf-8", "backslashreplace")
                log.exception("middleware failed for %s %s", request.method, path)
                answer = plain(500)
            return answer

    return piped


class _Failing:
    """The body of a request that could not be had whole, for a route that takes bodies as they arrive."""

    def __init__(self, failure: BodyTooLarge | BodyIncomplete) -> None:
        self.length: int | None = None
        self.trailers: Headers = []
        self._failure = failure

    def __aiter__(self) -> _Failing:
        return self

    async def __anext__(self) -> bytes:
        raise self._failure

    async def read(self) -> bytes:
        raise self._failure
