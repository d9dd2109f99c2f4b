"""HTTPEndpoint resources with their secrets filled in (spec `runtime.md` 2.5).

Knows: which secret store a resource names. Never knows: who calls an endpoint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.peers.endpoints import Endpoint
from pillion.sidecar.metadata import Resolver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillion.kinds.resources import HTTPEndpointResource
    from pillion.sidecar.components import Components
    from pillion.sidecar.environment import Environment


class Endpoints:
    """`found` is what everybody looks into: its contents change with the files."""

    def __init__(self, app_id: str, environment: Environment, components: Components) -> None:
        self.found: dict[str, Endpoint] = {}
        self._values = Resolver(app_id, environment)
        self._components = components

    async def replace(self, resources: Sequence[HTTPEndpointResource]) -> None:
        """Let these be the endpoints from now on. Raises `ConfigError`, and then nothing has changed."""
        found = {resource.name: await self._read(resource) for resource in resources}
        self.found.clear()
        self.found.update(found)

    async def _read(self, resource: HTTPEndpointResource) -> Endpoint:
        store = self._components.secrets.get(resource.secret_store)
        secrets = store.component if store is not None else None
        owner, namespace = f"HTTPEndpoint {resource.name}", resource.namespace
        headers = await self._values.resolve(resource.headers, store=secrets, namespace=namespace, owner=owner)
        pems = await self._values.resolve(resource.tls, store=secrets, namespace=namespace, owner=owner)
        return Endpoint(
            resource.name,
            resource.base_url,
            tuple(headers.items()),
            root_ca=pems.get("rootCA", ""),
            certificate=pems.get("certificate", ""),
            private_key=pems.get("privateKey", ""),
        )
