"""Finding a state store and writing its keys: how every operation on state begins (spec `grpc-api.md` 2, S and K).

Knows: names, prefixes, and how the two protocols word the same refusal. Never knows: operations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pillion.blocks import state_faults as faults
from pillion.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.kinds.keys import KeyPrefix
    from pillion.kinds.state import StateStore


class Store(Protocol):
    """A loaded store, and how its keys are written."""

    @property
    def name(self) -> str: ...

    @property
    def component(self) -> StateStore: ...

    @property
    def prefix(self) -> KeyPrefix: ...

    @property
    def sealed(self) -> bool:
        """Whether values are encrypted before they reach the store."""
        ...


class Stores:
    """The live registry, asked on behalf of one application. Every method raises `ApiError`."""

    def __init__(self, app_id: str, by_name: Mapping[str, Store]) -> None:
        self._app_id = app_id
        self._by_name = by_name

    def find(self, name: str, *, http: bool) -> Store:
        """Return the store of that name."""
        store = self._by_name.get(name)
        if store is not None:
            return store
        fault = faults.NOT_FOUND if self._by_name else faults.NOT_CONFIGURED
        raise ApiError(fault, store=name, metadata={"appID": self._app_id} if http else None)

    @staticmethod
    def key(store: Store, key: str, *, http: bool, named: bool = True) -> str:
        """Return the key as the store gets it. `named` False: the refusal does not say which key was illegal."""
        if "||" not in key:
            return store.prefix.apply(key)
        text = f"input key/keyPrefix '{key}' can't contain '||'"
        if http:
            text = f"api error: code = InvalidArgument desc = {text}"
        raise ApiError(
            faults.ILLEGAL_KEY, text=text, resource=store.name, fields=[(key if named else "", text)], metadata=None
        )
