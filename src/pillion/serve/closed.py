"""How routes and methods that `spec.api` closes are answered (spec `http-api.md` 1, `grpc-api.md` 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.api.render import http_failure, text_response
from pillion.api.table import BadEscape, Routes
from pillion.net.exchange import Method, Response

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from pillion.api.allow import GrpcRules
    from pillion.api.call import HttpCall
    from pillion.api.operation import Operation
    from pillion.net.exchange import GrpcService, Metadata, ServerCall

VERBS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD")
NOT_AVAILABLE = "requested endpoint is not available"


class OpenMethods:
    """A gRPC service of which only the open methods are reached; closed ones answer before a token is asked for."""

    def __init__(self, inner: GrpcService, rules: GrpcRules) -> None:
        self._inner = inner
        self._open = rules.open
        self._closed = Method(streaming=_refuse)

    def find(self, method: str, metadata: Metadata) -> Method | None:
        return self._inner.find(method, metadata) if self._open(method) else self._closed


async def _refuse(call: ServerCall) -> None:
    raise http_failure(501, NOT_AVAILABLE.encode())


def no_fallback(operations: Iterable[Operation]) -> Callable[[HttpCall], Awaitable[Response]]:
    """Return what answers unmatched requests where service invocation is closed: plainly 404, or 405."""
    routes = Routes(operations)

    async def answer(call: HttpCall) -> Response:
        try:
            known = any(routes.find(verb, call.path) for verb in VERBS)
        except BadEscape as error:
            return text_response(400, str(error))
        return Response(405) if known else text_response(404, "404 page not found\n")

    return answer
