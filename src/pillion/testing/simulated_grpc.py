"""gRPC between the hosts of a simulated world: real clients and services, an invented network.

    network = Network(world)
    network.serve("10.0.0.1:50005", host_one, service)          # any `GrpcService`
    channel = network.channel(host_two, "10.0.0.1:50005")       # a `GrpcChannel` as drivers get from their `dial`

Messages of one call arrive in order, as TCP has it, each a while later; what is sent while the ends are cut apart
arrives when the network is whole again, if the connection still stands. Now and then a connection is reset: both ends
learn of it soon. An end that is cut off, or whose peer's machine is dead or stands still, learns of it by keepalive,
`notice_s` seconds after the last word. When a process ends (`Network.ended`) its system closes its connections at once.
What was on its way over a broken connection is lost. A break is UNAVAILABLE to the client, and a cancelled handler to
the server.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from pillion.errors import Code
from pillion.net.exchange import Method, RpcError, UnaryReply

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.net.exchange import ClientStream, GrpcChannel, GrpcService, Metadata
    from pillion.testing.simulation import Host, World

LOOK_S = 0.5
"""How often both ends look whether they have heard of each other."""
RESEND_S = 0.2
"""How often what does not get through is sent again."""
_ORDER_S = 1e-6
"""What lies between two messages that would arrive at the same moment."""


class Network:
    """The wires and who listens at their ends.

    `delay_s` is the range of a message's time, `breaking` the chance that a message resets its call instead; `notice_s`
    is the range of the time after which keepalive notices silence.
    """

    def __init__(
        self,
        world: World,
        *,
        delay_s: tuple[float, float] = (0.0002, 0.01),
        breaking: float = 0.0,
        notice_s: tuple[float, float] = (3.0, 5.0),
    ) -> None:
        self.world = world
        self.delay_s = delay_s
        self.breaking = breaking
        self.notice_s = notice_s
        self.notices: dict[str, tuple[float, float]] = {}
        """For methods with a keepalive of their own: what holds instead of `notice_s`."""
        self.breaks: dict[str, float] = {}
        """For methods whose connections break more often: what holds instead of `breaking`, unless that is 0."""
        self.calls: dict[_Call, None] = {}
        """The calls of which one end is still open."""
        self.broken = 0
        """How often something came between two hosts: an end heard that its connection is gone, or could not be made,
        or the hosts were cut apart."""
        self._cut: dict[frozenset[str], float] = {}
        self._ended: set[Host] = set()
        self._servers: dict[str, tuple[Host, GrpcService]] = {}

    def serve(self, address: str, host: Host, service: GrpcService) -> None:
        """Let `service` answer at `address`; a host that is killed stops answering."""
        self._servers[address] = (host, service)

    def channel(self, source: Host, address: str) -> GrpcChannel:
        return _Channel(self, source, address)

    def find(self, address: str) -> tuple[Host, GrpcService] | None:
        found = self._servers.get(address)
        return found if found is not None and found[0].alive else None

    def ended(self, host: Host) -> None:
        """The process on this host has ended, its machine goes on: whoever it had a connection with hears of it."""
        for call in list(self.calls):
            if call.source is host or call.target is host:
                call.reset()
        self._ended.add(host)

    def tear(self, method: str) -> None:
        """Reset the connections of all calls of this method that are under way."""
        for call in list(self.calls):
            if call.method == method and not call.over:
                call.reset()

    def refuses(self, address: str) -> bool:
        """Whether a machine is there that says that nobody listens at `address`."""
        found = self._servers.get(address)
        return found is None or (not found[0].alive and found[0] in self._ended)

    def cut(self, one: str, other: str) -> None:
        """Let nothing pass between two hosts from now on."""
        self.world.tell(f"{one} and {other} are cut apart")
        self.broken += 1
        self._cut.setdefault(frozenset((one, other)), self.world.now)

    def mend(self) -> None:
        """Let everything pass again."""
        if self._cut:
            self.world.tell("the network is whole again")
        self._cut.clear()

    def cut_since(self, one: Host, other: Host) -> float | None:
        return self._cut.get(frozenset((one.name, other.name)))

    def silent_since(self, listener: Host, other: Host) -> float | None:
        """Since when `listener` can have heard nothing of `other`, None when it can."""
        known = [since for since in (other.still_since, self.cut_since(listener, other)) if since is not None]
        return min(known, default=None)


class _Channel:
    """A `GrpcChannel` of a host to an address."""

    def __init__(self, network: Network, source: Host, address: str) -> None:
        self._network = network
        self._source = source
        self._address = address
        self._open: set[_Call] = set()

    async def unary(
        self, method: str, request: bytes, *, metadata: Metadata | None = None, timeout_s: float | None = None
    ) -> UnaryReply:
        stream = self.stream(method, metadata=metadata, timeout_s=timeout_s)
        try:
            await stream.send_last(request)
            message = await stream.receive()
            if message is None:
                raise RpcError(Code.INTERNAL, "no message was answered")
            await stream.receive()
        finally:
            stream.cancel()
        return UnaryReply(message, await stream.initial_metadata(), stream.trailing_metadata())

    def stream(self, method: str, *, metadata: Metadata | None = None, timeout_s: float | None = None) -> ClientStream:
        call = _Call(self._network, self._source, self._address, method, list(metadata or []), timeout_s)
        self._open.add(call)
        call.ended = self._open.discard
        return call.client

    async def close(self) -> None:
        for call in list(self._open):
            call.client.cancel()

    def __repr__(self) -> str:
        return f"<simulated channel of {self._source.name} to {self._address}>"


class _Call:
    """One call: both ends, and what is between them."""

    def __init__(
        self, network: Network, source: Host, address: str, method: str, metadata: Metadata, timeout_s: float | None
    ) -> None:
        self.network = network
        self.world = network.world
        self.source = source
        self.target: Host | None = None
        self.method = method
        self.ended: Callable[[_Call], object] = lambda call: None
        self.over = False
        self._gone = False
        self._ways: dict[str, deque[tuple[float, Callable[[], None]]]] = {"up": deque(), "down": deque()}
        self.client = _Client(self)
        self.server: _Server | None = None
        self.notice_s = network.world.random.uniform(*network.notices.get(method, network.notice_s))
        network.calls[self] = None
        self._timer: asyncio.TimerHandle | None = None
        if timeout_s is not None:
            self._timer = source.loop.call_later(timeout_s, self._late)
        self._connect(address, method, metadata, timeout_s)

    def _connect(self, address: str, method: str, metadata: Metadata, timeout_s: float | None) -> None:
        def arrive() -> None:
            found = self.network.find(address)
            if found is None and self.network.refuses(address):
                refused = RpcError(Code.UNAVAILABLE, f"connection error: {address} refuses it")
                self.network.broken += 1
                self._later("down", lambda: self._at_client(lambda: self.client.end(refused)))
                return
            if found is None or self.network.cut_since(self.source, found[0]) is not None:
                late = RpcError(Code.UNAVAILABLE, f"connection error: {address} does not answer")
                self.client.silence_s = self.notice_s
                self.network.broken += 1
                self.world.later(self.notice_s, lambda: self._at_client(lambda: self.client.end(late)))
                return
            self.target, service = found
            self.server = _Server(self, method, metadata, timeout_s, self.target)
            self.target.call(self.server.begin, service)

        self._later("up", arrive)
        self.world.later(LOOK_S, self._look)

    # -- between the ends

    def up(self, act: Callable[[], None]) -> None:
        """Let something reach the server."""
        self._later("up", lambda: self._at_server(act))

    def down(self, act: Callable[[], None]) -> None:
        """Let something reach the client."""
        self._later("down", lambda: self._at_client(act))

    def finish(self) -> None:
        """The client has its end: nothing more is of interest."""
        self.over = True
        if self._timer is not None:
            self._timer.cancel()
        self.ended(self)

    def silence(self) -> float:
        """Seconds since the server can have heard of the client."""
        assert self.target is not None
        since = self.network.silent_since(self.target, self.source)
        return 0.0 if since is None else self.world.now - since

    def _later(self, way: str, arrive: Callable[[], None]) -> None:
        network, world = self.network, self.world
        if network.breaking and world.random.random() < network.breaks.get(self.method, network.breaking):
            self.reset()
        if self._gone:
            return
        queue = self._ways[way]
        last = queue[-1][0] + _ORDER_S if queue else 0.0
        at = max(world.now + world.random.uniform(*network.delay_s), last)
        queue.append((at, arrive))
        if len(queue) == 1:
            world.later(at - world.now, self._arrive, way)

    def _arrive(self, way: str) -> None:
        """The first message of a way is there, unless the ends are cut apart: then it is sent again and again."""
        queue = self._ways[way]
        if self._gone:
            queue.clear()
        elif self.target is not None and self.network.cut_since(self.source, self.target) is not None:
            self.world.later(RESEND_S, self._arrive, way)
        elif queue:
            queue.popleft()[1]()
            if queue:
                self.world.later(max(queue[0][0] - self.world.now, 0.0), self._arrive, way)

    def _at_client(self, act: Callable[[], None]) -> None:
        if self.source.alive:
            self.source.call(act)

    def _at_server(self, act: Callable[[], None]) -> None:
        if self.target is not None and self.target.alive:
            self.target.call(act)

    def reset(self) -> None:
        """The connection is gone, and both ends hear of it."""
        if not self._gone:
            self._gone = True
            self._hears_of_the_end("client")
            self._hears_of_the_end("server")

    def _hears_of_the_end(self, end: str) -> None:
        """Let one end hear that the connection is gone, as soon as anything reaches it."""

        def arrive() -> None:
            if self.target is not None and self.network.cut_since(self.source, self.target) is not None:
                self.world.later(RESEND_S, arrive)
            elif end == "client":
                self._at_client(self._broken_client)
            else:
                self._at_server(self._break_server)

        self.world.later(self.world.random.uniform(*self.network.delay_s), arrive)

    def _broken_client(self) -> None:
        self.network.broken += 1
        self.client.end(RpcError(Code.UNAVAILABLE, "the connection broke"))

    def _look(self) -> None:
        """What keepalive does at both ends: notice a peer that is silent for too long, and close; the peer hears of
        that when it can."""
        world, target, server = self.world, self.target, self.server
        if (self.over or not self.source.alive) and (server is None or server.over or not server.host.alive):
            self.network.calls.pop(self, None)
            return
        if target is not None:
            quiet = self.network.silent_since(self.source, target)
            if quiet is not None and world.now - quiet >= self.notice_s and self.source.alive and not self.over:
                self._gone = True
                self.client.silence_s = world.now - quiet
                self.source.call(self._broken_client)
                self._hears_of_the_end("server")
            quiet = self.network.silent_since(target, self.source)
            if quiet is not None and world.now - quiet >= self.notice_s and target.alive:
                self._gone = True
                target.call(self._break_server)
                self._hears_of_the_end("client")
        world.later(LOOK_S, self._look)

    def _late(self) -> None:
        self.client.end(RpcError(Code.DEADLINE_EXCEEDED, "context deadline exceeded"))
        self.up(self._cancel_server)

    def _break_server(self) -> None:
        self.network.broken += 1
        if self.server is not None:
            self.server.broken = True
            self.server.drop()

    def _cancel_server(self) -> None:
        if self.server is not None:
            self.server.drop()

    def cancel(self) -> None:
        self.up(self._cancel_server)


class _Mailbox:
    """Messages that arrived at one end, and its end. Runs on that end's host."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._messages: deque[bytes] = deque()
        self._waiting: asyncio.Future[None] | None = None
        self.closed = False
        self.error: RpcError | None = None

    def put(self, message: bytes) -> None:
        if not self.closed:
            self._messages.append(message)
            self._wake()

    def close(self, error: RpcError | None = None) -> None:
        if not self.closed:
            self.closed, self.error = True, error
            if error is not None:
                self._messages.clear()
            self._wake()

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)

    @property
    def ready(self) -> bool:
        return bool(self._messages) or self.closed

    @property
    def exhausted(self) -> bool:
        return self.closed and self.error is None and not self._messages

    async def take(self) -> bytes | None:
        while not self._messages:
            if self.closed:
                if self.error is not None:
                    raise self.error
                return None
            self._waiting = self._host.loop.create_future()
            try:
                await self._waiting
            finally:
                self._waiting = None
        return self._messages.popleft()


