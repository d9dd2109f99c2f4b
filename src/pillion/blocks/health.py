"""Health, outbound health and shutdown of the sidecar (spec `runtime.md` 1.7, `http-api.md` 4.7)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pillion.api.operation import Http, Operation, Rpc
from pillion.errors import ApiError, Code, Fault
from pillion.net.exchange import Response
from pillion.wire.messages import runtime as m
from pillion.wire.messages import wellknown

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

    from pillion.api.call import HttpCall, RpcCall

NOT_READY = Fault(
    "ERR_HEALTH_NOT_READY",
    500,
    Code.INTERNAL,
    "dapr is not ready: {targets}",
    "ERR_HEALTH_NOT_READY",
    category="health",
)
OUTBOUND_NOT_READY = Fault(
    "ERR_OUTBOUND_HEALTH_NOT_READY", 500, Code.INTERNAL, "dapr outbound is not ready: {targets}",
    "ERR_OUTBOUND_HEALTH_NOT_READY", category="health",
)  # fmt: skip
WRONG_APP = Fault(
    "ERR_HEALTH_APPID_NOT_MATCH", 500, Code.INTERNAL, "dapr app-id does not match", "ERR_HEALTH_APPID_NOT_MATCH",
    category="health",
)  # fmt: skip
FORCED_EXIT_DELAY_S = 0.1


class Readiness:
    """Named targets that must all be ready, and at least one of them; waiting is by event."""

    def __init__(self) -> None:
        self._targets: dict[str, bool] = {}
        self._changed: asyncio.Event | None = None

    def expect(self, target: str) -> None:
        """Add a target that is not ready yet."""
        self._targets[target] = False

    def ready(self, target: str) -> None:
        self._targets[target] = True
        self._notify()

    def unready(self, target: str) -> None:
        self._targets[target] = False
        self._notify()

    def missing(self) -> list[str]:
        """The targets that are not ready; an empty list of targets counts as one that is missing."""
        if not self._targets:
            return ["no health targets"]
        return sorted(name for name, is_ready in self._targets.items() if not is_ready)

    async def wait(self) -> None:
        """Return when nothing is missing."""
        while self.missing():
            if self._changed is None:
                self._changed = asyncio.Event()
            await self._changed.wait()

    def _notify(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    def __repr__(self) -> str:
        return f"<Readiness, missing: {', '.join(self.missing()) or 'nothing'}>"


class HealthBlock:
    """`inbound` is what `/healthz` answers, `outbound` what `/healthz/outbound` answers.

    `stop(force)` begins the end of the sidecar and returns at once.
    """

    def __init__(self, app_id: str, inbound: Readiness, outbound: Readiness, stop: Callable[[bool], None]) -> None:
        self._app_id = app_id
        self._inbound = inbound
        self._outbound = outbound
        self._stop = stop

    def operations(self) -> list[Operation]:
        return [
            Operation("Healthz", "healthz", http=(Http(("GET",), "v1.0/healthz", self.healthz),)),
            Operation("HealthzOutbound", "healthz", http=(Http(("GET",), "v1.0/healthz/outbound", self.outbound),)),
            Operation(
                "Shutdown", "shutdown", http=(Http(("POST",), "v1.0/shutdown", self.shutdown),),
                rpc=Rpc(("Shutdown",), m.ShutdownRequest, self.rpc_shutdown),
            ),
        ]  # fmt: skip

    async def healthz(self, call: HttpCall) -> Response:
        if missing := self._inbound.missing():
            raise ApiError(NOT_READY, targets=_listed(missing))
        asked = call.first("appid")
        if asked and asked != self._app_id:
            raise ApiError(WRONG_APP)
        return Response(204)

    async def outbound(self, call: HttpCall) -> Response:
        if missing := self._outbound.missing():
            raise ApiError(OUTBOUND_NOT_READY, targets=_listed(missing))
        return Response(204)

    async def shutdown(self, call: HttpCall) -> Response:
        self._later(call.header(b"dapr-force-shutdown"))
        return Response(204)

    async def rpc_shutdown(self, call: RpcCall, request: m.ShutdownRequest) -> Message:
        force = call.stream.first("dapr-force-shutdown")
        self._later(force if isinstance(force, str) else "")
        return wellknown.Empty()

    def _later(self, force: str) -> None:
        """The reply goes out first; the stop itself is not part of this call."""
        asyncio.get_running_loop().call_later(FORCED_EXIT_DELAY_S, self._stop, force.lower() == "true")


def _listed(targets: list[str]) -> str:
    """Return names as the reference writes a list of them."""
    return f"[{' '.join(targets)}]"
