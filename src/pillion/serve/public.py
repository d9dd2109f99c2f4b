"""The public port: health and metadata alone, for those who must not reach the API (spec `http-api.md` 1).

No token, no CORS, no API log. An unknown path is a plain 404, a known one with another method an empty 405.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.api.call import HttpCall
from pillion.api.render import http_error, text_response
from pillion.api.table import BadEscape, Routes
from pillion.net.exchange import Response

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pillion.api.operation import Operation
    from pillion.net.exchange import Headers, Request

PUBLIC = ("v1.0/healthz", "v1.0/healthz/outbound", "v1.0/metadata", "v1.0/metadata/{key}")
VERBS = ("GET", "PUT", "POST", "DELETE", "PATCH")


class PublicApi:
    """The `HttpService` of the public port, made of those rows of `operations` that are public."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._routes = Routes(row for row in operations if all(http.path in PUBLIC for http in row.http))

    def streams(self, method: str, target: bytes, headers: Headers) -> bool:
        return False

    async def serve(self, request: Request) -> Response:
        path, _, query = request.target.partition(b"?")
        try:
            match = self._routes.find(request.method, path)
            if match is None:
                known = any(self._routes.find(verb, path) for verb in VERBS)
                return Response(405) if known else text_response(404, "404 page not found\n")
        except BadEscape as error:
            return text_response(400, str(error))
        row, params, _ = match
        try:
            return await row.serve(HttpCall(request, path, query, params, row.path))
        except Exception as error:
            return http_error(error)
