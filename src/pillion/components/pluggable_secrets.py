"""Secret stores that are other processes: `SecretStore` of components.v1."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.components.pluggable import Plug, PluggableSettings
from pillion.kinds.secrets import Feature
from pillion.wire.messages import components as m

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.kinds.component import Context

SERVICE = "SecretStore"


class PluggableSecrets:
    """A secret store behind a socket."""

    Settings = PluggableSettings
    features: frozenset[Feature] = frozenset()

    def __init__(self, settings: PluggableSettings, context: Context) -> None:
        self._plug = Plug(settings, context, [(SERVICE, m.SecretStoreInitRequest)])

    async def open(self) -> None:
        declared = await self._plug.features(SERVICE)
        self.features = frozenset(feature for feature in Feature if feature.value in declared)

    async def ping(self) -> None:
        await self._plug.ping(SERVICE)

    async def close(self) -> None:
        await self._plug.close()

    async def get(self, name: str, metadata: Mapping[str, str]) -> dict[str, str]:
        request = m.GetSecretRequest(key=name, metadata=metadata)
        return dict((await self._plug.ask(SERVICE, "Get", request, m.GetSecretResponse)).data)

    async def bulk_get(self, metadata: Mapping[str, str]) -> dict[str, dict[str, str]]:
        request = m.BulkGetSecretRequest(metadata=metadata)
        answer = await self._plug.ask(SERVICE, "BulkGet", request, m.BulkGetSecretResponse)
        return {name: dict(secret.secrets) for name, secret in answer.data.items()}

    def __repr__(self) -> str:
        return f"<PluggableSecrets: {self._plug!r}>"
