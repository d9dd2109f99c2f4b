"""Actors, workflows and MCP servers of one sidecar, which come together or not at all: with a placement service.

Imported when one is named: a sidecar without actors starts without what they need (`engines_off.py` stands there).
Knows: the order among the three. Never knows: how any of them works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.sidecar.actors import ActorRuntime
from pillion.sidecar.workflows import WorkflowRuntime

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pillion.api.operation import Operation
    from pillion.blocks.metadata import ActorFacts, WorkflowFacts
    from pillion.kinds.resources import MCPServerResource, WorkflowAccessPolicyResource
    from pillion.net.exchange import Method
    from pillion.resiliency.machine import Retry
    from pillion.sidecar.components import Loaded
    from pillion.sidecar.environment import Environment
    from pillion.sidecar.ground import Ground
    from pillion.sidecar.mcp import McpServers


class Engines:
    """The engines of one sidecar."""

    def __init__(self, ground: Ground) -> None:
        self.actors = ActorRuntime(ground)
        self.workflows = WorkflowRuntime(ground, self.actors)
        self._options, self._components = ground.options, ground.components
        self._servers: McpServers | None = None

    def operations(self) -> list[Operation]:
        return [*self.actors.operations(), *self.workflows.operations()]

    def methods(self) -> Mapping[str, Method]:
        """What other sidecars call."""
        return self.actors.methods()

    def facts(self) -> ActorFacts:
        return self.actors.facts()

    def workflow_facts(self) -> WorkflowFacts:
        return self.workflows.facts()

    def mcp_servers(self) -> list[str]:
        return [] if self._servers is None else self._servers.names()

    async def open(
        self,
        address: str,
        *,
        environment: Environment,
        retry: Callable[[], Retry],
        servers: Sequence[MCPServerResource],
        access: Sequence[WorkflowAccessPolicyResource],
        fail: Callable[[Exception], None],
    ) -> None:
        """Take a place among the hosts, then offer the MCP servers: before anybody waits for the application, for a
        server that lives in it must answer by itself. Raises `ConfigError`; `fail` ends the sidecar later on.
        """
        from pillion.sidecar.mcp import McpServers

        self.declare(access)
        await self.actors.open(address)
        self._servers = McpServers(
            self.workflows.hub, app_id=self._options.app_id, environment=environment,
            kubernetes=self._options.mode == "kubernetes", secrets=self._components.secrets, retry=retry,
            fail=fail,
        )  # fmt: skip
        await self._servers.open(servers)

    def declare(self, access: Sequence[WorkflowAccessPolicyResource]) -> None:
        """Use these access policies from now on."""
        self.workflows.declare(access)

    def follow(self, resources: Sequence[MCPServerResource], *, complete: bool = False) -> None:
        """Begin to serve these MCP servers; a `complete` look tries those again that failed before."""
        if self._servers is not None:
            self._servers.follow(resources, complete=complete)

    async def ask(self) -> None:
        """Ask the application, which is well, for what it hosts."""
        await self.actors.ask()

    def application(self, healthy: bool) -> None:
        self.actors.application(healthy)

    def component_changed(self) -> None:
        self.actors.component_changed()

    async def component_leaving(self, loaded: Loaded) -> None:
        await self.actors.component_leaving(loaded)

    async def release(self, most_s: float) -> None:
        """The application is about to end: its actors come to their end first."""
        await self.actors.release(most_s)

    async def halt(self) -> None:
        """No more turns: those that run come to their end, and this host leaves its place."""
        if self._servers is not None:
            await self._servers.close()
        await self.workflows.close()
        await self.actors.halt()
