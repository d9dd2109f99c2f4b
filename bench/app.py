"""The applications that the benchmark calls, as small as they can be on the same loop and parser as the sidecar.

python bench/app.py http PORT [TOPIC]   answers everything with `ok`, counts POST /events; GET /count tells
python bench/app.py grpc PORT           echoes one unary method
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import cast

import httptools
import uvloop

OK = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok"
EMPTY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class State:
    events = 0
    topic = ""


class Http(asyncio.Protocol):
    """One connection; requests are answered as they end."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.parser = httptools.HttpRequestParser(self)
        self.url = b""

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_begin(self) -> None:
        self.url = b""

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_message_complete(self) -> None:
        if self.url == b"/events":
            State.events += 1
            self.answer(EMPTY)
        elif self.url == b"/count":
            self.answer(self.document({"events": State.events}))
        elif self.url == b"/dapr/subscribe":
            wanted = [{"pubsubname": "pubsub", "topic": State.topic, "route": "/events"}] if State.topic else []
            self.answer(self.document(wanted))
        elif self.url == b"/dapr/config":
            self.answer(EMPTY)
        else:
            self.answer(OK)

    @staticmethod
    def document(value: object) -> bytes:
        body = json.dumps(value).encode()
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)

    def answer(self, data: bytes) -> None:
        self.transport.write(data)


async def serve_http(port: int) -> None:
    await asyncio.get_running_loop().create_server(Http, "127.0.0.1", port, backlog=1024)
    await asyncio.Event().wait()


async def serve_grpc(port: int) -> None:
    from pillion.net import listen
    from pillion.net.exchange import Metadata, Method, ServerCall
    from pillion.net.h2_server import H2Server

    async def echo(call: ServerCall, request: bytes) -> bytes:
        return request

    class Echo:
        def find(self, method: str, metadata: Metadata) -> Method:
            return Method(unary=echo)

    await listen.tcp(H2Server(grpc=Echo()), ("127.0.0.1",), port)
    await asyncio.Event().wait()


if __name__ == "__main__":
    kind, port, *topic = sys.argv[1:]
    State.topic = topic[0] if topic else ""
    uvloop.run(serve_http(int(port)) if kind == "http" else serve_grpc(int(port)))
