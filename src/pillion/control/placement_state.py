"""What placement tells about itself: `GET /placement/state`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from pillion.net.exchange import Response

if TYPE_CHECKING:
    from pillion.control.placement import PlacementService
    from pillion.net.exchange import Headers, HttpService, Request


class StateApi:
    """`GET /placement/state` in front of another service, the health check's."""

    def __init__(self, service: PlacementService, behind: HttpService) -> None:
        self._service, self._behind = service, behind

    def streams(self, method: str, target: bytes, headers: Headers) -> bool:
        return False

    async def serve(self, request: Request) -> Response:
        if request.target.partition(b"?")[0] != b"/placement/state":
            return await self._behind.serve(request)
        body = json.dumps(self._service.state()).encode()
        return Response(200, [(b"content-type", b"application/json")], body)
