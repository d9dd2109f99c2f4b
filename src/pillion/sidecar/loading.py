"""One component: from its resource to an open connection (spec `runtime.md` 2.3).

Knows: the steps, and which error each of them ends with. Never knows: other components (`components.py`), or
technologies.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import Component, Context, truthy
from pillion.kinds.keys import KeyPrefix
from pillion.kinds.state import Feature
from pillion.observe import logs
from pillion.security.scopes import TopicScopes
from pillion.sidecar.catalogue import Catalogue, construct
from pillion.sidecar.metadata import Resolver, Secrets
from pillion.sidecar.sealing import sealing_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.kinds.resources import ComponentResource
    from pillion.security.sealing import Sealing
    from pillion.sidecar.environment import Environment

log = logging.getLogger("pillion.sidecar.components")

CATEGORIES = (
    "bindings", "pubsub", "secretstores", "state", "middleware", "configuration", "crypto", "lock", "conversation",
)  # fmt: skip


class InitError(ComponentError):
    """A component could not be loaded. `kind` is INIT_COMPONENT_FAILURE or CREATE_COMPONENT_FAILURE; `reason`, for the
    metrics, is "creation" while there was nothing to open and "init" after.
    """

    def __init__(self, kind: str, resource: ComponentResource, why: object, *, reason: str = "creation") -> None:
        self.kind, self.resource, self.reason = kind, resource, reason
        super().__init__(f"[{kind}]: initialization error occurred for {resource.label}: {why}")


@dataclass(slots=True)
class Loaded:
    """An open component with what the runtime knows of it. `metadata` is resolved: it holds secrets."""

    resource: ComponentResource
    component: Any
    metadata: Mapping[str, str] = field(repr=False)
    prefix: KeyPrefix = field(default_factory=KeyPrefix)
    """How keys are written: state stores and locks."""
    sealing: Sealing | None = None
    """What encrypts an application's values before they reach the store. `component` is the bare store: actor state is
    not encrypted."""
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
    def sealed(self) -> bool:
        return self.sealing is not None

    @property
    def for_actors(self) -> bool:
        """Whether this is a state store that says `actorStateStore`."""
        marks = (value for key, value in self.metadata.items() if key.lower() == "actorstatestore")
        return category(self.resource) == "state" and any(map(truthy, marks))

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the component declares, in alphabetical order; ciphertext cannot be queried."""
        declared = {str(feature) for feature in getattr(self.component, "features", ())}
        return tuple(sorted(declared - {Feature.QUERY_API} if self.sealed else declared))


