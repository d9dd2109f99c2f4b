"""Secret stores (spec `components.md` 5)."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pillion.kinds.component import Component

if TYPE_CHECKING:
    from collections.abc import Mapping


class Feature(StrEnum):
    MULTIPLE_KEY_VALUES_PER_SECRET = "MULTIPLE_KEY_VALUES_PER_SECRET"


@runtime_checkable
class SecretStore(Component, Protocol):
    """Named secrets, each a map of key to value; single-valued stores answer `{name: value}`."""

    features: frozenset[Feature]

    async def get(self, name: str, metadata: Mapping[str, str]) -> dict[str, str]:
        """Return one secret; raises `ComponentError` when there is none."""
        ...

    async def bulk_get(self, metadata: Mapping[str, str]) -> dict[str, dict[str, str]]:
        """Return every secret of the store."""
        ...
