"""Which types a sidecar hosts, by all who want to host some. Pure: never knows instances, placement, time."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillion.kinds.actors import Hosted


class Roster:
    """What is wanted, by name of who wants it; without an actor state store nothing is hosted (spec 1.1)."""

    def __init__(self) -> None:
        self._wanted: dict[str, dict[str, Hosted]] = {}
        self._has_store = False

    def host(self, by: str, types: Sequence[Hosted]) -> None:
        """Host exactly these `types` in the name of `by`."""
        self._wanted.pop(by, None)
        if types:
            self._wanted[by] = {hosted.actor_type: hosted for hosted in types}

    def store_changed(self, there: bool) -> bool:
        """Whether there is a store; return False when that is nothing new."""
        news = there is not self._has_store
        self._has_store = there
        return news

    def lacking(self) -> frozenset[str]:
        """The types that are wanted, while there is no store."""
        return frozenset() if self._has_store else frozenset(name for types in self._wanted.values() for name in types)

    def effective(self) -> dict[str, Hosted]:
        """Return what is to be hosted. Of a type that several name, the one who came last runs it."""
        found: dict[str, Hosted] = {}
        if self._has_store:
            for types in self._wanted.values():
                found |= types
        return found

    def __repr__(self) -> str:
        return f"<Roster {sorted(self.effective())}{'' if self._has_store else ', no store'}>"
