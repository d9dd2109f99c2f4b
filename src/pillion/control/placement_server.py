"""One placement server: its port, its candidacy. Runs in a process of its own or inside `pillion run`.

    server = PlacementServer(Alone(clock), clock=clock, addresses=("127.0.0.1",), port=0)
    await server.open()
    server.port

Knows: the order of opening and closing. Never knows: flags, which engine decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.control.candidacy import Candidacy
from pillion.control.placement import NAME, PlacementService
from pillion.control.probing import refuses
from pillion.control.terms import Terms
from pillion.net import listen
from pillion.net.grpc_extras import Health, reflection_methods
from pillion.net.grpc_server import GrpcOptions
from pillion.net.h2_driver import Keepalive
from pillion.net.h2_server import H2Server, ServerOptions
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillion.clock import Clock
    from pillion.control.placement import Meter
    from pillion.kinds.leadership import Leadership

MAX_REPORT = 4 << 20
GRACE_S = 1.0
"""How long streams may take to hear why they end."""


class PlacementServer:
    """`open` returns when the port is bound and the candidacy has begun; who leads is decided afterwards.

    Losing leadership ends every stream at once and forgets every table; the server then stands again.
    `led` is told of each change.
    """

    def __init__(
        self,
        leadership: Leadership,
        *,
        clock: Clock,
        terms: Terms | None = None,
        node: str = "dapr-placement-0",
        addresses: Sequence[str] = ("",),
        port: int = 50005,
        meter: Meter | None = None,
        led: Callable[[bool], None] | None = None,
    ) -> None:
        self.port = port
        self.terms = terms or Terms()
        further = {**reflection_methods((NAME,)), **Health().methods()}
        self.service = PlacementService(self.terms, clock=clock, node=node, meter=meter, dead=refuses, further=further)
        self._led = led or (lambda leads: None)
        self._candidacy = Candidacy(leadership, self.service, node=node, led=self._led)
        self._leadership, self._node, self._addresses = leadership, node, addresses
        keepalive = Keepalive(
            ping_after_s=self.terms.ping_s, ping_timeout_s=self.terms.ping_timeout_s, idle_s=None, always=True
        )
        options = ServerOptions(
            keepalive=keepalive, grpc=GrpcOptions(max_receive=MAX_REPORT), min_ping_interval_s=None
        )  # clients may ping as they like
        self._server = H2Server(grpc=self.service, options=options)
        self._listeners: listen.Listeners | None = None
        self._tasks = Tasks("placement server")

    async def open(self) -> None:
        """Raises `CannotListen` and `ComponentError`."""
        await self._leadership.open()
        self._listeners = await listen.tcp(self._server, self._addresses, self.port)
        self.port = self._listeners.port
        self._tasks.keep(self._candidacy.run, "candidacy")

    async def close(self) -> None:
        """Tell the sidecars, then resign, so that the next leader follows at once. Works after half an `open`."""
        if self._listeners is not None:
            self._listeners.close()
        self.service.close()
        await self._tasks.close()
        self._led(False)
        await self._server.close(GRACE_S)
        await self._leadership.close()

    def __repr__(self) -> str:
        return f"<PlacementServer {self._node} on port {self.port}>"
