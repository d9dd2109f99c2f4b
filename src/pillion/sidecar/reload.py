"""Hot reload: what runs follows the files (spec `runtime.md` 2.8).

`changes` and `one_actor_store` are the pure part: what is loaded and what is wanted in, what to do out. `Reload` is
the driver: it hears of writes, reads everything again and acts - removals first, then changes, then what is new.
Components, Subscriptions, HTTPEndpoints, MCPServers and Resiliency change while requests go on; a Configuration is what
the sidecar was composed by and needs a restart, in order.
Knows: what counts as a change, and which mistake ends the sidecar. Never knows: how a part is changed.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from pillion.components.file_watch import FileWatch, FolderWatch
from pillion.errors import ConfigError
from pillion.kinds.resources import Resource
from pillion.records import record
from pillion.sidecar.load import Unreadable
from pillion.sidecar.loading import InitError, category
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from pillion.blocks.health import Readiness
    from pillion.kinds.config import Configuration
    from pillion.kinds.resources import (
        ComponentResource,
        HTTPEndpointResource,
        MCPServerResource,
        SubscriptionResource,
        WorkflowAccessPolicyResource,
    )
    from pillion.sidecar.components import Components
    from pillion.sidecar.load import Resources

log = logging.getLogger("pillion.sidecar.reload")
FEATURE = "HotReload"
DEBOUNCE_S = 0.005
"""Writes that follow each other so fast are one."""
PATIENCE_S = 0.1
"""How long writes that never pause may put off the reading."""
TARGETS = (
    "component-reconciler", "subscription-reconciler", "configuration-sighup-reconciler",
    "httpendpoint-sighup-reconciler", "resiliency-sighup-reconciler", "mcpserver-reconciler",
)  # fmt: skip
"""Health targets (spec 1.7), named as the reference names them though most need no signal here."""
R = TypeVar("R", bound=Resource)


@record
class Changes(Generic[R]):
    """What to do, in this order."""

    gone: tuple[str, ...] = ()
    changed: tuple[R, ...] = ()
    new: tuple[R, ...] = ()


def changes(loaded: Mapping[str, R], wanted: Mapping[str, R]) -> Changes[R]:
    """Return how to get from what is loaded to what is wanted; equal resources need nothing."""
    return Changes(
        gone=tuple(name for name in loaded if name not in wanted),
        changed=tuple(wanted[name] for name in loaded if name in wanted and wanted[name] != loaded[name]),
        new=tuple(resource for name, resource in wanted.items() if name not in loaded),
    )


def marked(resource: ComponentResource) -> bool:
    """Whether this is a state store that speaks of `actorStateStore`, whatever it says."""
    return category(resource) == "state" and any(item.name.lower() == "actorstatestore" for item in resource.metadata)


def one_actor_store(
    loaded: Mapping[str, ComponentResource], wanted: Mapping[str, ComponentResource]
) -> tuple[dict[str, ComponentResource], list[str]]:
    """Return what is wanted with one marked state store at most, and the names of those that were put off.

    The one that is loaded stays the one; a component that is put off keeps what it was, or stays out.
    """
    candidates = [name for name, resource in wanted.items() if marked(resource)]
    chosen = next((name for name in candidates if name in loaded and marked(loaded[name])), *candidates[:1] or ("",))
    put_off = [name for name in candidates if name != chosen and wanted[name] != loaded.get(name)]
    kept = {name: resource for name, resource in wanted.items() if name not in put_off}
    return kept | {name: loaded[name] for name in put_off if name in loaded}, put_off


class FollowServers(Protocol):
    """Begins to make the loaded MCP servers the wanted ones; `complete` tries again what failed."""

    def __call__(self, resources: Sequence[MCPServerResource], *, complete: bool = False) -> None: ...


@record
class Running:
    """What is changed. `restart` starts the sidecar anew and in order, None where nobody can; `fail` ends it."""

    components: Components
    declare: Callable[[Sequence[SubscriptionResource]], Awaitable[None]]
    endpoints: Callable[[Sequence[HTTPEndpointResource]], Awaitable[None]]
    policies: Callable[[Resources], None]
    access: Callable[[Sequence[WorkflowAccessPolicyResource]], None]
    servers: FollowServers
    restart: Callable[[], None] | None
    fail: Callable[[Exception], None]


class Reload:
    """Follows `folders` of resources and `files` of the configuration, and compares everything each `every_s` seconds.

    `read` and `configure` read the files; they block and are called in a thread. `always` are components that no file
    defines; a file may redefine one.
    """

    def __init__(
        self,
        folders: Sequence[str],
        files: Sequence[str],
        *,
        read: Callable[[], Resources],
        configure: Callable[[], Configuration],
        every_s: float,
        always: Sequence[ComponentResource] = (),
    ) -> None:
        self._watches: list[FolderWatch | FileWatch] = [FolderWatch(folder, self._hear) for folder in folders]
        self._watches += [FileWatch(file, self._hear) for file in files]
        self._read, self._configure, self._every_s = read, configure, every_s
        self._always = {resource.name: resource for resource in always}
        self._tried: dict[str, ComponentResource] = {}
        self._put_off: list[str] = []
        self._stirred = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._latest = 0.0
        self._tasks = Tasks("hot reload")

    def open(self) -> None:
        """Begin to listen: before the first reading, so that no write falls between the two."""
        for watch in self._watches:
            watch.open()

    def follow(
        self, resources: Resources, configuration: Configuration, running: Running, readiness: Readiness
    ) -> None:
        """Act on every change from now on; `resources` and `configuration` are what runs. Runs until `close`."""
        self._seen, self._configuration, self._running, self._readiness = resources, configuration, running, readiness
        self._tried = {resource.name: resource for resource in resources.components}
        self._tasks.keep(self._follow, "following the files")
        for target in TARGETS:
            readiness.ready(target)

    async def close(self) -> None:
        """Stop; what is being changed right now is left where it is. May be called twice."""
        if self._timer is not None:
            self._timer.cancel()
        await self._tasks.close()
        for watch in self._watches:
            await watch.close()

    # -- when

    def _hear(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        if self._timer is None:
            self._latest = now + PATIENCE_S
        else:
            self._timer.cancel()
        self._timer = loop.call_at(min(now + DEBOUNCE_S, self._latest), self._stir)

    def _stir(self) -> None:
        self._timer = None
        self._stirred.set()

    async def _follow(self) -> None:
        while True:
            complete = False
            try:
                async with asyncio.timeout(self._every_s):
                    await self._stirred.wait()
            except TimeoutError:
                complete = True
            self._stirred.clear()
            before = self._seen, self._configuration
            try:
                over = await self._pass(complete)
            except (ConfigError, InitError) as error:
                self._fail(error)
                return
            except Exception:
                # What has not been acted on is still to be found.
                self._seen, self._configuration = before
                self._stirred.set()
                raise
            if over:
                return

    def _fail(self, error: Exception) -> None:
        for target in TARGETS:
            self._readiness.unready(target)
        self._running.fail(error)

    # -- what

    async def _pass(self, complete: bool) -> bool:
        """Read everything and act; return whether a restart makes an end of this. Raises what ends the sidecar."""
        try:
            resources = await asyncio.to_thread(self._read)
        except Unreadable as error:
            log.error("the resources are left as they are: %s", error)
            return False
        before, self._seen = self._seen, resources
        for warning in resources.warnings:
            if warning not in before.warnings:
                log.warning("%s", warning)
        if await self._configuration_changed():
            if self._running.restart is not None:
                log.info("Configuration changed: starting anew")
                self._running.restart()
                return True
            log.warning("Configuration changed: that takes effect when this sidecar is started again")
        if (resources.resiliencies, resources.fault_injections) != (before.resiliencies, before.fault_injections):
            self._running.policies(resources)
            log.info("Resiliency changed: there are %d", len(resources.resiliencies))
        if resources.workflow_access_policies != before.workflow_access_policies:
            self._running.access(resources.workflow_access_policies)
            log.info("WorkflowAccessPolicies changed: there are %d", len(resources.workflow_access_policies))
        await self._components(resources.components, complete)
        if resources.http_endpoints != before.http_endpoints:
            await self._running.endpoints(resources.http_endpoints)
            log.info("HTTPEndpoints changed: there are %d", len(resources.http_endpoints))
        if resources.subscriptions != before.subscriptions:
            try:
                await self._running.declare(resources.subscriptions)
            except ConfigError as error:
                log.error("the subscriptions are left as they are: %s", error)
        # Always, for a secret may have changed though no resource did.
        self._running.servers(resources.mcp_servers, complete=complete)
        return False

    async def _configuration_changed(self) -> bool:
        """Read the configuration; one with a mistake counts as no change."""
        try:
            configuration = await asyncio.to_thread(self._configure)
        except ConfigError as error:
            log.error("the configuration is left as it is: %s", error)
            return False
        before, self._configuration = self._configuration, configuration
        return configuration != before

    async def _components(self, resources: Iterable[ComponentResource], complete: bool) -> None:
        """Make what is loaded what is wanted; what failed before is tried again when it changed, or every so often."""
        components = self._running.components
        wanted = self._always | {resource.name: resource for resource in resources if not components.denied(resource)}
        loaded = components.resources()
        wanted, put_off = one_actor_store(loaded, wanted)
        for name in put_off:
            if name not in self._put_off:
                log.error("component %s is put off: there is another state store for actors", name)
        self._put_off = put_off
        todo = changes(loaded, wanted)
        tried, self._tried = self._tried, wanted
        for name in todo.gone:
            log.info("component %s was removed", name)
            await components.remove(name)
        for resource in sorted(todo.changed, key=marked):  # one that is the actors' store no more, first
            log.info("component %s has changed", resource.label)
            await components.update(resource)
        for resource in sorted(todo.new, key=lambda one: category(one) != "secretstores"):
            if complete or tried.get(resource.name) != resource:
                await components.add(resource)
