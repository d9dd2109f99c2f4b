"""Real placement servers for tests, and a bare client that speaks the protocol as another sidecar would."""

from __future__ import annotations

import contextlib
import http.client
import os
import queue
import sys
import time
from typing import TYPE_CHECKING

import grpc

from pillion.wire.messages import placement as m
from ports import free_port
from servers import START_S, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

METHOD = "/dapr.proto.placement.v1.Placement/ReportDaprStatus"


class PlacementProcess(Server):
    """`pillion-placement` on free ports."""

    def __init__(self, *flags: str, environ: dict[str, str] | None = None) -> None:
        super().__init__()
        self.flags = flags
        self.health_port, self.metrics_port = free_port(), free_port()

    def command(self) -> Sequence[str]:
        return [
            sys.executable, "-m", "pillion.control.placement_main", "--port", str(self.port),
            "--listen-address", self.host, "--healthz-port", str(self.health_port), "--healthz-listen-address",
            self.host, "--metrics-port", str(self.metrics_port), "--metrics-listen-address", self.host, *self.flags,
        ]  # fmt: skip

    def get(self, path: str, port: int | None = None) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(self.host, port or self.health_port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def answers(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.get("/healthz")[0] == 200
        return False


class Bare:
    """One stream, driven by hand."""

    def __init__(self, address: str) -> None:
        self._queue: queue.Queue[m.Host | None] = queue.Queue()
        self._channel = grpc.insecure_channel(address)
        call = self._channel.stream_stream(
            METHOD, request_serializer=m.Host.SerializeToString, response_deserializer=m.PlacementOrder.FromString
        )
        self.stream = call(iter(self._queue.get, None), timeout=START_S)

    def say(self, operation: int = m.REPORT, version: int | None = None, **fields: object) -> None:
        values = {"name": "10.9.9.9:1", "id": "bare", "namespace": "default", "operation": operation, **fields}
        host = m.Host(**values)  # type: ignore[arg-type]
        if version is not None:
            host.version = version
        self._queue.put(host)

    def next(self) -> m.PlacementOrder:
        order: m.PlacementOrder = next(self.stream)
        return order

    def round(self, **fields: object) -> m.PlacementOrder:
        """Answer one whole round; return its table."""
        tables = None
        for operation in (m.LOCK, m.UPDATE, m.UNLOCK):
            order = self.next()
            assert order.operation == {m.LOCK: "lock", m.UPDATE: "update", m.UNLOCK: "unlock"}[operation]
            tables = order if operation == m.UPDATE else tables
            self.say(operation, order.version, **fields)
        assert tables is not None
        return tables

    def code(self) -> grpc.StatusCode:
        """Wait for the end; return its status."""
        with contextlib.suppress(grpc.RpcError):
            for _ in self.stream:
                pass
        code: grpc.StatusCode = self.stream.code()
        return code

    def close(self) -> None:
        self._queue.put(None)
        self.stream.cancel()
        self._channel.close()


@contextlib.contextmanager
def bare(address: str) -> Iterator[Bare]:
    """A bare client, closed at the end."""
    client = Bare(address)
    try:
        yield client
    finally:
        client.close()


def leads(server: PlacementProcess) -> bool:
    """Whether the server says that it leads."""
    text = server.get("/", server.metrics_port)[1].decode()
    return any(line.startswith("dapr_placement_leader_status") and line.endswith(" 1") for line in text.splitlines())


def serves(server: PlacementProcess) -> bool:
    """Whether the server takes a stream, and gives it an order."""
    with bare(server.address) as client:
        client.say(namespace=f"probe-{os.getpid()}")
        try:
            client.next()
        except grpc.RpcError:
            return False
        return True


def until(holds: Callable[[], bool]) -> None:
    """Ask again and again: another process does not tell when its state changes."""
    deadline = time.monotonic() + START_S
    while not holds():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
