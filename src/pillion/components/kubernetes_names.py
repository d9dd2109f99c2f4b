"""`kubernetes` name resolution: the name of a service, and what the cluster's DNS says of it (spec `components.md` 9).

Nothing is registered: the cluster's operator makes a service `<app id>-dapr` for each application. It has no address of
its own, so DNS answers with those of all pods, and calls go to each in turn.
"""

from __future__ import annotations

import asyncio
import re
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.components.names_cache import NamesCache
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import setting
from pillion.wire.addresses import join_host_port, split_host_port

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillion.kinds.component import Context
    from pillion.kinds.names import Instance

WHERE = "nameresolution kubernetes"
PORT = 50002
"""The internal port of sidecars in a cluster."""
KEEP_S, SHUN_S = 5.0, 5.0
ANSWER_S = 5.0
_ACTION = re.compile(r"\{\{-?\s*(.*?)\s*-?\}\}")
_FIELDS = (".ID", ".Namespace", ".Port")


class KubernetesNames:
    """A resolver that asks DNS. All sidecars of a cluster listen on the same internal port: our own."""

    @dataclass(frozen=True)
    class Settings:
        cluster_domain: str = setting("cluster.local", help="domain of the cluster")
        template: str = setting("", help="host:port with {{.ID}}, {{.Namespace}} and {{.Port}}, instead of the service")

        def __post_init__(self) -> None:
            for action in _ACTION.findall(self.template):
                if action not in _FIELDS:
                    what = f"template: {{{{{action}}}}} is not known"
                    raise ConfigError(what, where=WHERE, mend=f"use {', '.join(_FIELDS)}")

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._port = PORT
        self._opened = False
        self._cache = NamesCache(self._look_up, keep_s=KEEP_S, shun_s=SHUN_S)

    async def open(self) -> None:
        self._opened = True

    async def ping(self) -> None:
        """There is nothing to ask that would tell more than a look-up."""

    async def close(self) -> None:
        self._opened = False
        await self._cache.close()

    async def register(self, instance: Instance) -> None:
        self._port = instance.internal_port or PORT

    async def resolve(self, app_id: str, namespace: str) -> Sequence[str]:
        return await self._cache.get(app_id, namespace)

    def failed(self, app_id: str, namespace: str, address: str) -> None:
        self._cache.failed(app_id, namespace, address)

    def name_of(self, app_id: str, namespace: str) -> str:
        """Return the `host:port` that DNS is asked for."""
        values = {".ID": app_id, ".Namespace": namespace or "default", ".Port": str(self._port)}
        if self._settings.template:
            return _ACTION.sub(lambda found: values[found[1]], self._settings.template)
        return f"{app_id}-dapr.{values['.Namespace']}.svc.{self._settings.cluster_domain}:{self._port}"

    async def _look_up(self, app_id: str, namespace: str) -> Sequence[str]:
        if not self._opened:
            raise ComponentError("kubernetes: the resolver is not open")
        name = self.name_of(app_id, namespace)
        try:
            host, port = split_host_port(name, self._port)
        except ValueError as error:
            raise ComponentError(f"kubernetes: {error}") from error
        try:
            async with asyncio.timeout(ANSWER_S):
                found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except TimeoutError as error:
            raise ComponentError(f"kubernetes: DNS does not answer for {host} within {ANSWER_S:g} s") from error
        except (OSError, UnicodeError) as error:
            raise ComponentError(f"couldn't find service: {app_id}") from error
        return list(dict.fromkeys(join_host_port(str(where[0]), port) for _, _, _, _, where in found))

    def __repr__(self) -> str:
        return f"<KubernetesNames {self.name_of('<id>', '<namespace>')}>"
