"""Actors in the test's process: the edges and the host are the real ones, behind real servers on real sockets.

Placement says what the test tells it; state, timers and reminders are kept in dictionaries.
"""

from __future__ import annotations

import json
import urllib.parse
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from pillion.actors.host import ActorHost
from pillion.app.actor_stream import ActorStreams
from pillion.app.actors import HttpActors
from pillion.app.channel import AppChannel
from pillion.blocks.actor_access import ActorAccess, ActorParts, Gate
from pillion.blocks.actor_stream import ActorStreamBlock
from pillion.blocks.actors import ActorsBlock
from pillion.errors import ComponentError
from pillion.kinds.actors import Hosted, NoHost, NotActive, NotHosted, Owner
from pillion.kinds.jobs import Job, JobExists, JobKey
from pillion.kinds.state import Delete, Found, Set
from pillion.net import listen
from pillion.net.exchange import Request, RpcError
from pillion.net.h2_server import H2Server
from pillion.net.http_client import HttpClient
from pillion.net.http_server import HttpServer
from pillion.resiliency.machine import Retry
from pillion.serve.closed import no_fallback
from pillion.serve.grpc import GrpcApi
from pillion.serve.http import HttpApi, HttpSettings
from pillion.serve.internal import InternalService
from pillion.serve.internal_actors import InternalActors
from pillion.wire.messages import wellknown

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from google.protobuf.message import Message

    from pillion.api.operation import Operation
    from pillion.kinds.actors import Handler
    from pillion.net.exchange import Response, ServerCall
    from pillion.observe.tracing import Tracer

LOCALHOST = "127.0.0.1"
SERVICE = "/dapr.proto.runtime.v1.Dapr/"


class OnePlace:
    """A placement in which everything that is hosted lives here, except what `elsewhere` names."""

    def __init__(self) -> None:
        self.version = 1
        self.hosted: list[str] = []
        self.elsewhere: dict[str, Owner] = {}

    def lookup(self, actor_type: str, actor_id: str) -> Owner | None:
        if actor_type in self.elsewhere:
            return self.elsewhere[actor_type]
        if actor_type not in self.hosted:
            raise NoHost(f"did not find address for actor '{actor_type}||{actor_id}'")
        return Owner("here:1", "app", "default", local=True)

    async def owner(self, actor_type: str, actor_id: str) -> Owner:
        found = self.lookup(actor_type, actor_id)
        assert found is not None
        return found

    def types(self, actor_types: Sequence[str]) -> None:
        self.hosted = list(actor_types)


class NoPeers:
    """No other sidecar can be reached."""

    async def invoke(self, owner: Owner, call: object) -> Any:
        raise ComponentError("unreachable")

    tick = invoke

    def stream(self, owner: Owner, call: object) -> Any:
        raise ComponentError("unreachable")


class Kept:
    """State, timers and reminders."""

    def __init__(self, host: ActorHost) -> None:
        self.host = host
        self.state: dict[tuple[str, str, str], Found] = {}
        self.timers: dict[tuple[str, str, str], dict[str, Any]] = {}
        self.jobs: dict[tuple[str, str, str], Job] = {}
        self.failing = ""

    def fail(self) -> None:
        if self.failing:
            raise ComponentError(self.failing)


class KeptState(Kept):
    async def get(self, actor_type: str, actor_id: str, key: str) -> Found:
        self.fail()
        return self.state.get((actor_type, actor_id, key), Found(key))

    async def transact(self, actor_type: str, actor_id: str, operations: Sequence[Set | Delete]) -> None:
        self.fail()
        if self.host.instance(actor_type, actor_id) is None:
            raise NotActive("not active")
        for operation in operations:
            where = actor_type, actor_id, operation.key
            if isinstance(operation, Delete):
                self.state.pop(where, None)
            else:
                ttl = operation.metadata.get("ttlInSeconds")
                metadata = {"ttlExpireTime": f"in {ttl} s"} if ttl else {}
                self.state[where] = Found(operation.key, operation.value, "1", metadata)


class KeptTimers(Kept):
    async def create(self, actor_type: str, actor_id: str, name: str, **settings: Any) -> None:
        if not self.host.hosts(actor_type):
            raise NotHosted(f"actor type {actor_type} is not hosted here")
        self.fail()
        self.timers[actor_type, actor_id, name] = settings

    async def delete(self, actor_type: str, actor_id: str, name: str) -> None:
        self.timers.pop((actor_type, actor_id, name), None)


