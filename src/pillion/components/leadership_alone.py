"""Leadership without an engine: this process is the only one, and the leader at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.clock import Clock


class Alone:
    """A `Leadership` that remembers nothing: terms grow with the wall clock. `term` is one that somebody else saw to,
    and that grew.
    """

    inherited = False

    def __init__(self, clock: Clock, term: int | None = None) -> None:
        self._clock = clock
        self._term = term

    async def open(self) -> None:
        """Nothing is reached."""

    def holds(self) -> bool:
        return True

    async def elected(self) -> int:
        return int(self._clock.now() * 1000) if self._term is None else self._term

    def lost(self, tell: Callable[[str], None]) -> None:
        """Never."""

    async def close(self) -> None:
        """Nobody follows."""
