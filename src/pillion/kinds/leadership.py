"""Leadership: one of several processes serves, and an existing engine decides which (spec `control-plane.md` 8.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Leadership(Protocol):
    """A candidate's view of the engine. Being leader ends before another process can become it."""

    async def open(self) -> None:
        """Reach the engine and stand as a candidate. Raises `ComponentError` for what will not mend itself."""

    @property
    def inherited(self) -> bool:
        """Whether another leader may have been before this one; known once `elected` has returned."""

    def holds(self) -> bool:
        """Whether leadership can be vouched for at this very moment.

        To be asked before whatever only a leader may do: a process that stood still is told of its loss too late.
        """

    async def elected(self) -> int:
        """Wait until this process is the leader; return a term that is greater than that of every earlier leader."""

    def lost(self, tell: Callable[[str], None]) -> None:
        """`tell(why)` is called, once for each time it is won, the moment leadership can no longer be vouched for.

        `elected` may then be awaited again.
        """

    async def close(self) -> None:
        """Resign, so that the next one follows at once."""