class KeptReminders(Kept):
    async def create(
        self, actor_type: str, actor_id: str, name: str, *, data: bytes | None = None, overwrite: bool = True,
        due_time: str = "", period: str = "", ttl: str = "", failure_policy: Any = None,
    ) -> None:  # fmt: skip
        self.fail()
        where = actor_type, actor_id, name
        if where in self.jobs and not overwrite:
            raise JobExists("it is there")
        packed = wellknown.Any()
        if data is not None:
            packed.Pack(wellknown.BytesValue(value=data))
        schedule = f"@every {period}" if period else ""
        payload = packed.SerializeToString() if data is not None else b""
        self.jobs[where] = Job(schedule, due_time, ttl, payload=payload, failure_policy=failure_policy)

    async def get(self, actor_type: str, actor_id: str, name: str) -> Job | None:
        self.fail()
        return self.jobs.get((actor_type, actor_id, name))

    async def delete(self, actor_type: str, actor_id: str, name: str) -> None:
        self.fail()
        self.jobs.pop((actor_type, actor_id, name), None)

    async def list_reminders(
        self, namespace: str, actor_type: str, actor_id: str | None = None
    ) -> list[tuple[JobKey, Job]]:
        return [
            (JobKey(namespace, key[2], "app", key[0], key[1]), job)
            for key, job in sorted(self.jobs.items())
            if key[0] == actor_type and actor_id in (None, key[1])
        ]

    async def delete_reminders(self, namespace: str, actor_type: str, actor_id: str | None = None) -> None:
        for key, _ in await self.list_reminders(namespace, actor_type, actor_id):
            del self.jobs[key.actor_type, key.actor_id, key.name]


class Rig:
    """One sidecar's actors. `app_port` 0: the application is expected to dial."""

    def __init__(
        self, app_port: int = 0, *, enabled: bool = True, ttl: bool = False, tracer: Tracer | None = None
    ) -> None:
        self.placement = OnePlace()
        self.host = ActorHost(self.placement, NoPeers(), retry=lambda: Retry("test", 2, 0.01))
        self.host.store_changed(True)
        self.gate = Gate(enabled=enabled)
        self.state, self.timers, self.reminders = KeptState(self.host), KeptTimers(self.host), KeptReminders(self.host)
        reminders: Any = self.reminders
        self.parts = ActorParts(
            "app", "default", self.host, self.state, self.timers, self.reminders, scheduler=reminders, ttl=ttl
        )
        self.access = ActorAccess(self.gate, self.parts if enabled else None)
        self.streams = ActorStreams()
        self.app: AppChannel | None = None
        handler: Handler = self.streams
        if app_port:
            self.app = AppChannel("http", http=HttpClient(LOCALHOST, app_port), port=app_port)
            handler = HttpActors(self.app)
        self.handler = handler
        self.stream_block = ActorStreamBlock(
            self.gate, self.streams, partial(self.host.host, "app"), disseminate_timeout_s=30, allowed=not app_port
        )
        self.operations: list[Operation] = [
            *ActorsBlock(self.access).operations(), *self.stream_block.operations()
        ]  # fmt: skip
        http = HttpApi(self.operations, HttpSettings(), no_fallback(self.operations))
        internal = InternalService(
            lambda: self.app, proxy=_none, further=InternalActors(self.host, tracer=tracer).methods()
        )
        self.servers = (
            HttpServer(http, max_body=4 << 20, max_head=8192),
            H2Server(grpc=GrpcApi(self.operations, proxy=_none)),
            H2Server(grpc=internal),
        )
        self.listeners: list[listen.Listeners] = []

    def hosts(self, *types: str, **settings: Any) -> None:
        """Host these types, and open the gate."""
        hosted = Hosted("", self.handler, **settings)
        self.host.host("app", [replace(hosted, actor_type=name) for name in types])
        self.gate.open()

    async def __aenter__(self) -> Rig:
        for server in self.servers:
            self.listeners.append(await listen.tcp(server, [LOCALHOST], 0))
        self.client = HttpClient(LOCALHOST, self.listeners[0].port)
        self.channel = grpc.aio.insecure_channel(f"{LOCALHOST}:{self.listeners[1].port}")
        self.peer = grpc.aio.insecure_channel(f"{LOCALHOST}:{self.listeners[2].port}")
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.host.close()
        self.gate.close()
        self.stream_block.close()
        for one in self.listeners:
            one.close()
        await self.channel.close()
        await self.peer.close()
        await self.client.close()
        for server in self.servers:
            await server.close(1.0)
        if self.app is not None:
            await self.app.close()

    async def http(self, method: str, path: str, body: object = None, **headers: str) -> Response:
        """One request of the actors' routes; `body` that is no bytes is sent as JSON."""
        sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        data = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        target = urllib.parse.quote(f"/v1.0/actors/{path}", safe="/?=&%").encode()
        return await self.client.request(Request(method, target, sent, data))

    async def call(self, method: str, request: Message, reply: Any, peer: bool = False) -> Any:
        """One unary call, with grpcio."""
        channel = self.peer if peer else self.channel
        service = "/dapr.proto.internals.v1.ServiceInvocation/" if peer else SERVICE
        serialise = type(request).SerializeToString
        unary = channel.unary_unary(service + method, request_serializer=serialise, response_deserializer=reply)
        return await unary(request, timeout=60)


async def _none(call: ServerCall) -> None:
    raise RpcError(12, "nobody")


async def refusal(call: Awaitable[Any]) -> tuple[int, str]:
    """Code and text of a call that must fail."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code().value[0], caught.value.details() or ""


def fault(reply: Response) -> tuple[int, str, str]:
    """Status, code and message of an error."""
    assert isinstance(reply.body, bytes)
    document = json.loads(reply.body)
    return reply.status, document["errorCode"], document["message"]
