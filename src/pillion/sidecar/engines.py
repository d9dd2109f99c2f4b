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
    from pillion.app.channel import AppChannel
    from pillion.blocks.health import Readiness
    from pillion.blocks.metadata import ActorFacts
    from pillion.kinds.config import Configuration
    from pillion.kinds.jobs import Scheduler
    from pillion.kinds.resources import MCPServerResource, WorkflowAccessPolicyResource
    from pillion.net.exchange import Method
    from pillion.observe.meters import Meters
    from pillion.observe.tracing import Tracer
    from pillion.peers.pool import Pool
    from pillion.resiliency.current import CurrentPolicies
    from pillion.resiliency.machine import Retry
    from pillion.sidecar.components import Components, Loaded
    from pillion.sidecar.environment import Environment
    from pillion.sidecar.flags import Options
    from pillion.sidecar.mcp import McpServers
    from pillion.sidecar.scheduling import Scheduling


class Engines:
    """The engines of a sidecar whose internal server is at `address`, `host:port`, as far as that is known."""

    def __init__(
        self,
        options: Options,
        config: Configuration,
        *,
        namespace: str,
        channel: AppChannel | None,
        components: Components,
        policies: CurrentPolicies,
        scheduler: Scheduler,
        scheduling: Scheduling,
        pool: Pool,
        readiness: Readiness,
        meters: Meters,
        tracer: Tracer | None,
        address: str,
    ) -> None:
        self.actors = ActorRuntime(
            options, config, namespace=namespace, channel=channel, components=components, policies=policies,
            scheduler=scheduler, scheduling=scheduling, pool=pool, readiness=readiness, meters=meters, tracer=tracer,
            address=address,
        )  # fmt: skip
        self.workflows = WorkflowRuntime(
            options, config, namespace=namespace, actors=self.actors, scheduler=scheduler, meters=meters,
            address=address, tracer=tracer,
        )  # fmt: skip
        self._options, self._components = options, components
        self._servers: McpServers | None = None

    def operations(self) -> list[Operation]:
        return [*self.actors.operations(), *self.workflows.operations()]

    def methods(self) -> Mapping[str, Method]:
        """What other sidecars call."""
        return self.actors.methods()

    def facts(self) -> ActorFacts:
        return self.actors.facts()

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

    async def halt(self) -> None:
        """No more turns: those that run come to their end, and this host leaves its place."""
        if self._servers is not None:
            await self._servers.close()
        await self.workflows.close()
        await self.actors.halt()
