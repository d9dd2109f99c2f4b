"""Peers for the tests of HTTP/2 and gRPC: a recording driver of our machine, raw frames, and services to call."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pillion.net import listen
from pillion.net.exchange import Method, RpcError
from pillion.net.h2_server import H2Server
from pillion.wire import h2_frames as f
from pillion.wire.h2_connection import Connection
from pillion.wire.h2_headers import encode
from pillion.wire.h2_stream import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from pillion.net.exchange import Metadata, ServerCall
    from pillion.net.h2_server import ServerOptions
    from pillion.wire.h2_headers import RequestHead, Trailers
    from pillion.wire.h2_limits import Limits

Frame = tuple[int, int, int, bytes]
"""Type, flags, stream id, payload."""


class Recorded(Stream):
    """A stream that writes down what happens to it. `consuming` lets the window open as data comes."""

    def __init__(self, connection: Connection, stream_id: int, *, consuming: bool = True) -> None:
        super().__init__(connection, stream_id)
        self.consuming = consuming
        self.head: Any = None
        self.body = b""
        self.done = False
        self.trailers: list[tuple[bytes, bytes]] | None = None
        self.reset_code: int | None = None
        self.times_drained = 0

    def received_head(self, head: Any, ended: bool) -> None:
        self.head = head
        self.done = ended

    def received_data(self, data: bytes, ended: bool) -> None:
        self.body += data
        self.done = ended
        if self.consuming:
            self.connection.consume(self, len(data))

    def received_trailers(self, trailers: Trailers) -> None:
        self.trailers = trailers.headers
        self.done = True

    def was_reset(self, code: int, text: str) -> None:
        self.reset_code = code

    def drained(self) -> None:
        self.times_drained += 1


class Recorder:
    """A driver without a socket."""

    def __init__(self, *, client: bool = False, limits: Limits | None = None, consuming: bool = True) -> None:
        self.consuming = consuming
        self.streams: dict[int, Recorded] = {}
        self.error: f.H2Error | None = None
        self.goaway: tuple[int, int, bytes] | None = None
        self.pings: list[bytes] = []
        self.woken = 0
        self.h2 = Connection(self, client=client, wake=self._wake, limits=limits, now=0.0)
        self.h2.start()

    def _wake(self) -> None:
        self.woken += 1

    def accept(self, stream_id: int, head: RequestHead) -> Stream:
        self.streams[stream_id] = stream = Recorded(self.h2, stream_id, consuming=self.consuming)
        return stream

    def open(self, fields: list[tuple[bytes, bytes]], *, end: bool = False) -> Recorded:
        stream = Recorded(self.h2, self.h2.next_id, consuming=self.consuming)
        self.streams[stream.id] = stream
        self.h2.open(stream, encode(fields), end=end)
        return stream

    def settled(self) -> None: ...

    def pinged(self) -> None: ...

    def ping_acked(self, payload: bytes) -> None:
        self.pings.append(payload)

    def going_away(self, last_id: int, code: int, text: bytes) -> None:
        self.goaway = (last_id, code, text)

    def quiet(self) -> None: ...

    def failed(self, error: f.H2Error) -> None:
        self.error = error

    def feed(self, *parts: bytes, now: float = 0.0) -> list[Frame]:
        """Receive and return the frames that are sent in reply."""
        for part in parts:
            self.h2.receive(part, now)
        return frames(self.h2.take())


def server(limits: Limits | None = None, *, consuming: bool = True) -> Recorder:
    """Return a server that has been greeted; its own settings are taken away."""
    recorder = Recorder(limits=limits, consuming=consuming)
    recorder.feed(f.PREFACE + f.settings_frame({}) + f.SETTINGS_ACK)
    return recorder


def client(limits: Limits | None = None) -> Recorder:
    """Return a client that has been greeted; its own settings are taken away."""
    recorder = Recorder(client=True, limits=limits)
    recorder.feed(f.settings_frame({}) + f.SETTINGS_ACK)
    return recorder


def frames(data: bytes) -> list[Frame]:
    """Cut bytes into frames; a preface in front is left out."""
    data = data.removeprefix(f.PREFACE)
    out: list[Frame] = []
    while data:
        high, low, kind, flags, stream_id = f.FRAME_HEAD.unpack_from(data)
        size = high << 8 | low
        out.append((kind, flags, stream_id, data[9 : 9 + size]))
        data = data[9 + size :]
    return out


GET = [(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/"), (b":authority", b"test")]
POST = [(b":method", b"POST"), *GET[1:]]


def headers(stream_id: int, fields: list[tuple[bytes, bytes]], *, end: bool = True) -> bytes:
    return f.head_frames(stream_id, encode(fields), end=end, frame_size=16384)


def data(stream_id: int, payload: bytes, *, end: bool = False) -> bytes:
    return f.frame(f.DATA, f.END_STREAM if end else 0, stream_id, payload)


class Calls:
    """A gRPC service of all four kinds, and of the ways in which a call may go wrong."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.metadata: Metadata = []
        self.poured = 0

    def find(self, method: str, metadata: Metadata) -> Method | None:
        self.metadata = metadata
        name = method.rpartition("/")[2].lower()
        if name in ("echo", "fail", "crash", "hang", "decorate", "rich"):
            return Method(unary=getattr(self, name))
        if name == "prompt":
            return Method(unary=self.echo, at_once=self.prompt)
        if name in ("collect", "count", "pour", "burst", "chat", "linger"):
            return Method(streaming=getattr(self, name))
        return None

    async def echo(self, call: ServerCall, request: bytes) -> bytes:
        return request

    def prompt(self, call: ServerCall, request: bytes) -> bytes | None:
        """Answers by itself what it can; `later` is left to `echo`."""
        call.initial_metadata.append(("first", "1"))
        if request == b"fail":
            raise RpcError(9, "not now")
        if request == b"crash":
            raise ValueError("a bug")
        return None if request == b"later" else request.upper()

    async def fail(self, call: ServerCall, request: bytes) -> bytes:
        raise RpcError(9, "not now: 100% – sorry\n", b"\x08\x09", [("why-bin", b"\0\xff"), ("why", "so")])

    async def crash(self, call: ServerCall, request: bytes) -> bytes:
        raise ValueError("a bug")

    async def hang(self, call: ServerCall, request: bytes) -> bytes:
        self.started.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        return b""

    async def decorate(self, call: ServerCall, request: bytes) -> bytes:
        call.initial_metadata.append(("first", "1"))
        call.trailing_metadata.append(("last-bin", b"\1\2\3"))
        return request

    async def rich(self, call: ServerCall, request: bytes) -> bytes:
        return b"x" * int(request)

    async def collect(self, call: ServerCall) -> None:
        parts = []
        while (message := await call.receive()) is not None:
            parts.append(message)
        await call.send(b"".join(parts))

    async def count(self, call: ServerCall) -> None:
        request = await call.receive()
        for number in range(int(request or b"0")):
            await call.send(b"%d" % number)

    async def pour(self, call: ServerCall) -> None:
        request = await call.receive()
        for _ in range(int(request or b"0")):
            await call.send(bytes(65_536))
            self.poured += 1

    async def burst(self, call: ServerCall) -> None:
        request = await call.receive()
        await asyncio.gather(*(call.send(bytes(65_536)) for _ in range(int(request or b"0"))))

    async def chat(self, call: ServerCall) -> None:
        while (message := await call.receive()) is not None:
            await call.send(message)

    async def linger(self, call: ServerCall) -> None:
        await call.send_headers()
        await self.hang(call, b"")


@asynccontextmanager
async def serving(
    grpc: Any = None, http: Any = None, options: ServerOptions | None = None, tls: Any = None
) -> AsyncIterator[tuple[str, H2Server]]:
    """Serve on loopback; yields the address and the server."""
    made = H2Server(grpc=grpc, http=http, options=options)
    listeners = await listen.tcp(made, ["127.0.0.1"], 0, tls=tls)
    try:
        yield f"127.0.0.1:{listeners.port}", made
    finally:
        listeners.close()
        await made.close()
