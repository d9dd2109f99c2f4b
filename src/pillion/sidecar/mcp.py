"""The MCP servers of a sidecar: loaded one by one, listed, offered as workflows, followed when their files change.

Spec `crypto-conversation-mcp.md` 5.1. Knows: order, retries, which mistake ends the sidecar. Never knows: the protocol
(`components/mcp_client.py`, imported when there is a server, for its library is an extra), the workflows themselves.
"""

from __future__ import annotations

import asyncio
import importlib
import logging
import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pillion.blocks.mcp import ToolWorkflows
from pillion.errors import ComponentError, ConfigError, MissingExtra
from pillion.kinds import mcp
from pillion.kinds.mcp import McpError
from pillion.sidecar.metadata import Resolver
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pillion.components.mcp_client import McpClient
    from pillion.kinds.mcp import McpSettings
    from pillion.kinds.resources import MCPServerResource
    from pillion.resiliency.machine import Retry
    from pillion.sidecar.environment import Environment
    from pillion.sidecar.loading import Loaded
    from pillion.workflow.service import Hub

log = logging.getLogger("pillion.sidecar.mcp")
CLIENT = "pillion.components.mcp_client"
LINGER_S = 60.0
"""How long the connection of a server that was replaced or removed may serve the calls that it began."""


class McpFailed(ConfigError):
    """A server that must be there is not: the sidecar cannot go on."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A server with everything resolved; `values` and `secret` are not for logs."""

    settings: McpSettings
    values: Mapping[str, str]
    secret: str

    def __repr__(self) -> str:
        return f"<Wanted {self.settings.name} over {self.settings.transport}>"


@dataclass(slots=True)
class Served:
    """A server that is listed. `client` and `offered` are None when it could not be reached."""

    resource: MCPServerResource
    wanted: Wanted
    client: McpClient | None = None
    offered: ToolWorkflows | None = None


