"""The registry of loaded components (spec `runtime.md` 2.3).

Knows: the order, what is denied, what parks, what comes and goes. Never knows: how one is loaded (`loading.py`), or who
uses it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol

from pillion.sidecar.catalogue import Catalogue
from pillion.sidecar.loading import CATEGORIES, InitError, Loaded, Loader, category, close

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillion.kinds.resources import ComponentResource
    from pillion.sidecar.environment import Environment

__all__ = ["Components", "InitError", "Loaded", "Witness", "followers"]

log = logging.getLogger("pillion.sidecar.components")


class Witness(Protocol):
    """Who counts what happens. `reason` is "creation" or "init"."""

    def loaded(self, resource: ComponentResource) -> None: ...

    def failed(self, resource: ComponentResource, reason: str) -> None: ...


def followers(*each: Callable[[Loaded, bool], None]) -> Callable[[Loaded, bool], None]:
    """Return one function that tells all of them, in order."""

    def changed(loaded: Loaded, arrived: bool) -> None:
        for follower in each:
            follower(loaded, arrived)

    return changed


class Components:
    """The registry. `states`, `pubsubs` and so on are live views by name: components come and go.

    `actors` tells whether an actor state store is looked for, `deny` are the types that are not loaded. `changed` is
    called with each component that arrived (True) or is about to go (False).
    """

    def __init__(
        self,
        *,
        app_id: str,
        environment: Environment,
        data_dir: str = "",
        kubernetes: bool = False,
        actors: bool = False,
        deny: Sequence[str] = (),
        strict_sandbox: bool = False,
        catalogue: Catalogue | None = None,
        witness: Witness | None = None,
        changed: Callable[[Loaded, bool], None] | None = None,
    ) -> None:
        self._kubernetes, self._actors = kubernetes, actors
        self._deny = frozenset(deny)
        self._witness = witness
        self._changed = changed
        self._loader = Loader(
            app_id=app_id,
            environment=environment,
            data_dir=data_dir,
            strict_sandbox=strict_sandbox,
            catalogue=Catalogue.installed() if catalogue is None else catalogue,
        )
        self._by_category: dict[str, dict[str, Loaded]] = {category: {} for category in CATEGORIES}
        self.all: dict[str, Loaded] = {}
        self.parked: dict[str, dict[str, ComponentResource]] = {}
        """Components that wait for a secret store, by its name and theirs."""
        self.states = self._by_category["state"]
        self.pubsubs = self._by_category["pubsub"]
        self.secrets = self._by_category["secretstores"]
        self.bindings = self._by_category["bindings"]
        self.configurations = self._by_category["configuration"]
        self.locks = self._by_category["lock"]
        self.cryptos = self._by_category["crypto"]
        self.conversations = self._by_category["conversation"]
        self.middlewares = self._by_category["middleware"]
        self.actor_store: Loaded | None = None
        self.replacing: set[str] = set()
        """Components that are gone only until their new version opens."""

    async def open(self, resources: Sequence[ComponentResource]) -> None:
        """Load all: secret stores first, then the rest, both in order. Raises `InitError` for the first that fails."""
        for resource in sorted(resources, key=lambda one: category(one) != "secretstores"):
            await self.add(resource)

    async def add(self, resource: ComponentResource) -> None:
        """Load one. The same resource again is nothing; another of its name is an error.

        Raises `InitError` unless the resource says `ignoreErrors`.
        """
        existing = self._existing(resource.name)
        if existing == resource:
            return
        try:
            if existing is not None:
                raise InitError("INIT_COMPONENT_FAILURE", resource, f"component {resource.name} already exists")
            loaded = await self._load(resource)
        except InitError as error:
            if not resource.ignore_errors:
                raise
            log.error("Ignoring error processing component: %s", error)
            return
        if loaded is not None:
            await self._arrived(loaded)

    async def update(self, resource: ComponentResource) -> None:
        """Put a changed resource in the place of the one of its name: the old one closes before the new one opens."""
        if self._existing(resource.name) == resource:
            return
        self.replacing.add(resource.name)
        try:
            await self.remove(resource.name)
            await self.add(resource)
        finally:
            self.replacing.discard(resource.name)

    async def remove(self, name: str) -> None:
        """Close one and forget it; a failure to close is logged."""
        for waiting in self.parked.values():
            waiting.pop(name, None)
        loaded = self.all.pop(name, None)
        if loaded is None:
            return
        del self._by_category[category(loaded.resource)][name]
        if self.actor_store is loaded:
            self.actor_store = None
        if self._changed is not None:
            self._changed(loaded, False)
        await close(loaded)

    async def close(self) -> bool:
        """Close all at once; each failure is logged. Return whether there was none. May be called twice."""
        everything = list(self.all.values())
        self.all.clear()
        self.parked.clear()
        for members in self._by_category.values():
            members.clear()
        self.actor_store = None
        return all(await asyncio.gather(*(close(loaded) for loaded in everything)))

    def _existing(self, name: str) -> ComponentResource | None:
        if name in self.all:
            return self.all[name].resource
        return next((waiting[name] for waiting in self.parked.values() if name in waiting), None)

    async def _arrived(self, loaded: Loaded) -> None:
        self.all[loaded.name] = loaded
        self._by_category[category(loaded.resource)][loaded.name] = loaded
        log.info("Component loaded: %s", loaded.resource.label)
        if self._witness is not None:
            self._witness.loaded(loaded.resource)
        if self._changed is not None:
            self._changed(loaded, True)
        if category(loaded.resource) == "secretstores":
            for waiting in self.parked.pop(loaded.name, {}).values():
                await self.add(waiting)

    def _denied(self, resource: ComponentResource) -> bool:
        deny = self._deny
        if not deny:
            return False
        typed = f"{resource.type}/{resource.version}"
        return not resource.type or not resource.version or resource.type in deny or typed in deny

    async def _load(self, resource: ComponentResource) -> Loaded | None:
        """Return the loaded component, None when it is denied or parked. Raises `InitError`."""
        if self._denied(resource):
            log.warning("component %s is denied by the configuration; skipped", resource.label)
            return None
        store = resource.secret_store or ("kubernetes" if self._kubernetes else "")
        refers = bool(store) and any(item.secret is not None for item in resource.metadata)
        if refers and store not in self.secrets:
            log.warning("component %s waits for the secret store %r", resource.label, store)
            self.parked.setdefault(store, {})[resource.name] = resource
            return None
        try:
            loaded = await self._loader.load(resource, self.secrets[store].component if refers else None)
            if self._actors and loaded.for_actors:
                await self._claim_actors(loaded)
        except InitError as error:
            if self._witness is not None:
                self._witness.failed(resource, error.reason)
            raise
        return loaded

    async def _claim_actors(self, loaded: Loaded) -> None:
        if self.actor_store is not None:
            await close(loaded)
            what = f"detected duplicate actor state store: {self.actor_store.name} and {loaded.name}"
            raise InitError("INIT_COMPONENT_FAILURE", loaded.resource, what, reason="init")
        self.actor_store = loaded

    def __repr__(self) -> str:
        return f"<Components {sorted(self.all)}, parked {sorted(n for w in self.parked.values() for n in w)}>"
