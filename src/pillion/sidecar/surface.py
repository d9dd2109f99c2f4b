"""The blocks of one sidecar, the APIs they are served by, and the channel to its application.

Built once, when everything it needs is loaded; afterwards the composition stays: components come and go in the live
registries that the blocks hold. Reads from top to bottom.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial
from typing import TYPE_CHECKING

from pillion import REFERENCE_VERSION
from pillion.api.allow import GrpcRules, HttpRules
from pillion.app.bindings import bindings_of
from pillion.app.jobs import AppJobs
from pillion.blocks import reserved
from pillion.blocks.bindings import BindingsBlock, Outputs
from pillion.blocks.configuration import ConfigurationBlock
from pillion.blocks.conversation import ConversationBlock
from pillion.blocks.crypto import CryptoBlock
from pillion.blocks.health import HealthBlock
from pillion.blocks.holding import Holdings
from pillion.blocks.input_bindings import InputBindings
from pillion.blocks.invoke import InvokeBlock
from pillion.blocks.jobs import JobsBlock
from pillion.blocks.lock import LockBlock
from pillion.blocks.metadata import ComponentRow, Facts, MetadataBlock
from pillion.blocks.outbox import Outbox
from pillion.blocks.publish import PublishBlock
from pillion.blocks.secrets import SecretsBlock
from pillion.blocks.state import StateBlock
from pillion.blocks.streaming import StreamingBlock
from pillion.blocks.subscriptions import Subscriptions
from pillion.blocks.subtle import SubtleBlock
from pillion.net.grpc_client import Channel
from pillion.net.grpc_extras import HEALTH, Health, reflection_methods
from pillion.net.grpc_server import GrpcOptions
from pillion.net.h2_driver import Keepalive
from pillion.net.h2_pool import PoolOptions
from pillion.net.h2_server import H2Server, ServerOptions
from pillion.net.http_server import HttpServer
from pillion.observe.binding_delivery import TracedBindings
from pillion.observe.delivery import TracedTopics
from pillion.observe.grpc_meters import CountedChannel
from pillion.observe.job_meters import JobMeter
from pillion.observe.logs import ApiLog
from pillion.peers.client import PeerClient
from pillion.peers.endpoints import External
from pillion.peers.pool import Pool
from pillion.peers.proxy import Proxy
from pillion.peers.resolve import Directory
from pillion.resiliency.builtin import BuiltIn
from pillion.security import acl
from pillion.security.scopes import SecretScopes
from pillion.serve.closed import OpenMethods, no_fallback
from pillion.serve.grpc import GrpcApi
from pillion.serve.http import HttpApi, HttpSettings
from pillion.serve.internal import InternalService
from pillion.serve.public import PublicApi
from pillion.serve.tracing import traced_proxy
from pillion.sidecar import application
from pillion.sidecar.engines_off import EnginesOff
from pillion.sidecar.ground import Ground
from pillion.sidecar.holding import holding_for
from pillion.sidecar.loading import category
from pillion.sidecar.scheduling import Scheduling
from pillion.tasks import Tasks
from pillion.wire.h2_limits import Limits

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pillion.blocks.health import Readiness
    from pillion.kinds.config import Configuration
    from pillion.kinds.jobs import Scheduler
    from pillion.kinds.names import Resolver
    from pillion.kinds.resources import SubscriptionResource
    from pillion.net.exchange import GrpcChannel
    from pillion.observe.meters import AccessMeter, Meters
    from pillion.observe.tracing import Tracer
    from pillion.peers.endpoints import Endpoint
    from pillion.peers.resolve import Target
    from pillion.resiliency.current import CurrentPolicies
    from pillion.serve.internal import Authorize
    from pillion.sidecar.components import Components, Loaded
    from pillion.sidecar.engines import Engines
    from pillion.sidecar.environment import Environment
    from pillion.sidecar.flags import Options
    from pillion.sidecar.live import Live
    from pillion.sidecar.pipelines import Pipelines

log = logging.getLogger("pillion.sidecar")
PEER_POOL = PoolOptions(connect_timeout_s=30.0, keepalive=Keepalive(ping_after_s=10.0, idle_s=180.0, always=True))
"""Towards other sidecars: pings also without calls, connections kept for three idle minutes (spec `grpc-api.md` 1)."""
OFFERED = ("dapr.proto.runtime.v1.Dapr", "TaskHubSidecarService", "pillion.state.v1.State", HEALTH)
INTERNAL = ("dapr.proto.internals.v1.ServiceInvocation",)
LAST_TURNS_SHARE = 0.75
"""How much of the time in which actors end their turns may take; the rest is for telling the application."""
HEADER_LIST = 16
"""A header list of HTTP/2 may be so many times longer than a head of HTTP/1.1: metadata carries more."""


class Surface:
    """Everything between the loaded components and the listeners.

    `inbound` and `outbound` are what the health block answers; `stop(force)` begins the sidecar's end.
    `schedulers` are the addresses of those behind `scheduler`.
    """

    def __init__(
        self,
        options: Options,
        environment: Environment,
        config: Configuration,
        *,
        components: Components,
        live: Live,
        policies: CurrentPolicies,
        endpoints: Mapping[str, Endpoint],
        resolver: Resolver | None,
        host: str,
        internal_port: int,
        inbound: Readiness,
        outbound: Readiness,
        stop: Callable[[bool], None],
        meters: Meters,
        tracer: Tracer | None,
        pipelines: Pipelines,
        scheduler: Scheduler,
        schedulers: Callable[[], Sequence[str]],
        data_dir: str = "",
    ) -> None:
        app_id, namespace = options.app_id, environment.namespace

        # To the application, to other sidecars, to servers outside.
        self.channel = application.channel_of(options, environment, meters, pipelines.app)
        channel = self.channel
        self._external = External(
            endpoints, max_head=options.read_buffer_size * application.HEAD_SLACK, pipeline=pipelines.app,
            retry=lambda: policies.retry(BuiltIn.SERVICE),
        )  # fmt: skip
        self._directory = Directory(resolver)

        def dial(address: str, target: Target) -> GrpcChannel:
            opened = Channel(address, max_receive=application.no_limit(options.max_body_size), options=PEER_POOL)
            return opened if meters.grpc_client is None else CountedChannel(opened, meters.grpc_client)

        pool = Pool(dial)
        self._peers = PeerClient(
            app_id, namespace, self._directory, pool, host_address=host, host_name=socket.gethostname(),
            retry=lambda: policies.retry(BuiltIn.SERVICE), meter=meters.peers,
        )  # fmt: skip
        authorize = _authorize(config, options.app_protocol, meters.access)
        proxy = Proxy(
            app_id, namespace, lambda: application.opener(channel), self._peers, policies=policies, authorize=authorize,
            endpoints=endpoints,
        )  # fmt: skip

        passed_on = traced_proxy(proxy.serve, tracer) if tracer is not None else proxy.serve

        # Messages to the application.
        topics = application.topics_of(channel, app_id, lambda: policies.retry(BuiltIn.INITIALIZATION))
        if topics is not None and tracer is not None:
            topics = TracedTopics(topics, tracer)
        self.subscriptions = Subscriptions(
            live.brokers, topics, ask="subscribe" not in options.disable_init_endpoints, meter=meters.pubsub
        )
        self._streaming = StreamingBlock(live.brokers, self.subscriptions, meter=meters.pubsub, tracer=tracer)

        # Messages from the application, at once or later.
        self._holdings = Holdings(f"{namespace}||{app_id}", live.brokers, lambda broker: holding_for(broker, data_dir))
        publish = PublishBlock(app_id, live.brokers, meter=meters.pubsub, tracer=tracer, holdings=self._holdings)

        # Events of transactions, from their internal topics to public ones.
        self._outbox = Outbox(app_id, namespace, live.states, live.brokers)
        live.outbox_changed = self._outbox.changed

        # Bindings, both ways.
        outputs = Outputs(live.bindings, timed=meters.of("output_binding"))
        taker = bindings_of(channel, timeout_s=options.app_binding_options_timeout)
        if taker is not None and tracer is not None:
            taker = TracedBindings(taker, tracer)
        self._inputs = InputBindings(live.bindings, taker, outputs, timed=meters.of("input_binding"))
        live.binding_changed = self._inputs.changed
        live.changed = self._broker_changed
        components.leaving = self._component_leaving
        self._tasks = Tasks("following the brokers")
        self.farewell_s = 0.0

        # Jobs, and reminders for whoever hosts actors.
        jobs = None
        if channel is not None:
            meter = JobMeter(meters.registry) if meters.registry is not None else None
            jobs = AppJobs(channel, meter=meter, tracer=tracer).deliver
        self.scheduling = Scheduling(scheduler, app_id, namespace, jobs=jobs)

        # Actors, of the application and of the sidecar itself: workflows.
        ground = Ground(
            options=options, config=config, namespace=namespace, channel=channel, components=components,
            policies=policies, scheduler=scheduler, scheduling=self.scheduling, pool=pool, readiness=inbound,
            meters=meters, tracer=tracer, address=f"{host}:{internal_port}",
        )  # fmt: skip
        self.engines: Engines | EnginesOff
        if options.placement_host_address:
            from pillion.sidecar.engines import Engines

            self.engines = Engines(ground)
        else:
            self.engines = EnginesOff(ground)
        live.actors_changed = self.engines.component_changed

        # The blocks and their rows.
        self._configuration = ConfigurationBlock(
            live.configurations, lambda: channel, live.updates, timed=meters.of("configuration")
        )
        crypto_timed = meters.of("crypto")
        invoke = InvokeBlock(app_id, namespace, lambda: channel, self._peers, self._external, policies)
        self.facts = facts = Facts(
            app_id,
            REFERENCE_VERSION,
            features=config.features,
            components=lambda: [
                ComponentRow(loaded.name, loaded.type, loaded.version, loaded.capabilities)
                for loaded in components.all.values()
            ],
            subscriptions=self.subscriptions.rows,
            http_endpoints=lambda: list(endpoints),
            resiliencies=lambda: policies.names,
            schedulers=schedulers,
            actors=self.engines.facts,
            workflows=self.engines.workflow_facts,
            extended=lambda: policies.notes,
            app=application.connection(options) if channel is not None else None,
        )
        metadata = MetadataBlock(facts).operations()
        health = HealthBlock(app_id, inbound, outbound, stop).operations()
        operations = [
            *StateBlock(app_id, live.states, timed=meters.of("state"), outbox=self._outbox).operations(),
            *publish.operations(),
            *self._streaming.operations(),
            *self._configuration.operations(),
            *LockBlock(live.locks).operations(),
            *CryptoBlock(live.cryptos, timed=crypto_timed).operations(),
            *SubtleBlock(live.cryptos, timed=crypto_timed).operations(),
            *ConversationBlock(live.conversations, timed=meters.of("conversation")).operations(),
            *BindingsBlock(outputs).operations(),
            *JobsBlock(app_id, namespace, scheduler).operations(),
            *SecretsBlock(live.secrets, SecretScopes.of(config.secret_scopes), timed=meters.of("secret")).operations(),
            *self.engines.operations(),
            *invoke.operations(),
            *metadata,
            *health,
        ]
        operations += reserved.operations(operations)

        # The APIs.
        log_calls = config.api_logging.enabled if options.enable_api_logging is None else options.enable_api_logging
        api_log = (
            ApiLog(
                obfuscate_urls=config.api_logging.obfuscate_urls,
                omit_health_checks=config.api_logging.omit_health_checks,
            )
            if log_calls
            else None
        )
        tracing = config.tracing.sampling_rate != "0"
        settings = HttpSettings(
            api_token=environment.api_token,
            origins=options.allowed_origins or None,
            tracing=tracing,
            api_log=api_log,
            pipeline=pipelines.http,
            metered=meters.http_server,
            tracer=tracer,
            count_error=meters.errors,
        )
        routes = HttpRules(config.api_allowed, config.api_denied)
        methods = GrpcRules(config.api_allowed, config.api_denied)
        offered = routes.offered(operations) if routes else operations
        http = HttpApi(offered, settings, invoke.http if routes.invocation else no_fallback(offered))
        grpc = GrpcApi(
            operations,
            proxy=passed_on,
            api_token=environment.api_token,
            tracing=tracing,
            api_log=api_log,
            meter=meters.grpc_server,
            tracer=tracer,
            count_error=meters.errors,
            extras={**reflection_methods(OFFERED), **Health().methods()},
        )
        internal = InternalService(
            lambda: channel,
            proxy=passed_on,
            authorize=authorize,
            further={**reflection_methods(INTERNAL), **self.engines.methods()},
            meter=meters.peers,
            tracer=tracer,
        )

        # The servers.
        size = application.no_limit(options.max_body_size)
        limits = GrpcOptions(max_receive=size, max_send=size)
        server_options = ServerOptions(
            limits=Limits(header_list=options.read_buffer_size * HEADER_LIST),
            grpc=limits,
            max_body=options.max_body_size,
        )
        http2 = H2Server(http=http, options=server_options) if environment.http2_cleartext else None
        self.http_server = HttpServer(
            http,
            max_body=options.max_body_size,
            max_head=options.read_buffer_size,
            h2=http2.take_over if http2 is not None else None,
        )
        self.grpc_server = H2Server(grpc=OpenMethods(grpc, methods) if methods else grpc, options=server_options)
        self.internal_server = H2Server(grpc=internal, options=server_options)
        self.public_server = HttpServer(
            PublicApi([*metadata, *health]), max_body=options.max_body_size, max_head=options.read_buffer_size
        )
        self._h2_servers = [server for server in (self.grpc_server, self.internal_server, http2) if server is not None]

    async def declare(self, resources: Sequence[SubscriptionResource]) -> None:
        """Take the declarative subscriptions; they start when the application is well. Raises `ConfigError`."""
        await self.subscriptions.declare(resources)
        await self._outbox.reconcile()
        self._holdings.resume()

    async def application(self, healthy: bool) -> None:
        """The application became healthy, or unhealthy."""
        if healthy:
            await self.engines.ask()
            await self.subscriptions.app_healthy()
            self._inputs.app_changed(True)
            self.engines.application(True)
            self.scheduling.app_healthy(True)
        else:
            self.scheduling.app_healthy(False)
            self.engines.application(False)
            self._inputs.app_changed(False)
            await self.subscriptions.app_unhealthy()

    def _broker_changed(self, name: str) -> None:
        self._holdings.broker_changed(name)
        self._tasks.keep(partial(self.subscriptions.broker_changed, name), name)

    async def _component_leaving(self, loaded: Loaded) -> None:
        """Messages on their way from a broker arrive before it is closed."""
        if category(loaded.resource) == "state":
            await self.engines.component_leaving(loaded)
        elif category(loaded.resource) == "pubsub":
            await asyncio.gather(
                self.subscriptions.broker_leaving(loaded.name), self._streaming.broker_leaving(loaded.name)
            )

    async def end_messages(self, grace_s: float) -> None:
        """Take no further messages and events, for good; those on their way have `grace_s` seconds."""
        await self._tasks.close()
        await asyncio.gather(
            self._inputs.close(grace_s),
            self._streaming.close(grace_s),
            self.subscriptions.close(grace_s),
            self.scheduling.close(grace_s),
        )
        log.info("no messages are taken any more")

    async def release(self, grace_s: float) -> None:
        """The application is about to end: its actors come to their end first, and hear of it, within `grace_s`
        seconds. The APIs go on.
        """
        try:
            async with asyncio.timeout(grace_s):
                await self.engines.release(grace_s * LAST_TURNS_SHARE)
        except TimeoutError:
            log.warning("actors of the application had not come to their end after %g s", grace_s)

    async def quiesce(self, grace_s: float) -> None:
        """Push nothing to the application any more; what is on its way may be answered, over APIs that still serve."""
        await asyncio.gather(
            self.end_messages(grace_s), self._configuration.close(grace_s), self._outbox.close(grace_s)
        )
        await self.engines.halt()

    async def close(self, grace_s: float) -> None:
        """End the connections: open calls may finish within `grace_s` seconds. With `farewell_s` clients of HTTP/1 that
        are at work hear of it before their connections end.
        """
        for server in self._h2_servers:
            await server.close(grace_s)
        await self.http_server.close(grace_s, farewell_s=self.farewell_s)
        await self.public_server.close(grace_s)
        await self._peers.close()
        await self._external.close()
        await self._holdings.close()
        await self._directory.close()
        if self.channel is not None:
            await self.channel.close()


def _authorize(config: Configuration, protocol: str, meter: AccessMeter | None) -> Authorize | None:
    """What admits calls from other applications, None when nothing could be denied."""
    for doubt in acl.doubts(config.access_control, protocol):
        log.warning("%s", doubt)
    rules = acl.access_rules(config.access_control, protocol)
    return None if rules is None else acl.guard(rules, meter.decided if meter is not None else None)
