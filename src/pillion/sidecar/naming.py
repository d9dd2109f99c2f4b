"""The name of a sidecar: the resolver that its Configuration names, and its own entry there.

Knows: which resolver is meant, that none is no reason not to start. Never knows: how names are kept.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import orjson

from pillion.errors import ConfigError
from pillion.kinds.component import Context
from pillion.sidecar.catalogue import construct

if TYPE_CHECKING:
    from pillion.kinds.config import NameResolution
    from pillion.kinds.names import Instance, Resolver
    from pillion.sidecar.catalogue import Catalogue

log = logging.getLogger("pillion.sidecar")


class Naming:
    """`resolver` is None when it cannot start: then other applications are not found, nor is this one."""

    def __init__(self) -> None:
        self.resolver: Resolver | None = None
        self._made: Any = None

    async def open(
        self,
        catalogue: Catalogue,
        wanted: NameResolution,
        *,
        default: str,
        app_id: str,
        namespace: str,
        data_dir: str,
    ) -> None:
        """Open the resolver that is `wanted`, or the one called `default`. Raises `ConfigError` for an unknown one; one
        that cannot start is logged.
        """
        name = wanted.component or default
        entry = catalogue.find(f"nameresolution.{name}", wanted.version)
        if entry is None:
            hint = catalogue.near(f"nameresolution.{name}", wanted.version)
            raise ConfigError(f"couldn't find name resolver {name}/{wanted.version}", where="nameResolution", mend=hint)
        settings = wanted.settings if isinstance(wanted.settings, dict) else {}
        metadata = {
            key: value if isinstance(value, str) else orjson.dumps(value).decode() for key, value in settings.items()
        }
        context = Context(name, app_id, namespace, data_dir)
        self._made = construct(entry, metadata, context, where="nameResolution")
        try:
            await self._made.open()
        except Exception as error:
            log.error("name resolution %s cannot start, other applications will not be found: %s", name, error)
        else:
            self.resolver = self._made

    async def announce(self, instance: Instance) -> None:
        """Let others find this sidecar. A failure is logged."""
        if self.resolver is None:
            return
        try:
            await self.resolver.register(instance)
        except Exception as error:
            log.error("this sidecar cannot be announced, others will not find it: %s", error)

    async def close(self) -> None:
        """Take the entry back."""
        if self._made is not None:
            await self._made.close()

    def __repr__(self) -> str:
        return f"<Naming by {self.resolver!r}>"
