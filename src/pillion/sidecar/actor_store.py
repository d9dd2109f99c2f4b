"""The store of actors' state as their runtime sees it: under its policy, counted, and exchanged while calls go on.

Values are not sealed, whatever the component says (spec `runtime.md` 7.1): other sidecars and tools read them.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from pillion.kinds.state import Feature, TransactionalStore, VersionedStore
from pillion.resiliency.guarded import guarded
from pillion.resiliency.policies import Flow, Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillion.kinds.state import Delete, Found, Get, Operation, Set
    from pillion.observe.meters import Timed
    from pillion.resiliency.current import CurrentPolicies
    from pillion.sidecar.components import Loaded

log = logging.getLogger("pillion.sidecar.actors")
FURTHER = ("bulk_get", "keys_like", "delete_with_prefix")
"""Methods that a store may have besides."""
METHODS = ("get", "set", "delete", "transact", "transact_versions", *FURTHER)
NEEDED = (Feature.ETAG, Feature.TRANSACTIONAL)


class ActorStore:
    """Which component it is at the moment. `find` always returns the same object for the same one."""

    def __init__(self, policies: CurrentPolicies, timed: Timed) -> None:
        self._policies, self._timed = policies, timed
        self._loaded: Loaded | None = None
        self._counted: CountedStore | None = None

    def find(self) -> TransactionalStore | None:
        return self._counted

    def is_of(self, loaded: Loaded) -> bool:
        return self._loaded is loaded

    def use(self, loaded: Loaded | None) -> None:
        """From now on this one; None: there is none. One that lacks a feature is none either, and that is logged."""
        if loaded is not None:
            missing = [feature for feature in NEEDED if feature not in loaded.component.features]
            if missing or not isinstance(loaded.component, TransactionalStore):
                log.error("%s cannot keep the state of actors: it lacks %s", loaded.name, ", ".join(missing))
                loaded = None
        if loaded is None:
            self._loaded = self._counted = None
            return
        if loaded is not self._loaded or self._counted is None:
            kind = CountedVersionedStore if isinstance(loaded.component, VersionedStore) else CountedStore
            self._counted = kind(loaded.component, loaded.name, self._timed)
            self._loaded = loaded
        policy = self._policies.component(loaded.name, Kind.STATESTORE, Flow.OUTBOUND)
        self._counted.inner = loaded.component if policy is None else guarded(loaded.component, policy, METHODS)


class CountedStore:
    """A transactional store whose operations are counted; `inner` is the component, or what surrounds it."""

    def __init__(self, component: Any, name: str, timed: Timed) -> None:
        self.inner = component
        self.features = component.features
        self.max_operations = component.max_operations
        self.open, self.ping, self.close = component.open, component.ping, component.close
        self._name, self._timed = name, timed
        for further in FURTHER:
            if hasattr(component, further):  # protocols look for it here
                setattr(self, further, partial(self._pass, further))

    async def get(self, request: Get) -> Found:
        return await self._timed("get", self._name, self.inner.get(request))

    async def set(self, request: Set) -> None:
        await self._timed("set", self._name, self.inner.set(request))

    async def delete(self, request: Delete) -> None:
        await self._timed("delete", self._name, self.inner.delete(request))

    async def transact(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> None:
        await self._timed("transaction", self._name, self.inner.transact(operations, metadata))

    def _pass(self, method: str, *values: Any, **named: Any) -> Any:
        return getattr(self.inner, method)(*values, **named)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._name}>"


class CountedVersionedStore(CountedStore):
    """One that tells the ETags that it made."""

    async def transact_versions(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> list[str | None]:
        return await self._timed("transaction", self._name, self.inner.transact_versions(operations, metadata))
