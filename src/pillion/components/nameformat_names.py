"""`nameformat` name resolution: the app id put into a text (spec `components.md` 9). Nothing is registered or asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import setting
from pillion.wire.addresses import join_host_port, split_host_port

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillion.kinds.component import Context
    from pillion.kinds.names import Instance

WHERE = "nameresolution nameformat"
MARK = "{appid}"
PORT = 50002


class NameFormat:
    """A resolver that computes. A format without a port gets that of our own internal API."""

    @dataclass(frozen=True)
    class Settings:
        format: str = setting(help="host or host:port with {appid} in it")

        def __post_init__(self) -> None:
            if MARK not in self.format:
                raise ConfigError(f"format {self.format!r} does not contain {MARK}", where=WHERE)
            try:
                split_host_port(self.format.replace(MARK, "app"), PORT)
            except ValueError as error:
                raise ConfigError(f"format: {error}", where=WHERE) from error

    def __init__(self, settings: Settings, context: Context) -> None:
        self._format = settings.format
        self._port = PORT
        self._opened = False

    async def open(self) -> None:
        self._opened = True

    async def ping(self) -> None:
        """Nobody stands behind this."""

    async def close(self) -> None:
        self._opened = False

    async def register(self, instance: Instance) -> None:
        self._port = instance.internal_port or PORT

    async def resolve(self, app_id: str, namespace: str) -> Sequence[str]:
        if not self._opened:
            raise ComponentError("nameformat: the resolver is not open")
        if not app_id:
            raise ComponentError("nameformat: the app id is empty")
        try:
            return [join_host_port(*split_host_port(self._format.replace(MARK, app_id), self._port))]
        except ValueError as error:
            raise ComponentError(f"couldn't find service: {app_id}") from error

    def failed(self, app_id: str, namespace: str, address: str) -> None:
        """There is no other."""

    def __repr__(self) -> str:
        return f"<NameFormat {self._format}>"