class _Client:
    """The caller's end: a `ClientStream`."""

    def __init__(self, call: _Call) -> None:
        self._call = call
        self._mail = _Mailbox(call.source)
        self._headers: asyncio.Future[Metadata] = call.source.loop.create_future()
        self._trailers: Metadata = []
        self._half_closed = False
        self.silence_s = 0.0
        """How long nothing had been heard when the connection was given up for that."""

    async def send(self, message: bytes) -> None:
        self._check()
        call = self._call
        call.up(lambda: call.server.mail.put(message) if call.server is not None else None)

    async def send_last(self, message: bytes) -> None:
        await self.send(message)
        await self.half_close()

    async def half_close(self) -> None:
        self._half_closed = True
        call = self._call
        call.up(lambda: call.server.mail.close() if call.server is not None else None)

    def _check(self) -> None:
        if self._half_closed:
            raise AssertionError("the stream is half-closed")
        if self._mail.closed and self._mail.error is not None:
            raise self._mail.error

    @property
    def exhausted(self) -> bool:
        return self._mail.exhausted

    async def receive(self) -> bytes | None:
        return await self._mail.take()

    async def initial_metadata(self) -> Metadata:
        return await asyncio.shield(self._headers)

    def trailing_metadata(self) -> Metadata:
        return self._trailers

    def cancel(self) -> None:
        if not self._mail.closed:
            self.end(RpcError(Code.CANCELLED, "context canceled"))
            self._call.cancel()

    # -- what arrives

    def headers(self, metadata: Metadata) -> None:
        if not self._headers.done():
            self._headers.set_result(metadata)

    def message(self, message: bytes) -> None:
        self._mail.put(message)

    def end(self, error: RpcError | None, trailers: Metadata | None = None) -> None:
        if not self._mail.closed:
            self._trailers = trailers or []
            self._mail.close(error)
            if error is not None and not self._headers.done():
                self._headers.set_exception(error)
                self._headers.exception()  # whoever asks hears of it; nobody must
            self.headers([])
            self._call.finish()


