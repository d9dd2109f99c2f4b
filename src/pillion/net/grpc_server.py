"""gRPC calls on the streams of an HTTP/2 server connection: what they share, and what a request's head means.

Knows: the service, the limits, the calls that have not ended, how a head becomes the plan of its calls. Never knows:
what happens to a call (`grpc_serving`), sockets, services' contents.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pillion.errors import Code
from pillion.net.grpc_serving import GrpcCall
from pillion.records import record
from pillion.wire import grpc as g
from pillion.wire.grpc import StatusError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.net.exchange import GrpcService, Metadata
    from pillion.net.h2_server import H2ServerConnection
    from pillion.wire.h2_headers import RequestHead


@record
class GrpcOptions:
    """Bytes of one message; `max_send` None: no bound."""

    max_receive: int = g.DEFAULT_MAX_MESSAGE
    max_send: int | None = None


class GrpcSide:
    """What all calls of a server share: the service, the limits, and the calls that have not ended."""

    def __init__(self, service: GrpcService, options: GrpcOptions) -> None:
        self.find = service.find
        self.max_receive = options.max_receive
        self.max_send = options.max_send
        self.calls: set[GrpcCall] = set()
        self._quiet: asyncio.Event | None = None

    def plan(self, head: RequestHead, content_type: bytes) -> Callable[[H2ServerConnection, int], GrpcCall]:
        """Work out from a head what every call with the same bytes needs; return the maker of their streams."""
        plan = Plan(self, head, content_type)

        def make(connection: H2ServerConnection, stream_id: int) -> GrpcCall:
            return GrpcCall(connection, stream_id, plan)

        return make

    def ended(self, call: GrpcCall) -> None:
        if call in self.calls:
            self.calls.discard(call)
            call.server.unfinished -= 1
        if self._quiet is not None and not self.calls:
            self._quiet.set()

    async def calls_ended(self) -> None:
        """Wait for the handlers that are still unwinding after their cancellation."""
        if self.calls:
            self._quiet = asyncio.Event()
            await self._quiet.wait()


class Plan:
    """The meaning of a gRPC request head. `failure` is the status that every such call ends with at once."""

    __slots__ = ("encoding", "failure", "http_status", "metadata", "method", "side")

    def __init__(self, side: GrpcSide, head: RequestHead, content_type: bytes) -> None:
        self.side = side
        self.method = head.path.decode("latin-1")
        self.encoding = b""
        self.failure: StatusError | None = None
        self.http_status = 200
        self.metadata: Metadata = []
        if content_type[16:17] not in b"+;":  # application/grpcfoo is something else
            self.http_status = 415
        elif head.method != "POST":
            self.http_status = 405
        try:
            self._read(head)
        except StatusError as error:
            self.failure = error

    def _read(self, head: RequestHead) -> None:
        for name, value in head.headers:
            if name == b"grpc-encoding":
                self.encoding = b"" if value == b"identity" else value
                if self.encoding not in (b"", b"gzip"):
                    text = value[:64].decode("latin-1")
                    raise StatusError(
                        Code.UNIMPLEMENTED, f'grpc: Decompressor is not installed for grpc-encoding "{text}"'
                    )
        self.metadata = g.read_metadata(head.headers)
        if head.authority is not None:
            self.metadata = [
                (":authority", head.authority.decode("latin-1")),
                *(pair for pair in self.metadata if pair[0] != "host"),
            ]
