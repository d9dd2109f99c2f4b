"""The stream over which an application without an HTTP port hosts actors (spec `grpc-api.md` 4).

The application dials, tells its types, and is called back over the same stream. Knows: how a stream begins and ends,
which types it registers. Never knows: what goes over it in between (`app/actor_stream.py`), placement.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from pillion.actors.settings import from_stream
from pillion.api.operation import Operation, Rpc
from pillion.blocks import actors_faults as faults
from pillion.errors import ApiError, Code, ConfigError
from pillion.net.exchange import RpcError
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillion.actors.settings import TypeSettings
    from pillion.api.call import RpcCall
    from pillion.app.actor_stream import ActorStream, ActorStreams
    from pillion.blocks.actor_access import Gate
    from pillion.kinds.actors import Hosted
    from pillion.net.exchange import ServerCall

log = logging.getLogger("pillion.blocks.actors")
_READY = m.SubscribeActorEventsResponseAlpha1(
    initial_response=m.SubscribeActorEventsResponseInitialAlpha1()
).SerializeToString()
NOT_FIRST = "the first message must be an initial request"
HTTP_APP = "actor callback streaming requires a gRPC app channel"
MOST_STREAMS = 256
"""Streams of one application at the same time; one for each of its processes is what they are for."""


class ActorStreamBlock:
    """The handler.

    `streams` runs the callbacks. `host` is told the types that all open streams together name; of a type that several
    name, the newest has its way. `allowed` False: the application speaks HTTP and is called there.
    """

    def __init__(
        self,
        gate: Gate,
        streams: ActorStreams,
        host: Callable[[Sequence[Hosted]], None],
        *,
        disseminate_timeout_s: float,
        allowed: bool = True,
    ) -> None:
        self._gate = gate
        self._streams = streams
        self._host = host
        self._disseminate_timeout_s = disseminate_timeout_s
        self._allowed = allowed
        self._closing = asyncio.Event()
        self._open: dict[ActorStream, list[TypeSettings]] = {}

    def operations(self) -> list[Operation]:
        """The row of this block."""
        row = Rpc(("SubscribeActorEventsAlpha1",), stream=self.subscribe)
        return [Operation("SubscribeActorEventsAlpha1", "actors", "v1alpha1", rpc=row)]

    async def subscribe(self, call: RpcCall) -> None:
        """Serve one stream from its first message to its end."""
        if not self._allowed:
            raise RpcError(Code.FAILED_PRECONDITION, HTTP_APP)
        if not self._gate.enabled:
            raise ApiError(faults.NO_PLACEMENT)
        await self._until_closing(self._serve(call.stream))

    def close(self) -> None:
        """End every stream: their actors have been put to rest."""
        self._closing.set()

    async def _until_closing(self, serving: Any) -> None:
        """Run `serving` until it ends, or the sidecar does."""
        task = asyncio.ensure_future(serving)
        closing = asyncio.ensure_future(self._closing.wait())
        try:
            await asyncio.wait({task, closing}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise RpcError(Code.UNAVAILABLE, "actor runtime is closed")
            task.result()
        finally:
            task.cancel()
            closing.cancel()
            await asyncio.gather(task, closing, return_exceptions=True)

    async def _serve(self, call: ServerCall) -> None:
        initial = await _initial(call)
        try:
            settings = from_stream(initial, disseminate_timeout_s=self._disseminate_timeout_s, warn=log.warning)
        except ConfigError as error:
            raise RpcError(Code.INTERNAL, f"failed to register hosted actors: {error}") from error
        if len(self._open) >= MOST_STREAMS:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"more than {MOST_STREAMS} streams of actors")
        stream = self._streams.add(call)
        self._open[stream] = settings
        try:
            self._register()
            await call.send(_READY)
            self._gate.open()
            await stream.converse()
        finally:
            del self._open[stream]
            self._streams.remove(stream)
            if not self._open:
                self._gate.shut()
            self._register()

    def _register(self) -> None:
        types = {one.actor_type: one for settings in self._open.values() for one in settings}
        self._host([one.hosted(self._streams) for one in types.values()])


async def _initial(call: ServerCall) -> m.SubscribeActorEventsRequestInitialAlpha1:
    message = await call.receive()
    if message is None:
        raise RpcError(Code.INVALID_ARGUMENT, NOT_FIRST)
    try:
        request = m.SubscribeActorEventsRequestAlpha1.FromString(message)
    except DecodeError as error:
        raise RpcError(Code.INTERNAL, f"grpc: error unmarshalling request: {error}") from error
    if not request.HasField("initial_request"):
        raise RpcError(Code.INVALID_ARGUMENT, NOT_FIRST)
    return request.initial_request
