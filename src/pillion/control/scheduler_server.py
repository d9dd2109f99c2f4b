"""One scheduler: its engine, its port, its place among others. Runs in a process of its own or inside `pillion run`.

Knows: the order of opening and closing. Never knows: flags, which database.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.control.job_streams import WINDOW
from pillion.control.scheduler import NAME, OWN_NAME, STOPPING, SchedulerService
from pillion.control.scheduler_admin import NAME as ADMIN_NAME
from pillion.control.scheduler_admin import AdminService
from pillion.control.scheduler_hosts import Hosts
from pillion.errors import Code
from pillion.jobs.engine import Engine
from pillion.kinds.jobs import Member
from pillion.net import listen
from pillion.net.exchange import Method, RpcError
from pillion.net.grpc_extras import Health, reflection_methods
from pillion.net.grpc_server import GrpcOptions
from pillion.net.h2_driver import Keepalive
from pillion.net.h2_server import H2Server, ServerOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillion.clock import Clock
    from pillion.kinds.jobs import JobStore
    from pillion.net.exchange import GrpcService, Metadata, ServerCall
    from pillion.observe.job_meters import SchedulerMeter

log = logging.getLogger("pillion.control.scheduler")
OPTIONS = ServerOptions(
    keepalive=Keepalive(ping_after_s=3.0, ping_timeout_s=5.0, idle_s=None, always=True),
    grpc=GrpcOptions(max_receive=2**31 - 1),
    min_ping_interval_s=None,
)
"""Spec `control-plane.md` 5.2; clients may ping as they like."""
DRAIN_S, GRACE_S = 2.0, 1.0
"""How long triggers that are out may be answered, and open calls may finish, once the scheduler stops."""


class SchedulerServer:
    """`open` returns when jobs fire and calls are answered; `engine` is then a `Scheduler` for this process.

    `member_id` names this scheduler among those that share `store`, `advertise` makes the address for others of the
    port that is bound. `window` bounds the triggers of one stream that wait for an answer.
    """

    def __init__(
        self,
        store: JobStore,
        *,
        clock: Clock,
        member_id: str,
        addresses: Sequence[str] = ("",),
        port: int = 50006,
        advertise: Callable[[int], str] = "localhost:{}".format,
        window: int = WINDOW,
        meter: SchedulerMeter | None = None,
    ) -> None:
        self.port = port
        self.engine: Engine | None = None
        self._clock = clock
        self._store = store
        self._member_id = member_id
        self._addresses = addresses
        self._advertise = advertise
        self._window = window
        self._meter = meter
        self._gate = _Gate()
        self._server = H2Server(grpc=self._gate, options=OPTIONS)
        self._listeners: listen.Listeners | None = None
        self._service: SchedulerService | None = None

    async def open(self) -> None:
        """Raises `CannotListen` and `ComponentError`. Calls that come before all is ready wait."""
        self._listeners = await listen.tcp(self._server, self._addresses, self.port)
        self.port = self._listeners.port
        hosts = Hosts()
        address = self._advertise(self.port)
        member = Member(self._member_id, int(self._clock.now() * 1000), address)

        def members(found: Sequence[Member]) -> None:
            hosts.set(each.address for each in found)

        engine = Engine(self._store, member, clock=self._clock, meter=self._meter, members=members)
        self.engine = engine
        if self._meter is not None:
            self._meter.gates = engine.gates
        further = {
            **AdminService(engine, engine).methods(),
            **reflection_methods((NAME, OWN_NAME, ADMIN_NAME)),
            **Health().methods(),
        }
        service = SchedulerService(engine, hosts, meter=self._meter, further=further, window=self._window)
        self._service = service
        await engine.open()
        self._gate.open(service)
        log.info("scheduler %s serves on port %d, others find it at %s", self._member_id, self.port, address)

    async def close(self) -> None:
        """Fire nothing more, hear the answers that are on their way, then go. Works after half an `open`."""
        if self._listeners is not None:
            self._listeners.close()
        if self._service is not None:
            await self._service.drain(DRAIN_S)
            self._service.close()
        self._gate.close()
        await self._server.close(GRACE_S)
        if self.engine is not None:
            await self.engine.close()

    def __repr__(self) -> str:
        return f"<SchedulerServer {self._member_id} on port {self.port}>"


class _Gate:
    """A `GrpcService` whose calls wait until there is one behind it."""

    def __init__(self) -> None:
        self._behind: GrpcService | None = None
        self._changed = asyncio.Event()

    def open(self, service: GrpcService) -> None:
        self._behind = service
        self._changed.set()

    def close(self) -> None:
        """Let those go that still wait."""
        self._changed.set()

    def find(self, method: str, metadata: Metadata) -> Method | None:
        if self._behind is not None:
            return self._behind.find(method, metadata)
        return Method(streaming=self._wait)

    async def _wait(self, call: ServerCall) -> None:
        await self._changed.wait()
        found = self._behind.find(call.method, call.metadata) if self._behind is not None else None
        if found is None:
            raise _nobody(self._behind is None, call.method)
        if found.streaming is not None:
            await found.streaming(call)
            return
        assert found.unary is not None
        request = await call.receive()
        await call.send(await found.unary(call, request or b""))


def _nobody(stopped: bool, method: str) -> RpcError:
    if stopped:
        return RpcError(Code.UNAVAILABLE, STOPPING)
    return RpcError(Code.UNIMPLEMENTED, f"unknown method {method}")
