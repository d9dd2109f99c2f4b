"""A component that is another process, behind a unix socket (spec `grpc-api.md` 9, docs/pluggable-components.md).

Knows: the connection, `Init` after every connect, whose calls they are, how a status becomes an error. Never knows:
what the services do (`pluggable_state`, `pluggable_pubsub`, `pluggable_bindings`, `pluggable_secrets`).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping  # noqa: TC003 - settings are decoded by their hints
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from google.protobuf.message import DecodeError

from pillion.errors import Code, ComponentError
from pillion.kinds.component import setting
from pillion.net.exchange import RpcError
from pillion.net.grpc_client import Channel
from pillion.net.h2_pool import PoolOptions
from pillion.wire.messages import components as m

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillion.kinds.component import Context
    from pillion.net.exchange import Metadata
    from pillion.net.grpc_streams import StreamCall
    from pillion.net.h2_pool import ClientConnection

log = logging.getLogger("pillion.components.pluggable")
PACKAGE = "dapr.proto.components.v1"
CALL_S = 60.0
"""Longest wait for an answer; resiliency policies usually end a call before."""
MAX_MESSAGE = 64 << 20
"""Bytes of one message from the component."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.1, 10.0


class Message(Protocol):
    """What a protobuf message can do, as far as it matters here."""

    def SerializeToString(self) -> bytes: ...

    def ParseFromString(self, serialized: bytes) -> int: ...


M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class PluggableSettings:
    """`socket` is where discovery found the component, the rest is for the component itself."""

    socket: str = setting(key="pillion.socket", help="the socket; set by discovery")
    properties: Mapping[str, str] = setting(rest=True, help="handed to the component's Init")


class Plug:
    """The connection to one component process, on behalf of one component resource.

    `services` are initialised, in order, before anything else is said on a new connection: a process that was started
    again knows nothing of what was said to the one before it.
    """

    def __init__(
        self, settings: PluggableSettings, context: Context, services: Sequence[tuple[str, type[Any]]]
    ) -> None:
        self.name = context.name
        self._settings, self._services = settings, services
        self._headers: Metadata = [("x-component-instance", context.name)]
        # One connection, so that a new one means a new process (or one that must be taken for new).
        options = PoolOptions(streams=1 << 20, connections=1)
        self._channel = Channel(f"unix:{settings.socket}", max_receive=MAX_MESSAGE, options=options)
        self._ready: ClientConnection | None = None
        self._preparing = asyncio.Lock()

    async def prepare(self) -> None:
        """Connect and call `Init` where that has not been done on the present connection; raises `RpcError`."""
        if self._is_ready():
            return
        async with self._preparing:
            if self._is_ready():
                return
            connection = await self._channel.connection(asyncio.get_running_loop().time() + CALL_S)
            for service, request in self._services:
                properties = m.MetadataRequest(properties=self._settings.properties)
                await self._unary(service, "Init", request(metadata=properties))
            self._ready = connection

    def _is_ready(self) -> bool:
        return self._ready is not None and self._ready in self._channel.pool.connections

    async def call(self, service: str, method: str, request: Message, answer: type[M]) -> M:
        """Make one call; raises `RpcError`."""
        await self.prepare()
        found = answer()
        try:
            found.ParseFromString(await self._unary(service, method, request))
        except DecodeError as error:
            raise RpcError(Code.INTERNAL, f"{method}: the answer cannot be read: {error}") from error
        return found

    async def ask(self, service: str, method: str, request: Message, answer: type[M]) -> M:
        """`call`, raising `ComponentError`."""
        try:
            return await self.call(service, method, request, answer)
        except RpcError as error:
            raise self.failure(error) from error

    async def stream(self, service: str, method: str) -> StreamCall:
        """Begin a streaming call; raises `RpcError`."""
        await self.prepare()
        return self._channel.stream(f"/{PACKAGE}.{service}/{method}", metadata=self._headers)

    async def _unary(self, service: str, method: str, request: Message) -> bytes:
        path = f"/{PACKAGE}.{service}/{method}"
        reply = await self._channel.unary(
            path, request.SerializeToString(), metadata=self._headers, timeout_s=CALL_S
        )  # fmt: skip
        return reply.message

    async def features(self, service: str) -> frozenset[str]:
        """What the component declares."""
        return frozenset((await self.ask(service, "Features", m.FeaturesRequest(), m.FeaturesResponse)).features)

    async def ping(self, service: str) -> None:
        await self.ask(service, "Ping", m.PingRequest(), m.PingResponse)

    async def close(self) -> None:
        await self._channel.close()

    def failure(self, error: RpcError) -> ComponentError:
        """Return the error that callers see for a status."""
        return ComponentError(error.message or f"the component answered with status {error.code}")

    def __repr__(self) -> str:
        return f"<Plug of {self.name}: {self._channel!r}>"


@dataclass(slots=True)
class Patience:
    """How long to wait before the next attempt to get a stream: longer each time, from the start after a success."""

    wait_s: float = FIRST_WAIT_S
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    """Ends the waiting."""

    def renew(self) -> None:
        self.wait_s = FIRST_WAIT_S

    async def wait(self) -> None:
        delay_s = self.wait_s * (0.8 + 0.4 * random.random())
        self.wait_s = min(self.wait_s * 2, LONGEST_WAIT_S)
        try:
            async with asyncio.timeout(delay_s):
                await self.stop.wait()
        except TimeoutError:
            return