class Loader:
    """Loads components for one application. `strict_sandbox` confines WebAssembly whatever a resource says."""

    def __init__(
        self, *, app_id: str, environment: Environment, data_dir: str, strict_sandbox: bool, catalogue: Catalogue
    ) -> None:
        self._app_id, self._environment, self._data_dir = app_id, environment, data_dir
        self._strict_sandbox = strict_sandbox
        self._catalogue = catalogue
        self._resolver = Resolver(app_id, environment)

    async def load(self, resource: ComponentResource, secrets: Secrets | None) -> Loaded:
        """Return the open component; `secrets` is the store its metadata refers to. Raises `InitError`.

        What failed to open, or was cancelled while opening, has been closed again.
        """
        try:
            metadata = await self._metadata(resource, secrets)
            # Takes the keys out of the metadata: no component gets to see them.
            sealing = _sealing(resource, metadata, secrets)
            loaded = Loaded(resource, self._construct(resource, metadata), metadata, sealing=sealing)
        except InitError:
            raise
        except Exception as error:
            raise InitError("CREATE_COMPONENT_FAILURE", resource, str(error) or type(error).__name__) from error
        try:
            self._describe(loaded)
            await self._open(resource, loaded.component)
        except BaseException as error:
            await close(loaded)
            if not isinstance(error, Exception):
                raise
            why = str(error) or type(error).__name__
            raise InitError("INIT_COMPONENT_FAILURE", resource, why, reason="init") from error
        return loaded

    async def _metadata(self, resource: ComponentResource, secrets: Secrets | None) -> dict[str, str]:
        metadata = await self._resolver.resolve(
            resource.metadata, store=secrets, namespace=resource.namespace, owner=resource.label
        )
        if category(resource) == "pubsub":
            _consumer(metadata, self._app_id)
        if self._strict_sandbox and resource.type.lower() in ("bindings.wasm", "middleware.http.wasm"):
            for key in [key for key in metadata if key.lower() == "strictsandbox"]:
                del metadata[key]
            metadata["strictSandbox"] = "true"
        return metadata

    def _construct(self, resource: ComponentResource, metadata: Mapping[str, str]) -> Component:
        if category(resource) not in CATEGORIES:
            raise InitError("INIT_COMPONENT_FAILURE", resource, f"incorrect type {resource.type}")
        context = Context(
            name=resource.name,
            app_id=self._app_id,
            namespace=self._environment.namespace_raw,
            data_dir=self._data_dir,
        )
        if resource.type.lower().endswith(".python"):
            from pillion.sidecar import python_files  # brings the interfaces of all kinds with it

            if python_files.means(resource):
                written: Component = python_files.construct(resource, metadata, context)
                return written
        entry = self._catalogue.find(resource.type, resource.version)
        if entry is None:
            block, _, name = resource.type.partition(".")
            hint = self._catalogue.near(resource.type, resource.version)
            what = f"couldn't find {block} {name}/{resource.version}" + (f" ({hint})" if hint else "")
            raise InitError("CREATE_COMPONENT_FAILURE", resource, what)
        component: Component = construct(entry, metadata, context, where=resource.where)
        return component

    def _describe(self, loaded: Loaded) -> None:
        """Work out prefixes and scopes; raises `ConfigError`."""
        kind, app_id = category(loaded.resource), self._app_id
        if kind == "state":
            namespace = self._environment.namespace_raw
            loaded.prefix = KeyPrefix.for_component(
                loaded.metadata, component=loaded.name, app_id=app_id, namespace=namespace
            )
        elif kind == "lock":
            loaded.prefix = KeyPrefix.for_lock(loaded.metadata, component=loaded.name, app_id=app_id)
        elif kind == "pubsub":
            loaded.scopes = TopicScopes.parse(loaded.metadata, app_id)
            for entry in loaded.scopes.ignored:
                log.warning("component %s: the scope %r restricts nobody (write app=topic1,topic2)", loaded.name, entry)

    @staticmethod
    async def _open(resource: ComponentResource, component: Component) -> None:
        with logs.component(resource.label):
            try:
                async with asyncio.timeout(resource.init_timeout_s) as limit:
                    await component.open()
            except TimeoutError as error:
                if not limit.expired():
                    raise
                what = f"init timeout for component {resource.name} exceeded after {resource.init_timeout_s:g}s"
                notes = getattr(error.__cause__, "__notes__", ())  # what the component says that it waited for
                raise ComponentError(": ".join((what, *notes))) from error


def category(resource: ComponentResource) -> str:
    """Return the part of the type before the first dot, in lower case."""
    return resource.type.partition(".")[0].lower()


def _sealing(resource: ComponentResource, metadata: dict[str, str], secrets: Secrets | None) -> Sealing | None:
    if category(resource) != "state":
        return None
    try:
        return sealing_of(resource, metadata, refers=secrets is not None)
    except ConfigError as error:
        raise InitError("INIT_COMPONENT_FAILURE", resource, error) from error


def _consumer(metadata: dict[str, str], app_id: str) -> None:
    """Give a broker its consumer group: `consumerID` trimmed, or the app id."""
    given = next((key for key in metadata if key.lower() == "consumerid"), "")
    value = metadata.pop(given, "").strip() if given else ""
    metadata["consumerID"] = value or app_id


async def close(loaded: Loaded) -> bool:
    """Close a component; return whether it went well. A failure is logged."""
    try:
        with logs.component(loaded.resource.label):
            await loaded.component.close()
    except Exception:
        log.exception("component %s could not be closed", loaded.resource.label)
        return False
    return True
