"""What one sidecar listens on: its APIs, the public port, and the port of other sidecars (spec `runtime.md` 1.2).

Knows: addresses, ports, sockets in files, what a predecessor left open. Never knows: what is served there.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from pillion.net import listen
from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AsyncExitStack

    from pillion.sidecar.flags import Options
    from pillion.sidecar.surface import Surface

log = logging.getLogger("pillion.sidecar")


@record
class Ports:
    """What was found for a sidecar; `http` and `grpc` are as they were asked for where sockets in files serve."""

    http: int
    grpc: int
    internal: int


class Listening:
    """Opens listeners, and leaves their end to `closers`. `doors` are shared with a successor."""

    def __init__(self, options: Options, doors: listen.Doors, closers: AsyncExitStack) -> None:
        self._options = options
        self._doors = doors
        self._closers = closers

    async def open(self, surface: Surface, internal_port: int) -> Ports:
        """Serve everything. `internal_port` is the derived one, where none was asked for. Raises `CannotListen`."""
        options = self._options
        addresses = options.dapr_listen_addresses or ("",)
        http_port, grpc_port = options.dapr_http_port, options.dapr_grpc_port
        if options.unix_domain_socket:
            grpc = await self._open_file("grpc", surface.grpc_server)
            http = await self._open_file("http", surface.http_server)
            log.info("APIs listen on %s and %s", *grpc.paths, *http.paths)
        else:
            grpc = await self._open("grpc", surface.grpc_server, addresses, grpc_port)
            http = await self._open("http", surface.http_server, addresses, http_port)
            grpc_port, http_port = grpc.port, http.port
            log.info("gRPC API listens on port %d, HTTP API on port %d", grpc.port, http.port)
        if options.dapr_public_port is not None:
            where = (options.dapr_public_listen_address,)
            await self._open("public", surface.public_server, where, options.dapr_public_port)
        internal = await self._open_internal(surface.internal_server, internal_port)
        return Ports(http_port, grpc_port, internal.port)

    async def _open(
        self, name: str, factory: listen.Factory, addresses: Sequence[str], port: int, *, retry_s: float = 10.0
    ) -> listen.Listeners:
        """Listen on what a predecessor kept open, else anew."""
        listeners = await self._doors.again(name, factory)
        if listeners is None:
            listeners = self._doors.opened(name, await listen.tcp(factory, addresses, port, retry_s=retry_s))
        self._closers.callback(listeners.close)
        return listeners

    async def _open_file(self, name: str, factory: listen.Factory) -> listen.Listeners:
        listeners = await self._doors.again(name, factory)
        if listeners is None:
            path = Path(self._options.socket_path(name))
            listeners = self._doors.opened(name, await listen.unix(factory, path))
        self._closers.callback(listeners.close)
        return listeners

    async def _open_internal(self, factory: listen.Factory, port: int) -> listen.Listeners:
        """The derived port may have been taken since it was chosen; then any other will do, nobody knows it yet."""
        where = (self._options.dapr_internal_grpc_listen_address,)
        if self._options.dapr_internal_grpc_port:
            return await self._open("internal", factory, where, port)
        try:
            return await self._open("internal", factory, where, port, retry_s=0.0)
        except listen.CannotListen:
            return await self._open("internal", factory, where, 0)
