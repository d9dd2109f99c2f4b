"""One sidecar, from its options to its end. Several live in one process on one loop.

This is the place where everything is wired; it reads from top to bottom in the order of spec `runtime.md` 1.4, and the
order matters: the APIs answer before the application is there, because applications want their secrets and
configuration before they open their port.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from pillion.app.health import port_open, watch
from pillion.blocks.health import Readiness
from pillion.kinds.names import Instance
from pillion.net import listen
from pillion.observe import logs
from pillion.resiliency.builtin import BuiltIn
from pillion.resiliency.current import CurrentPolicies
from pillion.resiliency.policies import Policies
from pillion.sidecar import address, checks, configuration, environment, load, pluggable
from pillion.sidecar.catalogue import Catalogue
from pillion.sidecar.components import LINGER_S, Components, followers
from pillion.sidecar.endpoints import Endpoints
from pillion.sidecar.listening import Listening
from pillion.sidecar.live import Live
from pillion.sidecar.naming import Naming
from pillion.sidecar.pipelines import Pipelines
from pillion.sidecar.reload import FEATURE, TARGETS, Reload, Running
from pillion.sidecar.schedulers import Schedulers
from pillion.sidecar.surface import Surface
from pillion.sidecar.telemetry import Telemetry
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillion.app.health import CountProbe
    from pillion.kinds.config import Configuration
    from pillion.kinds.jobs import Scheduler
    from pillion.kinds.resources import ComponentResource
    from pillion.observe.meters import ResiliencyMeter
    from pillion.sidecar.environment import Environment
    from pillion.sidecar.flags import Options

log = logging.getLogger("pillion.sidecar")
LISTENER_GRACE_S = 10.0
"""How long open HTTP connections may go on once the sidecar stops (spec `http-api.md` 1)."""
QUIESCE_SHARE = 0.6
"""How much of the grace period messages on their way may take; the rest is for streams, connections and components."""
FAREWELL_S = 0.5
"""How long clients at work may go on asking, and hear that their connection ends, when a successor takes over."""
FORCED = 1
RUNTIME = "runtime"


class Sidecar:
    """A sidecar. `start` returns when its APIs answer; `ended` resolves with an exit code when it has ended.

    `components` are loaded before those of the resource folders: the defaults of `pillion run`. `names` is the resolver
    used when the configuration names none. `data_dir` is the folder of the shared registry and of default stores.
    `restart` starts this sidecar anew when a file changes that is read at start only; None: nobody can. `doors` are
    what it listens on, shared with a successor. `scheduler` is one in this process, its owner's to close; None: those
    of `--scheduler-host-address`.
    """

    def __init__(
        self,
        options: Options,
        environment: Environment,
        *,
        data_dir: str = "",
        components: Sequence[ComponentResource] = (),
        names: str = "mdns",
        restart: Callable[[], None] | None = None,
        doors: listen.Doors | None = None,
        scheduler: Scheduler | None = None,
    ) -> None:
        loop = asyncio.get_running_loop()
        self.options = options
        self.app_id = options.app_id
        self.environment = environment
        self.http_port = options.dapr_http_port
        self.grpc_port = options.dapr_grpc_port
        self.internal_port = 0
        self.inbound = Readiness()
        self.outbound = Readiness()
        self.ended: asyncio.Future[int] = loop.create_future()
        self._data_dir = data_dir
        self._defaults = tuple(components)
        self._default_names = names
        self._tasks = Tasks(f"sidecar {options.app_id}")
        self._stack = AsyncExitStack()
        self._restart = restart
        self._doors = listen.Doors() if doors is None else doors
        self._scheduler = scheduler
        self._reload: Reload | None = None
        self._surface: Surface | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._lingering: asyncio.Task[None] | None = None
        self._unwell = asyncio.Event()
        self._following = False
        self._is_up = False
        self._code = 0
        self._began = loop.time()

    # -- start

    async def start(self) -> None:
        """Start in the specified order. Raises `ConfigError`, `CannotListen` or `InitError` and leaves nothing open."""
        with logs.of_app(self.app_id):
            try:
                await self._start()
            except BaseException:
                await self.stop()
                raise

    async def _start(self) -> None:
        options = self.options
        checks.check(options, self.environment)
        self.internal_port = address.internal_port(self.app_id, options.dapr_internal_grpc_port)
        host = options.advertised_address or address.host_address(self.environment)
        self.environment = self.environment.including(
            environment.own_variables(options, internal_port=self.internal_port, host_address=host)
        )
        config = self._configuration()
        telemetry = Telemetry(options, config, self.environment)
        self._stack.push_async_callback(telemetry.close)
        await telemetry.open(self.inbound)
        meters = telemetry.meters
        self._reload = self._watch_files() if config.enabled(FEATURE) else None
        resources = self._resources()
        for warning in resources.warnings:
            log.warning("%s", warning)

        catalogue = Catalogue.installed()
        naming = Naming()
        self._stack.push_async_callback(naming.close)
        await naming.open(
            catalogue, config.name_resolution,
            default="kubernetes" if options.mode == "kubernetes" else self._default_names,
            app_id=self.app_id, namespace=self.environment.namespace_raw, data_dir=self._data_dir,
        )  # fmt: skip
        for entry in await pluggable.discover(self.environment.sockets_folder):
            catalogue.add(entry)
        policies = CurrentPolicies(*_policies(resources, meters.resiliency))
        live = Live(policies)
        pipelines = Pipelines(config)
        components = Components(
            app_id=self.app_id,
            environment=self.environment,
            data_dir=self._data_dir,
            kubernetes=options.mode == "kubernetes",
            actors=bool(options.placement_host_address),
            deny=config.components_deny,
            strict_sandbox=config.wasm_strict_sandbox,
            catalogue=catalogue,
            changed=followers(live.component_changed, pipelines.component_changed),
            witness=meters.components,
            linger_s=LINGER_S,
        )
        pipelines.replacing = components.replacing.__contains__
        self._stack.push_async_callback(components.close)
        await components.open((*self._defaults, *resources.components))
        pipelines.warn()

        endpoints = Endpoints(self.app_id, self.environment, components)
        await endpoints.replace(resources.http_endpoints)
        schedulers = Schedulers(options, self._scheduler, self._tasks, self.inbound)
        self._stack.push_async_callback(schedulers.close)
        surface = Surface(
            options,
            self.environment,
            config,
            components=components,
            live=live,
            policies=policies,
            endpoints=endpoints.found,
            resolver=naming.resolver,
            host=host,
            internal_port=self.internal_port,
            inbound=self.inbound,
            outbound=self.outbound,
            stop=self.request_stop,
            meters=meters,
            tracer=telemetry.tracer,
            pipelines=pipelines,
            scheduler=schedulers.scheduler,
            schedulers=schedulers.connected,
            data_dir=self._data_dir,
        )
        self._surface = surface
        if surface.channel is not None:
            surface.channel.starting = True
        self._stack.push_async_callback(surface.close, LISTENER_GRACE_S)
        await surface.declare(resources.subscriptions)
        for target in (RUNTIME, *(TARGETS if self._reload is not None else ())):
            self.inbound.expect(target)
        self.outbound.expect(RUNTIME)
        ports = await Listening(options, self._doors, self._stack).open(surface, self.internal_port)
        self.http_port, self.grpc_port, self.internal_port = ports.http, ports.grpc, ports.internal
        await naming.announce(self._instance(host))
        surface.facts.mcp_servers = surface.engines.mcp_servers
        await surface.engines.open(
            f"{host}:{self.internal_port}",
            environment=self.environment,
            retry=lambda: policies.retry(BuiltIn.INITIALIZATION),
            servers=resources.mcp_servers,
            access=resources.workflow_access_policies,
            fail=self.fail,
        )
        self.outbound.ready(RUNTIME)
        self._is_up = True
        if self._reload is not None:

            def resilience(changed: load.Resources) -> None:
                policies.replace(*_policies(changed, meters.resiliency))
                live.policies_changed()

            running = Running(
                components, surface.declare, endpoints.replace, resilience, surface.engines.declare,
                surface.engines.follow, self._restart, self.fail,
            )  # fmt: skip
            self._reload.follow(resources, config, running, self.inbound)
        self._tasks.keep(partial(self._follow_application, surface, meters.probe), "following the application")

    def _resources(self) -> load.Resources:
        return load.load(self.options.resources_path, app_id=self.app_id, namespace=self.environment.namespace_raw)

    def _watch_files(self) -> Reload:
        options, environment = self.options, self.environment
        watch = Reload(
            options.resources_path,
            options.config,
            read=self._resources,
            configure=lambda: configuration.read(options.config, environment).configuration,
            every_s=options.hot_reload_reconcile_interval,
            always=self._defaults,
        )
        self._stack.push_async_callback(watch.close)
        watch.open()
        return watch

    def _configuration(self) -> Configuration:
        found = configuration.read(self.options.config, self.environment)
        for warning in found.warnings:
            log.warning("%s", warning)
        return found.configuration

    def _instance(self, host: str) -> Instance:
        """What others shall know of this sidecar."""
        return Instance(
            self.app_id,
            self.environment.namespace,
            host.strip("[]"),
            self.internal_port,
            self.http_port,
            self.options.app_port,
        )

    # -- the application

    async def _follow_application(self, surface: Surface, count: CountProbe | None) -> None:
        """Wait for the application's port, then follow its health: subscriptions run while it is well.

        Until then calls of others that cannot reach it take another instance, or are tried again.
        """
        options, channel = self.options, surface.channel
        if channel is not None:
            await port_open(channel)
            channel.starting = False
        again, self._following = self._following, True
        if again:
            await surface.application(False)  # how far the last change came is not known
        else:
            took_ms = (asyncio.get_running_loop().time() - self._began) * 1000
            log.info("dapr initialized. Status: Running. Init Elapsed %dms", took_ms)
        self.inbound.ready(RUNTIME)
        if channel is None or not options.enable_app_health_check:
            await surface.application(True)
            return

        async def changed(healthy: bool) -> None:
            if not healthy:
                self._unwell.set()
            elif self._lingering is None:
                self._unwell.clear()
            await surface.application(healthy)

        self._unwell.set()
        await watch(
            channel,
            path=options.app_health_check_path,
            interval_s=options.app_health_probe_interval,
            timeout_s=options.app_health_probe_timeout / 1000,
            threshold=options.app_health_threshold,
            changed=changed,
            count=count,
        )

    # -- end

    @property
    def running(self) -> bool:
        """Whether it has started and nobody has asked it to stop."""
        return self._is_up and self._stopping is None and self._lingering is None

    def request_stop(self, force: bool = False, *, gently: bool = False) -> None:
        """Begin to stop and return at once; `ended` resolves with 0, or with 1 at once when forced.

        `gently`: a successor takes over, and no client shall notice.
        """
        if gently and self._surface is not None:
            self._surface.farewell_s = FAREWELL_S
        if force:
            self._end(FORCED)
        elif self._stopping is None:
            self._stopping = asyncio.get_running_loop().create_task(self._stop())

    def request_late_stop(self) -> None:
        """Begin to stop as a signal asks: messages now, the rest after `--dapr-block-shutdown-duration` where given."""
        block_s = self.options.dapr_block_shutdown_duration
        if block_s is None or not self._is_up:
            self.request_stop()
        elif self._lingering is None:
            self._lingering = self._tasks.start(self._linger(block_s), "blocking the shutdown")

    async def _linger(self, block_s: float) -> None:
        """Serve the APIs until the time is over or the application is unwell; take no messages meanwhile."""
        assert self._surface is not None
        log.info("Blocking shutdown for %gs or until app reports unhealthy...", block_s)
        if self._reload is not None:
            await self._reload.close()
        ending = self._tasks.start(self._surface.end_messages(block_s), "ending messages")
        try:
            async with asyncio.timeout(block_s):
                await self._unwell.wait()
            log.info("App reported unhealthy, entering shutdown...")
        except TimeoutError:
            log.info("Block shutdown period expired, entering shutdown...")
        self.request_stop()
        await ending

    def fail(self, error: Exception) -> None:
        """Stop in order because of `error`, and end with 1."""
        log.critical("Fatal error from runtime: %s", error)
        self._code = FORCED
        self.request_stop()

    async def end_messages(self) -> None:
        """Deliver no further messages and events, for good, and return when the application has answered those that are
        with it, or its time is over: it may end then, and none fails for that.
        """
        if self.running and self._surface is not None:
            if self._reload is not None:
                await self._reload.close()
            grace_s = self.options.dapr_graceful_shutdown_seconds
            await self._surface.end_messages(grace_s * QUIESCE_SHARE if grace_s else LISTENER_GRACE_S)

    async def release(self) -> None:
        """The application is about to end, and no message is with it: its actors come to their end, and hear of it."""
        if self.running and self._surface is not None:
            grace_s = self.options.dapr_graceful_shutdown_seconds or LISTENER_GRACE_S
            await self._surface.release(grace_s * (1 - QUIESCE_SHARE))

    async def stop(self) -> None:
        """Stop in order: no new messages, those on their way, then APIs, names and components. May be called again."""
        self.request_stop()
        assert self._stopping is not None
        await asyncio.shield(self._stopping)

    async def _stop(self) -> None:
        """The grace period bounds all of it; beyond that the process is told to end as it is."""
        code = self._code
        grace_s = self.options.dapr_graceful_shutdown_seconds or None
        with logs.of_app(self.app_id):
            self.inbound.unready(RUNTIME)
            try:
                async with asyncio.timeout(grace_s) as limit:
                    if self._reload is not None:
                        await self._reload.close()
                    if self._surface is not None:
                        await self._surface.quiesce(LISTENER_GRACE_S if grace_s is None else grace_s * QUIESCE_SHARE)
                    await self._tasks.close()
                    await self._stack.aclose()
            except TimeoutError:
                if not limit.expired():
                    raise
                log.critical("Graceful shutdown timeout exceeded, forcing shutdown")
                code = FORCED
            except Exception as error:
                log.critical("Fatal error from runtime: %s", error, exc_info=error)
                code = FORCED
            else:
                if self._is_up and not code:
                    log.info("Daprd shutdown gracefully")
        self._end(code)

    def _end(self, code: int) -> None:
        if not self.ended.done():
            self.ended.set_result(code)

    def __repr__(self) -> str:
        return (
            f"<Sidecar {self.app_id}, HTTP {self.http_port}, gRPC {self.grpc_port}, missing: {self.inbound.missing()}>"
        )


def _policies(resources: load.Resources, meter: ResiliencyMeter | None) -> tuple[Policies, list[str]]:
    """Return the policies of the resources, and the names of these; what is wrong with them is logged, and that they
    make up faults too.
    """
    policies = Policies.of(resources.resiliencies, resources.fault_injections, meter=meter)
    if meter is not None:
        for resource in resources.resiliencies:
            meter.loaded(resource.name, resource.namespace)
    for note in policies.notes:
        log.warning("%s", note)
    for name in policies.injections:
        log.warning("FAULT INJECTION IS ON: FaultInjection %s makes calls fail on purpose", name)
    return policies, [resource.name for resource in resources.resiliencies]
