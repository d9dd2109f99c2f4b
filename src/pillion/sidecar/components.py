"""The registry of loaded components (spec `runtime.md` 2.3).

Knows: the order, what is denied, what parks, what comes and goes. Never knows: how one is loaded (`loading.py`), or who
uses it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Protocol

from pillion.sidecar.catalogue import Catalogue
from pillion.sidecar.loading import CATEGORIES, InitError, Loaded, Loader, category, close
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pillion.kinds.resources import ComponentResource
    from pillion.sidecar.environment import Environment

__all__ = ["Components", "InitError", "Loaded", "Witness", "followers"]

log = logging.getLogger("pillion.sidecar.components")
LINGER_S = 5.0
"""How long a component that was removed or replaced stays open for the requests that found it before."""


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
    called with each component that arrived (True) or is about to go (False). `leaving`, which may be set later, is
    awaited before one goes: whoever takes messages from it lets them arrive. One that is gone is closed after
    `linger_s` seconds.
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
        linger_s: float = 0.0,
    ) -> None:
        self._kubernetes, self._actors = kubernetes, actors
        self._deny = frozenset(deny)
        self._witness = witness
        self._changed = changed
        self.leaving: Callable[[Loaded], Awaitable[None]] | None = None
        self._linger_s = linger_s
        self._hurry = asyncio.Event()
        self._lingering = Tasks("components that were replaced")
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
            loaded = await self._first(resource)
        except InitError as error:
            if not resource.ignore_errors:
                raise
            log.error("Ignoring error processing component: %s", error)
            return
        if loaded is not None:
            await self._arrived(loaded)

    async def update(self, resource: ComponentResource) -> None:
        """Put a changed resource in the place of the one of its name. Raises `InitError` as `add` does.

        The new one opens while the old one serves, so that no request finds neither. If it cannot, perhaps because the
        old one holds what it needs, the old one is closed and the new one tried again, as the reference does at once.
        """
        if self._existing(resource.name) == resource:
            return
        self.replacing.add(resource.name)
        try:
            old = self.all.get(resource.name)
            if old is None or not await self._replaced(old, resource):
                await self.remove(resource.name)
                await self._hasten()
                await self.add(resource)
        finally:
            self.replacing.discard(resource.name)

    async def remove(self, name: str) -> None:
        """Close one and forget it; a failure to close is logged."""
        for waiting in self.parked.values():
            waiting.pop(name, None)
        loaded = self.all.get(name)
        if loaded is None:
            return
        if self.leaving is not None:
            await self.leaving(loaded)
        self._forget(loaded)
        await self._let_go(loaded)

    async def close(self) -> bool:
        """Close all at once; each failure is logged. Return whether there was none. May be called twice."""
        await self._hasten()
        everything = list(self.all.values())
        self.all.clear()
        self.parked.clear()
        for members in self._by_category.values():
            members.clear()
        self.actor_store = None
        return all(await asyncio.gather(*(close(loaded) for loaded in everything)))

    def resources(self) -> dict[str, ComponentResource]:
        """Return what is loaded and what waits for a secret store, by name."""
        found = {name: resource for waiting in self.parked.values() for name, resource in waiting.items()}
        return found | {name: loaded.resource for name, loaded in self.all.items()}

    def _existing(self, name: str) -> ComponentResource | None:
        if name in self.all:
            return self.all[name].resource
        return next((waiting[name] for waiting in self.parked.values() if name in waiting), None)

    async def _first(self, resource: ComponentResource) -> Loaded | None:
        """Load one of a new name; what lingers may hold what it needs and has to go then."""
        try:
            return await self._load(resource)
        except InitError:
            if not self._lingering:
                raise
        await self._hasten()
        return await self._load(resource)

    async def _replaced(self, old: Loaded, resource: ComponentResource) -> bool:
        """Try to open the new one beside the old one; return whether it has taken its place."""
        try:
            loaded = await self._load(resource, instead_of=old)
        except InitError as error:
            log.info("%s; trying again without the one it replaces", error)
            return False
        if loaded is None:  # it is denied, or waits for its secrets
            return False
        try:
            if self.leaving is not None:
                await self.leaving(old)
        except BaseException:
            if self.actor_store is loaded:
                self.actor_store = None
            await close(loaded)
            raise
        self._forget(old)
        await self._arrived(loaded)
        await self._let_go(old)
        return True

    def _forget(self, loaded: Loaded) -> None:
        del self.all[loaded.name]
        del self._by_category[category(loaded.resource)][loaded.name]
        if self.actor_store is loaded:
            self.actor_store = None
        if self._changed is not None:
            self._changed(loaded, False)

    async def _let_go(self, loaded: Loaded) -> None:
        """Close what nobody finds any more, once the requests that found it have had their time."""
        if not self._linger_s:
            await close(loaded)
            return

        hurry = self._hurry

        async def later() -> None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._linger_s):
                    await hurry.wait()
            await close(loaded)

        self._lingering.start(later(), loaded.name)

    async def _hasten(self) -> None:
        """Close now what lingers."""
        hurry, self._hurry = self._hurry, asyncio.Event()
        hurry.set()
        await self._lingering.drain(None)

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

    def denied(self, resource: ComponentResource) -> bool:
        """Whether the configuration forbids to load it."""
        deny = self._deny
        if not deny:
            return False
        typed = f"{resource.type}/{resource.version}"
        return not resource.type or not resource.version or resource.type in deny or typed in deny

    async def _load(self, resource: ComponentResource, instead_of: Loaded | None = None) -> Loaded | None:
        """Return the loaded component, None when it is denied or parked. Raises `InitError`.

        A failure beside the one it shall replace is not counted: it is tried again.
        """
        if self.denied(resource):
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
                await self._claim_actors(loaded, instead_of)
        except InitError as error:
            if self._witness is not None and instead_of is None:
                self._witness.failed(resource, error.reason)
            raise
        return loaded

    async def _claim_actors(self, loaded: Loaded, instead_of: Loaded | None) -> None:
        if self.actor_store is not None and self.actor_store is not instead_of:
            await close(loaded)
            what = f"detected duplicate actor state store: {self.actor_store.name} and {loaded.name}"
            raise InitError("INIT_COMPONENT_FAILURE", loaded.resource, what, reason="init")
        self.actor_store = loaded

    def __repr__(self) -> str:
        return f"<Components {sorted(self.all)}, parked {sorted(n for w in self.parked.values() for n in w)}>"
