"""What stands in the place of the engines in a sidecar without a placement service: everything is refused.

The rows are those of the contract, so that an SDK hears why and nothing is passed on to the application. Knows: that
there is no placement. Never knows: actors, workflows.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pillion.blocks import switched_off
from pillion.blocks.metadata import ActorFacts, WorkflowFacts
from pillion.errors import ConfigError
from pillion.sidecar.app_configuration import AppConfiguration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from pillion.api.operation import Operation
    from pillion.kinds.resources import MCPServerResource
    from pillion.net.exchange import Method
    from pillion.sidecar.ground import Ground

log = logging.getLogger("pillion.sidecar.engines")
MEND = "start the sidecar with --placement-host-address"


class EnginesOff:
    """The same calls as `engines.Engines`."""

    def __init__(self, ground: Ground) -> None:
        self._question = AppConfiguration(ground)

    def operations(self) -> list[Operation]:
        return switched_off.operations()

    def methods(self) -> Mapping[str, Method]:
        return {}

    def facts(self) -> ActorFacts:
        return ActorFacts()

    def workflow_facts(self) -> WorkflowFacts:
        return WorkflowFacts()

    def mcp_servers(self) -> list[str]:
        return []

    async def open(
        self, address: str, *, servers: Sequence[MCPServerResource], fail: Callable[[Exception], None], **_: Any
    ) -> None:
        """Raises `ConfigError` for a server that must be there."""
        self._fail = fail
        if servers:
            self._refuse(servers)

    def declare(self, access: Sequence[object]) -> None:
        """Nobody can start workflows."""

    def follow(self, resources: Sequence[MCPServerResource], *, complete: bool = False) -> None:
        """Ends the sidecar because of a server that must be there."""
        try:
            if resources:
                self._refuse(resources)
        except ConfigError as error:
            self._fail(error)

    def _refuse(self, servers: Sequence[MCPServerResource]) -> None:
        from pillion.kinds.mcp import ignores_errors

        for server in servers:
            text = "tools of MCP servers are workflows, and there is no placement service"
            if not ignores_errors(server):
                raise ConfigError(text, where=f"MCPServer {server.name}", mend=MEND)
            log.error("MCPServer %s: %s (%s)", server.name, text, MEND)

    async def ask(self) -> None:
        """Ask the application as the contract has it. Whoever calls an actor that it names hears why there is none."""
        await self._question.ask()

    def application(self, healthy: bool) -> None:
        pass

    def component_changed(self) -> None:
        pass

    async def component_leaving(self, loaded: object) -> None:
        pass

    async def release(self, most_s: float) -> None:
        pass

    async def halt(self) -> None:
        pass
