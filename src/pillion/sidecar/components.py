"""Loaded components: from resources to open connections, and back (spec `runtime.md` 2.3).

Knows: the order, what parks, what fails, and what a failure means. Never knows: technologies, or who uses a component.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import Component, Context, truthy
from pillion.kinds.keys import KeyPrefix
from pillion.observe import logs
from pillion.security.scopes import TopicScopes
from pillion.sidecar.catalogue import Catalogue, construct
from pillion.sidecar.metadata import Resolver

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pillion.kinds.resources import ComponentResource
    from pillion.sidecar.environment import Environment

log = logging.getLogger("pillion.sidecar.components")

CATEGORIES = (
    "bindings", "pubsub", "secretstores", "state", "middleware", "configuration", "crypto", "lock", "conversation",
)  # fmt: skip


class InitError(ComponentError):
    """A component could not be loaded. `kind` is INIT_FAILURE, INIT_COMPONENT_FAILURE or CREATE_COMPONENT_FAILURE."""

    def __init__(self, kind: str, resource: ComponentResource, why: object) -> None:
        self.kind, self.resource = kind, resource
        super().__init__(f"[{kind}]: initialization error occurred for {resource.label}: {why}")


class Witness(Protocol):
    """Who counts what happens. `reason` is "creation" or "init"."""

    def loaded(self, resource: ComponentResource) -> None: ...

    def failed(self, resource: ComponentResource, reason: str) -> None: ...


@dataclass(slots=True)
class Loaded:
    """An open component with what the runtime knows of it. `metadata` is resolved: it holds secrets."""

    resource: ComponentResource
    component: Any
    metadata: Mapping[str, str] = field(repr=False)
    prefix: KeyPrefix = field(default_factory=KeyPrefix)
    """How keys are written: state stores and locks."""
    scopes: TopicScopes = field(default_factory=TopicScopes)
    """Which topics the application may use: brokers."""

    @property
    def name(self) -> str:
        return self.resource.name

    @property
    def type(self) -> str:
        return self.resource.type

    @property
    def version(self) -> str:
        return self.resource.version

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the component declares, in alphabetical order."""
        return tuple(sorted(str(feature) for feature in getattr(self.component, "features", ())))


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
        self._app_id, self._environment, self._data_dir = app_id, environment, data_dir
        self._kubernetes, self._actors, self._strict_sandbox = kubernetes, actors, strict_sandbox
        self._deny = frozenset(deny)
        self._catalogue = Catalogue.installed() if catalogue is None else catalogue
        self._witness = witness
        self._changed = changed
        self._resolver = Resolver(app_id, environment)
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

    async def open(self, resources: Sequence[ComponentResource]) -> None:
        """Load all: secret stores first, then the rest, both in order. Raises `InitError` for the first that fails."""
        for resource in sorted(resources, key=lambda one: _category(one) != "secretstores"):
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
        await self.remove(resource.name)
        await self.add(resource)

    async def remove(self, name: str) -> None:
        """Close one and forget it; a failure to close is logged."""
        for waiting in self.parked.values():
            waiting.pop(name, None)
        loaded = self.all.pop(name, None)
        if loaded is None:
            return
        del self._by_category[_category(loaded.resource)][name]
        if self.actor_store is loaded:
            self.actor_store = None
        if self._changed is not None:
            self._changed(loaded, False)
        await _close(loaded.resource, loaded.component)

    async def close(self) -> bool:
        """Close all at once; each failure is logged. Return whether there was none. May be called twice."""
        everything = list(self.all.values())
        self.all.clear()
        self.parked.clear()
        for members in self._by_category.values():
            members.clear()
        self.actor_store = None
        return all(await asyncio.gather(*(_close(loaded.resource, loaded.component) for loaded in everything)))

    def _existing(self, name: str) -> ComponentResource | None:
        if name in self.all:
            return self.all[name].resource
        return next((waiting[name] for waiting in self.parked.values() if name in waiting), None)

    async def _arrived(self, loaded: Loaded) -> None:
        self.all[loaded.name] = loaded
        self._by_category[_category(loaded.resource)][loaded.name] = loaded
        log.info("Component loaded: %s", loaded.resource.label)
        if self._witness is not None:
            self._witness.loaded(loaded.resource)
        if self._changed is not None:
            self._changed(loaded, True)
        if _category(loaded.resource) == "secretstores":
            for waiting in self.parked.pop(loaded.name, {}).values():
                await self.add(waiting)

    def _denied(self, resource: ComponentResource) -> bool:
        deny = self._deny
        if not deny:
            return False
        typed = f"{resource.type}/{resource.version}"
        return not resource.type or not resource.version or resource.type in deny or typed in deny

    async def _load(self, resource: ComponentResource) -> Loaded | None:
        if self._denied(resource):
            log.warning("component %s is denied by the configuration; skipped", resource.label)
            return None
        store = resource.secret_store or ("kubernetes" if self._kubernetes else "")
        refers = any(item.secret is not None for item in resource.metadata)
        if refers and store and store not in self.secrets:
            log.warning("component %s waits for the secret store %r", resource.label, store)
            self.parked.setdefault(store, {})[resource.name] = resource
            return None
        try:
            metadata = await self._metadata(resource, store if refers else "")
            component = self._construct(resource, metadata)
        except InitError:
            self._failed(resource, "creation")
            raise
        except Exception as error:
            self._failed(resource, "creation")
            raise InitError("CREATE_COMPONENT_FAILURE", resource, str(error) or type(error).__name__) from error
        loaded = Loaded(resource, component, metadata)
        try:
            self._describe(loaded)
            await self._open(resource, component)
        except Exception as error:
            await _close(resource, component)
            self._failed(resource, "init")
            raise InitError("INIT_COMPONENT_FAILURE", resource, str(error) or type(error).__name__) from error
        except asyncio.CancelledError:
            await _close(resource, component)
            raise
        if self._is_actor_store(loaded):
            self.actor_store = loaded
        return loaded

    async def _metadata(self, resource: ComponentResource, store: str) -> dict[str, str]:
        secrets = self.secrets[store].component if store else None
        metadata = await self._resolver.resolve(
            resource.metadata, store=secrets, namespace=resource.namespace, owner=resource.label
        )
        if _category(resource) == "pubsub":
            _consumer(metadata, self._app_id)
        if self._strict_sandbox and resource.type.lower() in ("bindings.wasm", "middleware.http.wasm"):
            for key in [key for key in metadata if key.lower() == "strictsandbox"]:
                del metadata[key]
            metadata["strictSandbox"] = "true"
        return metadata

    def _construct(self, resource: ComponentResource, metadata: Mapping[str, str]) -> Component:
        if _category(resource) not in CATEGORIES:
            raise InitError("INIT_COMPONENT_FAILURE", resource, f"incorrect type {resource.type}")
        entry = self._catalogue.find(resource.type, resource.version)
        if entry is None:
            category, _, name = resource.type.partition(".")
            hint = self._catalogue.near(resource.type, resource.version)
            what = f"couldn't find {category} {name}/{resource.version}" + (f" ({hint})" if hint else "")
            raise InitError("CREATE_COMPONENT_FAILURE", resource, what)
        context = Context(
            name=resource.name,
            app_id=self._app_id,
            namespace=self._environment.namespace_raw,
            data_dir=self._data_dir,
        )
        component: Component = construct(entry, metadata, context, where=resource.where)
        return component

    def _describe(self, loaded: Loaded) -> None:
        """Work out prefixes, scopes and the actor store; raises `ConfigError`."""
        category, app_id = _category(loaded.resource), self._app_id
        if category == "state":
            namespace = self._environment.namespace_raw
            loaded.prefix = KeyPrefix.for_component(
                loaded.metadata, component=loaded.name, app_id=app_id, namespace=namespace
            )
            if self._is_actor_store(loaded) and self.actor_store is not None:
                raise ConfigError(f"detected duplicate actor state store: {self.actor_store.name} and {loaded.name}")
        elif category == "lock":
            loaded.prefix = KeyPrefix.for_lock(loaded.metadata, component=loaded.name, app_id=app_id)
        elif category == "pubsub":
            loaded.scopes = TopicScopes.parse(loaded.metadata, app_id)
            for entry in loaded.scopes.ignored:
                log.warning("component %s: the scope %r restricts nobody (write app=topic1,topic2)", loaded.name, entry)

    def _is_actor_store(self, loaded: Loaded) -> bool:
        if not self._actors or _category(loaded.resource) != "state":
            return False
        return any(key.lower() == "actorstatestore" and truthy(value) for key, value in loaded.metadata.items())

    async def _open(self, resource: ComponentResource, component: Component) -> None:
        with logs.component(resource.label):
            try:
                async with asyncio.timeout(resource.init_timeout_s) as limit:
                    await component.open()
            except TimeoutError as error:
                if not limit.expired():
                    raise
                what = f"init timeout for component {resource.name} exceeded after {resource.init_timeout_s:g}s"
                raise ComponentError(what) from error

    def _failed(self, resource: ComponentResource, reason: str) -> None:
        if self._witness is not None:
            self._witness.failed(resource, reason)

    def __repr__(self) -> str:
        return f"<Components {sorted(self.all)}, parked {sorted(n for w in self.parked.values() for n in w)}>"


def _category(resource: ComponentResource) -> str:
    return resource.type.partition(".")[0].lower()


def _consumer(metadata: dict[str, str], app_id: str) -> None:
    """Give a broker its consumer group: `consumerID` trimmed, or the app id."""
    given = next((key for key in metadata if key.lower() == "consumerid"), "")
    value = metadata.pop(given, "").strip() if given else ""
    metadata["consumerID"] = value or app_id


async def _close(resource: ComponentResource, component: Component) -> bool:
    try:
        with logs.component(resource.label):
            await component.close()
    except Exception:
        log.exception("component %s could not be closed", resource.label)
        return False
    return True