class _Server:
    """The service's end: a `ServerCall`."""

    def __init__(self, call: _Call, method: str, metadata: Metadata, timeout_s: float | None, host: Host) -> None:
        self._call = call
        self.method = method
        self.metadata = metadata
        self.deadline = None if timeout_s is None else host.loop.time() + timeout_s
        self.peer: Any = None
        self.initial_metadata: Metadata = []
        self.trailing_metadata: Metadata = []
        self.host = host
        self.mail = _Mailbox(host)
        self.over = False
        self.broken = False
        """Whether the connection broke, rather than that the client ended the call."""
        self._sent_headers = False
        self._task: asyncio.Task[None] | None = None

    def begin(self, service: GrpcService) -> None:
        """Find the method and run its handler."""
        found = service.find(self.method, self.metadata)
        if found is None:
            self._end(RpcError(Code.UNIMPLEMENTED, f"unknown method {self.method}"))
            return
        self._task = self.host.loop.create_task(self._run(found))

    def drop(self) -> None:
        """The client is gone."""
        self.mail.close(RpcError(Code.CANCELLED, "context canceled"))
        if self._task is not None and not self.over:
            self._task.cancel()
        self.over = True

    async def _run(self, method: Method) -> None:
        try:
            if method.unary is not None:
                request = await self.mail.take()
                if request is None:
                    raise RpcError(Code.INTERNAL, "no message was sent")
                await self.send(await method.unary(self, request))
            else:
                assert method.streaming is not None
                await method.streaming(self)
        except RpcError as error:
            self._end(error)
        else:
            self._end(None)

    def _end(self, error: RpcError | None) -> None:
        if not self.over:
            self.over = True
            client, trailers = self._call.client, self.trailing_metadata
            self._call.down(lambda: client.end(error, trailers))

    @property
    def ready(self) -> bool:
        return self.mail.ready

    @property
    def exhausted(self) -> bool:
        return self.mail.exhausted

    async def receive(self) -> bytes | None:
        return await self.mail.take()

    async def send_headers(self) -> None:
        self._send_headers()

    def _send_headers(self) -> None:
        if not self._sent_headers:
            self._sent_headers = True
            client, metadata = self._call.client, self.initial_metadata
            self._call.down(lambda: client.headers(metadata))

    async def send(self, message: bytes) -> None:
        if self.over:
            raise RpcError(Code.CANCELLED, "context canceled")
        self.send_now(message)

    def send_now(self, message: bytes) -> bool:
        if not self.over:
            self._send_headers()
            client = self._call.client
            self._call.down(lambda: client.message(message))
        return True

    async def flushed(self) -> None:
        """Windows are never full here."""

    async def send_last(self, message: bytes) -> None:
        await self.send(message)
        self._end(None)

    def silence(self) -> float:
        """Seconds since this end can have heard of the other."""
        return self._call.silence()

    def first(self, name: str) -> str | bytes | None:
        return next((value for key, value in self.metadata if key == name), None)
