"""Leadership: one of several processes serves, and an existing engine decides which (spec `control-plane.md` 8.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Leadership(Protocol):
    """A candidate's view of the engine. Being leader ends before another process can become it."""

    async def open(self) -> None:
        """Reach the engine and stand as a candidate. Raises `ComponentError` for what will not mend itself."""

    async def elected(self) -> int:
        """Wait until this process is the leader; return a term that is greater than that of every earlier leader."""

    def lost(self, tell: Callable[[str], None]) -> None:
        """`tell(why)` is called, once, the moment leadership can no longer be vouched for."""

    async def close(self) -> None:
        """Resign, so that the next one follows at once."""
