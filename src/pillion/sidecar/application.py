"""The way to the application, as the options of a sidecar describe it.

Knows: flags, protocols, what the metadata API tells of them. Never knows: what is asked of the application.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.app.channel import AppChannel
from pillion.app.grpc_topics import GrpcTopics
from pillion.app.topics import HttpTopics
from pillion.blocks.metadata import AppConnection
from pillion.net import tls
from pillion.net.grpc_client import Channel
from pillion.net.h2_client import H2Client
from pillion.net.http_client import HttpClient
from pillion.wire.durations import render_duration

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.app.channel import HttpTransport
    from pillion.kinds.topics import TopicsOfApp
    from pillion.net.exchange import ClientStream, GrpcChannel, Metadata
    from pillion.net.middleware import Pipeline
    from pillion.observe.meters import Meters
    from pillion.peers.proxy import OpenApp
    from pillion.resiliency.machine import Retry
    from pillion.sidecar.environment import Environment
    from pillion.sidecar.flags import Options

HEAD_SLACK = 64
"""Response heads of the application may be this many times longer than request heads are allowed to be."""


def channel_of(
    options: Options, environment: Environment, meters: Meters, pipeline: Pipeline | None
) -> AppChannel | None:
    """The way to the application, None when no port is given."""
    if options.app_port <= 0:
        return None
    host, port, protocol = options.app_channel_address, options.app_port, options.app_protocol
    secure = protocol in ("https", "grpcs")
    http: HttpTransport | None = None
    grpc: GrpcChannel | None = None
    if protocol in ("grpc", "grpcs"):
        context = tls.unverified_client_context(alpn=("h2",)) if secure else None
        grpc = Channel(f"{host}:{port}", tls=context, max_receive=no_limit(options.max_body_size))
    elif protocol == "h2c":
        http = H2Client(f"{host}:{port}")
    else:
        context = tls.unverified_client_context() if secure else None
        http = HttpClient(host, port, tls=context, max_head=options.read_buffer_size * HEAD_SLACK)
    return AppChannel(
        protocol, http=http, grpc=grpc, token=environment.app_api_token, limit=options.app_max_concurrency,
        address=host, port=port, pipeline=pipeline, meter_http=meters.http_client, meter_grpc=meters.grpc_client,
    )  # fmt: skip


def opener(channel: AppChannel | None) -> OpenApp | None:
    """Return what opens calls of a gRPC application for proxying, None when there is none."""
    if channel is None or channel.grpc is None:
        return None
    opened = channel

    def open_app(method: str, metadata: Metadata, timeout_s: float | None) -> ClientStream:
        return opened.stream(method, metadata=metadata, timeout_s=timeout_s)

    return open_app


def topics_of(channel: AppChannel | None, app_id: str, retry: Callable[[], Retry]) -> TopicsOfApp | None:
    """Return whom messages are delivered to, None without an application."""
    if channel is None:
        return None
    return HttpTopics(channel, app_id, retry=retry) if channel.http is not None else GrpcTopics(channel, retry=retry)


def no_limit(size: int) -> int:
    """A body size of 0 or less means no limit; a message still has to fit into 32 bits."""
    return size if size > 0 else 2**31 - 1


def connection(options: Options) -> AppConnection:
    """Return what the metadata API tells of the application."""
    if not options.enable_app_health_check:
        return AppConnection(
            options.app_port, options.app_protocol, options.app_channel_address, max(options.app_max_concurrency, 0)
        )
    http = options.app_protocol not in ("grpc", "grpcs")
    return AppConnection(
        options.app_port,
        options.app_protocol,
        options.app_channel_address,
        max(options.app_max_concurrency, 0),
        health_path=options.app_health_check_path if http else "",
        health_interval=render_duration(options.app_health_probe_interval),
        health_timeout=render_duration(options.app_health_probe_timeout / 1000),
        health_threshold=options.app_health_threshold,
    )
