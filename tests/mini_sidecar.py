"""Sidecars made of the invocation's own parts, in the test's process: real servers, real sockets, no configuration."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from pillion.app.channel import AppChannel
from pillion.blocks.invoke import InvokeBlock
from pillion.errors import ComponentError
from pillion.net import listen
from pillion.net.grpc_client import Channel
from pillion.net.h2_server import H2Server
from pillion.net.http_client import HttpClient
from pillion.net.http_server import HttpServer
from pillion.peers.client import PeerClient
from pillion.peers.endpoints import Endpoint, External
from pillion.peers.pool import Pool
from pillion.peers.proxy import Proxy
from pillion.peers.resolve import Directory, Target
from pillion.resiliency.machine import Retry
from pillion.serve.grpc import GrpcApi
from pillion.serve.http import HttpApi, HttpSettings
from pillion.serve.internal import InternalService

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from pillion.kinds.invocation import InvokePolicies
    from pillion.kinds.names import Instance
    from pillion.net.exchange import ClientStream, GrpcChannel, Metadata

LOCALHOST = "127.0.0.1"


class Names:
    """A resolver whose list the test writes."""

    def __init__(self) -> None:
        self.addresses: dict[str, list[str]] = {}
        self.told: list[str] = []

    async def resolve(self, app_id: str, namespace: str) -> Sequence[str]:
        found = self.addresses.get(f"{app_id}.{namespace}")
        if not found:
            raise ComponentError(f"couldn't find service: {app_id}")
        return found

    def failed(self, app_id: str, namespace: str, address: str) -> None:
        self.told.append(address)

    async def open(self) -> None: ...
    async def ping(self) -> None: ...
    async def close(self) -> None: ...
    async def register(self, instance: Instance) -> None: ...


def dial(address: str, target: Target) -> GrpcChannel:
    return Channel(address)


class MiniSidecar:
    """One sidecar: HTTP, gRPC and internal port. `app_port` 0: no application."""

    def __init__(
        self,
        names: Names,
        app_id: str,
        app_port: int = 0,
        *,
        protocol: str = "http",
        app_token: str = "",
        api_token: str = "",
        namespace: str = "default",
        endpoints: dict[str, Endpoint] | None = None,
        policies: InvokePolicies | None = None,
        authorize: Callable[[str | None, str, str], None] | None = None,
        host_address: str = "10.0.0.1",
        max_body: int = 4 << 20,
        retry_wait_s: float = 0.01,
        retries: int = 3,
    ) -> None:
        self.names, self.app_id, self.namespace = names, app_id, namespace
        self.app: AppChannel | None = None
        if app_port:
            http = HttpClient(LOCALHOST, app_port) if protocol == "http" else None
            grpc = Channel(f"{LOCALHOST}:{app_port}") if protocol == "grpc" else None
            self.app = AppChannel(protocol, http=http, grpc=grpc, token=app_token, port=app_port)
        self.directory = Directory(names)
        self.pool = Pool(dial)
        self.peers = PeerClient(
            app_id,
            namespace,
            self.directory,
            self.pool,
            host_address=host_address,
            host_name="host-" + app_id,
            retry=lambda: Retry("test", 3, retry_wait_s),
        )
        self.external = External(
            {} if endpoints is None else endpoints, retry=lambda: Retry("test", retries, retry_wait_s)
        )
        block = self.block = InvokeBlock(app_id, namespace, lambda: self.app, self.peers, self.external, policies)
        proxy = Proxy(app_id, namespace, self._open_app, self.peers, policies=policies, authorize=authorize)
        http_api = HttpApi(block.operations(), HttpSettings(api_token=api_token), block.http)
        grpc_api = GrpcApi(block.operations(), proxy=proxy.serve, api_token=api_token)
        internal = InternalService(lambda: self.app, proxy=proxy.serve, authorize=authorize)
        self.http_server = HttpServer(http_api, max_body=max_body, max_head=8192)
        self.grpc_server = H2Server(grpc=grpc_api)
        self.internal_server = H2Server(grpc=internal)
        self.listeners: list[listen.Listeners] = []

    def _open_app(self) -> Callable[[str, Metadata, float | None], ClientStream] | None:
        app = self.app
        if app is None or app.grpc is None:
            return None
        return lambda method, metadata, left: app.stream(method, metadata=metadata, timeout_s=left)

    async def __aenter__(self) -> MiniSidecar:
        for server in (self.http_server, self.grpc_server, self.internal_server):
            self.listeners.append(await listen.tcp(server, [LOCALHOST], 0))
        self.names.addresses.setdefault(f"{self.app_id}.{self.namespace}", []).append(self.internal_address)
        return self

    @property
    def url(self) -> str:
        return f"http://{LOCALHOST}:{self.listeners[0].port}"

    @property
    def grpc_address(self) -> str:
        return f"{LOCALHOST}:{self.listeners[1].port}"

    @property
    def internal_address(self) -> str:
        return f"{LOCALHOST}:{self.listeners[2].port}"

    async def __aexit__(self, *exc: object) -> None:
        for one in self.listeners:
            one.close()
        await self.http_server.close(1.0)
        await self.peers.close()
        await self.external.close()
        await self.grpc_server.close(1.0)
        await self.internal_server.close(1.0)
        if self.app is not None:
            await self.app.close()


@contextlib.asynccontextmanager
async def two(
    app_port: int,
    *,
    protocol: str = "http",
    max_body: int = 4 << 20,
    caller: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[MiniSidecar, MiniSidecar]]:
    """Two sidecars that know each other: `front` without an application, `back` with the one at `app_port`."""
    names = Names()
    async with (
        MiniSidecar(names, "front", max_body=max_body, **(caller or {})) as front,
        MiniSidecar(names, "back", app_port, protocol=protocol, max_body=max_body, **settings) as back,
    ):
        yield front, back
