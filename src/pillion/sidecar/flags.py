"""Every flag of `pilliond`, one field each: name, type, default, environment and help come from the row.

Knows: the flags (spec `runtime.md` 1.1). Never knows: which values go together (`checks.py`) and what is done with
them. The parser, the usage and `docs/flags.md` all walk these rows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from pillion.records import record
from pillion.sidecar import arguments
from pillion.sidecar.arguments import Kind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


LEVELS = ("debug", "info", "warn", "error", "fatal")
PROTOCOLS = ("http", "https", "h2c", "grpc", "grpcs")
INIT_ENDPOINTS = ("config", "subscribe")
_MIB = 1 << 20
_KIB = 1 << 10
_BODY, _HEADERS = 4 * _MIB, 4 * _KIB
_INT32 = 2**31 - 1
N = TypeVar("N", int, float)


_flag = arguments.option
_T, _L, _B, _D = Kind.TEXT, Kind.LIST, Kind.BOOL, Kind.DURATION


@record
class Options:
    """The command line, read and resolved: deprecated spellings are folded in, out-of-range numbers have become their
    defaults. Durations are seconds unless the name says otherwise, sizes are bytes.
    """

    mode: str = _flag(
        _T, "standalone", "where the sidecar runs: standalone or kubernetes, which so far asks no operator"
    )
    app_id: str = _flag(_T, "", "the application's id; needed in standalone mode, must not contain a dot")
    app_port: int = _flag(
        Kind.PORT_OR_ZERO, 0, "port the application listens on; none: the application is never called"
    )
    app_protocol: str = _flag(_T, "http", "protocol of the application: " + ", ".join(PROTOCOLS))
    app_ssl: bool = _flag(_B, False, "call the application with TLS", deprecated="use --app-protocol https or grpcs")
    app_channel_address: str = _flag(_T, "127.0.0.1", "host the application listens on")
    app_max_concurrency: int = _flag(Kind.INT, -1, "calls of the application in flight at once; 0 or less: no limit")
    dapr_http_port: int = _flag(Kind.PORT, 3500, "port of the HTTP API")
    dapr_grpc_port: int = _flag(Kind.PORT, 50001, "port of the gRPC API")
    dapr_listen_addresses: tuple[str, ...] = _flag(
        Kind.PARTS, (), "addresses the APIs listen on, separated by commas; none: all interfaces"
    )
    dapr_internal_grpc_port: int = _flag(
        Kind.PORT_OR_ZERO, 0, "port for other sidecars; 0: a stable one derived from app id, folder, user and host"
    )
    dapr_internal_grpc_listen_address: str = _flag(
        _T, "", "address the internal port listens on; empty: all interfaces"
    )
    dapr_public_port: int | None = _flag(
        Kind.PORT_OR_NONE, None, "port of a second HTTP listener with health and metadata alone; empty: off"
    )
    dapr_public_listen_address: str = _flag(_T, "", "address the public port listens on; empty: all interfaces")
    unix_domain_socket: str = _flag(_T, "", "directory of Unix sockets that replace the TCP ports of both APIs")
    max_body_size: int = _flag(Kind.QUANTITY, _BODY, "largest request body or gRPC message; 0: no limit", shown="4Mi")
    dapr_http_max_request_size: int = _flag(
        Kind.INT, -1, "largest request body in MB", shown="", deprecated="use --max-body-size"
    )
    read_buffer_size: int = _flag(Kind.QUANTITY, _HEADERS, "largest head of an HTTP request", shown="4Ki")
    dapr_http_read_buffer_size: int = _flag(
        Kind.INT, -1, "largest head of an HTTP request in KB", shown="", deprecated="use --read-buffer-size"
    )
    resources_path: tuple[str, ...] = _flag(_L, (), "directory of resource files; may be repeated")
    components_path: str = _flag(_T, "", "directory of resource files", deprecated="use --resources-path")
    config: tuple[str, ...] = _flag(
        _L, (), "configuration file (merged in order), or in kubernetes mode the name of one Configuration"
    )
    control_plane_address: str = _flag(_T, "", "address of the operator (kubernetes). No effect yet")
    control_plane_trust_domain: str = _flag(
        _T, "localhost", "trust domain of the control plane", environment="DAPR_CONTROLPLANE_TRUST_DOMAIN"
    )
    control_plane_namespace: str = _flag(
        _T, "default", "namespace of the control plane", environment="DAPR_CONTROLPLANE_NAMESPACE"
    )
    sentry_address: str = _flag(_T, "", "address of the certificate authority. No effect yet")
    sentry_request_jwt_audiences: tuple[str, ...] = _flag(
        _L, (), "audiences of the JWT asked of the certificate authority; none: the trust domain. No effect yet"
    )
    enable_mtls: bool = _flag(
        _B, False, "mutual TLS between sidecars; needs DAPR_TRUST_ANCHORS. No effect yet, and a warning"
    )
    placement_host_address: tuple[str, ...] = _flag(
        Kind.PARTS, (), "addresses of the placement service, separated by commas; none: no actors"
    )
    actors_service: str = _flag(
        _T, "", "actor service as kind:addresses", deprecated="use --placement-host-address", hidden=True
    )
    reminders_service: str = _flag(
        _T,
        "",
        "reminder service as kind:addresses",
        deprecated="reminders live in the scheduler; it has no effect",
        hidden=True,
    )
    scheduler_host_address: tuple[str, ...] = _flag(
        _L, (), "addresses of the scheduler service; may be repeated", environment="DAPR_SCHEDULER_HOST_ADDRESS_DNS_A"
    )
    scheduler_job_streams: int = _flag(Kind.UINT, 3, "streams of jobs kept open to each scheduler")
    actors_disseminate_timeout: float = _flag(_D, 30.0, "longest wait for one round of actor placement", shown="30s")
    hot_reload_reconcile_interval: float = _flag(
        _D, 60.0, "time between two complete comparisons of the resources with what is loaded", shown="1m0s"
    )
    app_binding_options_timeout: float = _flag(
        _D, 3.0, "longest wait for the application's answer whether it takes a binding", shown="3s"
    )
    disable_init_endpoints: tuple[str, ...] = _flag(
        _L, (), "application endpoints not asked at start: " + ", ".join(INIT_ENDPOINTS)
    )
    allowed_origins: tuple[str, ...] = _flag(
        Kind.PARTS, (), "origins that browsers may call from, separated by commas, * for all; none: no CORS"
    )
    enable_api_logging: bool | None = _flag(_B, None, "log every API call; unset: as the configuration says")
    enable_app_health_check: bool = _flag(_B, False, "probe the application's health")
    app_health_check_path: str = _flag(_T, "/healthz", "path of the probe, for HTTP applications")
    app_health_probe_interval: int = _flag(Kind.INT, 5, "seconds between probes")
    app_health_probe_timeout: int = _flag(Kind.INT, 500, "milliseconds a probe may take")
    app_health_threshold: int = _flag(Kind.INT, 3, "failed probes in a row that make the application unhealthy")
    dapr_graceful_shutdown_seconds: int = _flag(Kind.INT, 5, "seconds a shutdown may take; 0: no limit")
    dapr_block_shutdown_duration: float | None = _flag(
        _D, None, "keep the APIs up this long, or until the application is unhealthy, after a signal to stop"
    )
    disable_builtin_k8s_secret_store: bool = _flag(
        _B, False, "do without the built-in secret store of Kubernetes. No effect: there is none yet"
    )
    enable_profiling: bool = _flag(_B, False, "open the profiling port")
    profile_port: int = _flag(Kind.PORT, 7777, "the profiling port")
    enable_metrics: bool = _flag(_B, True, "open the metrics port")
    metrics_port: int = _flag(Kind.PORT, 9090, "the metrics port")
    metrics_listen_address: str = _flag(_T, "0.0.0.0", "address the metrics port listens on")
    log_level: str = _flag(_T, "info", "least level that is logged: " + ", ".join(LEVELS))
    log_as_json: bool = _flag(_B, False, "log one JSON object a line")
    log_file: str = _flag(_T, "", "append the log to this file; empty: standard output")
    version: bool = _flag(_B, False, "print the version and exit")
    build_info: bool = _flag(_B, False, "print version and commit and exit")
    wait: bool = _flag(_B, False, "wait until a sidecar on the HTTP port can serve outbound calls, then exit")
    warnings: tuple[str, ...] = ()
    """What the command line deserves to be told about; not a flag."""

    def socket_path(self, api: str) -> str:
        """Return the Unix socket of `api` ("http" or "grpc"); empty when TCP is used."""
        return f"{self.unix_domain_socket}/dapr-{self.app_id}-{api}.socket" if self.unix_domain_socket else ""

    @property
    def advertised_address(self) -> str:
        """The loopback address to tell others when the internal port listens on nothing else; empty: ask the host."""
        address = self.dapr_internal_grpc_listen_address
        return address if address in ("127.0.0.1", "localhost", "[::1]") else ""


FLAGS = arguments.rows_of(Options)


class HelpWanted(Exception):
    """`--help` was given: show `usage()` and end with status 0."""


def usage(program: str = "pilliond") -> str:
    """Return the text of `--help`."""
    return arguments.usage(program, FLAGS)


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Options:
    """Read `argv` (without the program's name).

    Raises `HelpWanted`, `UsageError` (status 2) and `ConfigError` (status 1). What needs more than one value to judge
    is judged by `check`, because `--version` asks for none of it.
    """
    said = arguments.read(FLAGS, argv, environ)
    if said.help:
        raise HelpWanted
    values = {name.replace("-", "_"): value for name, value in said.values.items()}
    return _resolved(Options(**values, warnings=tuple(said.warnings)), said.given)


def _resolved(said: Options, given: frozenset[str]) -> Options:
    """Fold deprecated spellings into their successors and put numbers that mean "the default" right."""
    body, headers = said.max_body_size, said.read_buffer_size
    if "max-body-size" not in given and "dapr-http-max-request-size" in given:
        body = _scaled(said.dapr_http_max_request_size, _MIB)
    if "read-buffer-size" not in given and "dapr-http-read-buffer-size" in given:
        headers = _scaled(said.dapr_http_read_buffer_size, _KIB)
    protocol = said.app_protocol.lower() or "http"
    if said.app_ssl:
        protocol = {"http": "https", "grpc": "grpcs"}.get(protocol, protocol)
    placement = said.placement_host_address
    kind, _, addresses = said.actors_service.partition(":")
    if not placement and kind == "placement":
        placement = arguments.parts(addresses)
    threshold = said.app_health_threshold
    return replace(
        said,
        max_body_size=_BODY if body == -1 else max(body, 0),
        read_buffer_size=_HEADERS if headers <= 0 else headers,
        resources_path=said.resources_path or ((said.components_path,) if said.components_path else ()),
        app_protocol=protocol,
        placement_host_address=placement,
        disable_init_endpoints=tuple(name.strip().lower() for name in said.disable_init_endpoints),
        app_health_probe_interval=_positive(said.app_health_probe_interval, 5),
        app_health_probe_timeout=_positive(said.app_health_probe_timeout, 500),
        app_health_threshold=threshold if 1 <= threshold <= _INT32 else 3,
        dapr_graceful_shutdown_seconds=5
        if said.dapr_graceful_shutdown_seconds < 0
        else said.dapr_graceful_shutdown_seconds,
        hot_reload_reconcile_interval=_positive(said.hot_reload_reconcile_interval, 60.0),
        app_binding_options_timeout=_positive(said.app_binding_options_timeout, 3.0),
        log_level=said.log_level.lower(),
    )


def _scaled(count: int, unit: int) -> int:
    return -1 if count == -1 else count * unit


def _positive(number: N, otherwise: N) -> N:
    return number if number > 0 else otherwise