class McpServers:
    """The registry. `secrets` are the stores of the moment, `retry` the policy of initialisation of the moment; `fail`
    ends the sidecar when a server that must be there cannot be loaded later on.
    """

    def __init__(
        self,
        hub: Hub,
        *,
        app_id: str,
        environment: Environment,
        kubernetes: bool,
        secrets: Mapping[str, Loaded],
        retry: Callable[[], Retry],
        fail: Callable[[Exception], None],
    ) -> None:
        self._hub, self._kubernetes, self._secrets, self._retry, self._fail = hub, kubernetes, secrets, retry, fail
        self._resolver = Resolver(app_id, environment)
        self._served: dict[str, Served] = {}
        self._tried: dict[str, MCPServerResource] = {}
        self._next: tuple[Sequence[MCPServerResource], bool] | None = None
        self._following: asyncio.Task[None] | None = None
        self._tasks = Tasks("MCP servers")

    def names(self) -> list[str]:
        """Those that are loaded, reached or not, for the metadata."""
        return list(self._served)

    async def open(self, resources: Sequence[MCPServerResource]) -> None:
        """Load all, in order, and begin to run their workflows. Raises `McpFailed`."""
        for resource in resources:
            await self._add(resource)
        self._tried = {resource.name: resource for resource in resources}
        self._hub.serve_builtin()

    def follow(self, resources: Sequence[MCPServerResource], *, complete: bool = False) -> None:
        """Begin to make what is loaded what is wanted; secrets count. What failed before is tried again when it
        changed, or when this look is a `complete` one. Nobody waits for it: a server that hangs harms only itself.
        """
        self._next = (resources, complete or (self._next is not None and self._next[1]))
        if self._following is None or self._following.done():
            self._following = self._tasks.start(self._catch_up(), "following the files")

    async def _catch_up(self) -> None:
        while self._next is not None:
            (resources, complete), self._next = self._next, None
            try:
                await self._become(resources, complete)
            except McpFailed as error:
                self._fail(error)
                return

    async def _become(self, resources: Sequence[MCPServerResource], complete: bool) -> None:
        wanted = {resource.name: resource for resource in resources}
        tried, self._tried = self._tried, wanted
        for name in [name for name in self._served if name not in wanted]:
            log.info("MCP server %s was removed", name)
            self._remove(name)
        for resource in resources:
            served = self._served.get(resource.name)
            if served is not None and served.client is not None:
                await self._compare(served, resource)
            elif complete or tried.get(resource.name) != resource:
                self._remove(resource.name)
                await self._add(resource)

    async def _compare(self, served: Served, resource: MCPServerResource) -> None:
        """Put a changed server in the place of the one that serves: beside it, so that no call finds neither."""
        try:
            wanted = await self._resolved(resource)
        except (ConfigError, ComponentError) as error:
            self._remove(resource.name)
            self._failed(resource, error)
            return
        served.resource = resource
        if wanted == served.wanted:
            return
        log.info("MCP server %s has changed", resource.name)
        try:
            client = await self._connected(wanted)
        except McpError as error:
            # Perhaps the old one holds what the new one needs.
            log.info("MCP server %s: %s; the one before is closed first", resource.name, error)
            self._remove(resource.name)
            await self._add(resource)
            return
        before, self._served[resource.name] = served, Served(resource, wanted)
        self._offer(self._served[resource.name], client, instead=before)
        self._retire(before)

    # -- one server

    async def _add(self, resource: MCPServerResource) -> None:
        try:
            wanted = await self._resolved(resource)
            served = self._served[resource.name] = Served(resource, wanted)
            client = await self._patiently(wanted)
        except (ConfigError, ComponentError) as error:
            self._failed(resource, error)
            return
        self._offer(served, client)

    def _failed(self, resource: MCPServerResource, error: Exception) -> None:
        what = f"MCP server {resource.name} cannot be loaded: {error}"
        if not mcp.ignores_errors(resource):
            mend = "spec.ignoreErrors: true lets the sidecar run without it"
            raise McpFailed(what, where=resource.where, mend=mend) from error
        log.error("Ignoring error processing MCP server: %s", what)

    def _offer(self, served: Served, client: McpClient, instead: Served | None = None) -> None:
        name = served.resource.name
        offered = ToolWorkflows(name, client, served.wanted.settings.hooks)
        served.client, served.offered = client, offered
        self._hub.register(offered.workflows, offered.activities)
        if instead is not None and instead.offered is not None:
            self._hub.unregister(instead.offered.workflows, instead.offered.activities)
        log.info("MCP server %s offers %d tools", name, len(client.tools))

    def _remove(self, name: str) -> None:
        served = self._served.pop(name, None)
        if served is not None:
            if served.offered is not None:
                self._hub.unregister(served.offered.workflows, served.offered.activities)
            self._retire(served)

    def _retire(self, served: Served) -> None:
        if served.client is not None:
            self._tasks.start(_retired(served.client), f"end of {served.resource.name}")

    async def _patiently(self, wanted: Wanted) -> McpClient:
        """Connect, as often as the policy has it. Raises `McpError`."""
        loop = asyncio.get_running_loop()
        retry, begun, attempts = self._retry(), loop.time(), 0
        while True:
            try:
                return await self._connected(wanted)
            except McpError as error:
                wait_s = retry.wait(attempts, loop.time() - begun, random.random)
                if wait_s is None:
                    raise
                attempts += 1
                log.warning("MCP server %s: %s; trying again", wanted.settings.name, error)
                await asyncio.sleep(wait_s)

    async def _connected(self, wanted: Wanted) -> McpClient:
        try:
            # The library takes a second to read; everybody else goes on meanwhile.
            client = await asyncio.to_thread(importlib.import_module, CLIENT)
        except ImportError as error:
            raise MissingExtra("an MCPServer", "mcp") from error
        made: McpClient = await client.connect(wanted.settings, wanted.values, wanted.secret)
        return made

    # -- what its resource says

    async def _resolved(self, resource: MCPServerResource) -> Wanted:
        """Raises `ConfigError`, and `ComponentError` for a secret without which there is no access."""
        settings, notes = mcp.read(resource, kubernetes=self._kubernetes, folder=Path.cwd())
        for note in notes:
            log.warning("%s", note)
        owner, store = f"MCPServer {resource.name}", self._secrets.get(settings.secret_store)
        found = await self._resolver.resolve(
            settings.items, store=None if store is None else store.component, namespace=resource.namespace, owner=owner
        )
        values = {}
        for name, value in found.items():
            values[name] = kept = value if settings.transport == "stdio" else value.strip()
            if "\0" in kept or (settings.transport != "stdio" and not kept.isprintable()):
                raise ConfigError(f"the value of {name!r} has characters that cannot be sent", where=resource.where)
        return Wanted(settings, values, await self._client_secret(resource, settings))

    async def _client_secret(self, resource: MCPServerResource, settings: McpSettings) -> str:
        if settings.oauth2 is None or settings.oauth2.secret is None:
            return ""
        reference, name = settings.oauth2.secret, settings.secret_store or mcp.KUBERNETES
        store = self._secrets.get(name)
        if store is None:
            mend = "name a loaded secret store in auth.secretStore"
            raise ConfigError(f"auth.oauth2.secretKeyRef: there is no secret store {name!r}", where=resource.where,
                              mend=mend)  # fmt: skip
        secret = await store.component.get(reference.name, {"namespace": resource.namespace})
        if reference.key not in secret:
            raise ComponentError(f"the secret {reference.name!r} has no key {reference.key!r}")
        return str(secret[reference.key])

    async def close(self) -> None:
        """End every connection; calls under way are not answered but made again by who owns their workflow next."""
        await self._hub.builtin.close()
        await self._tasks.close()
        clients = [served.client for served in self._served.values() if served.client is not None]
        await asyncio.gather(*(client.close() for client in clients))

    def __repr__(self) -> str:
        return f"<McpServers {', '.join(self._served) or 'none'}>"


async def _retired(client: McpClient) -> None:
    try:
        async with asyncio.timeout(LINGER_S):
            await client.idle()
    except TimeoutError:
        log.warning("%r is closed while calls are under way", client)
    finally:
        await client.close()
