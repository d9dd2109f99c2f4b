"""Do the options make sense together, and with the environment? (spec `runtime.md` 1.2)

Knows: what cannot work, and how to mend it. Never knows: how the options were read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.errors import ConfigError
from pillion.sidecar.flags import INIT_ENDPOINTS, LEVELS, PROTOCOLS

if TYPE_CHECKING:
    from pillion.sidecar.environment import Environment
    from pillion.sidecar.flags import Options


def check(said: Options, environment: Environment) -> None:
    """Raise `ConfigError` for the first thing that cannot work; its text says how to mend it."""
    for test in (_check_identity, _check_application, _check_ports, _check_numbers, _check_security):
        test(said, environment)


def unserved(said: Options) -> list[str]:
    """Return what the command line asks for and this version does not do, one text for each: it starts all the same."""
    found = []
    if said.enable_mtls:
        found.append("--enable-mtls has no effect yet: calls between sidecars are neither encrypted nor authenticated")
    if said.mode == "kubernetes":
        found.append("--mode kubernetes: resources and configuration are read from files, the operator is not asked")
    idle = {
        "--sentry-address": said.sentry_address,
        "--sentry-request-jwt-audiences": said.sentry_request_jwt_audiences,
        "--control-plane-address": said.control_plane_address,
        "--disable-builtin-k8s-secret-store": said.disable_builtin_k8s_secret_store,
    }
    return [*found, *(f"{flag} has no effect yet" for flag, value in idle.items() if value)]


def _check_identity(said: Options, environment: Environment) -> None:
    if said.mode not in ("standalone", "kubernetes"):
        raise ConfigError(f"invalid mode: {said.mode!r}", where="--mode", mend="use standalone or kubernetes")
    if said.mode == "standalone" and not said.app_id:
        raise ConfigError("the app id is missing", where="--app-id", mend="name the application: --app-id orders")
    if "." in said.app_id:
        mend = f"write {said.app_id.replace('.', '-')!r} instead"
        raise ConfigError(f"parameter app-id cannot contain '.': {said.app_id!r}", where="--app-id", mend=mend)
    if said.log_level not in LEVELS:
        raise ConfigError(f"unknown level {said.log_level!r}", where="--log-level", mend="use " + ", ".join(LEVELS))


def _check_application(said: Options, environment: Environment) -> None:
    if said.app_protocol not in PROTOCOLS:
        mend = "use " + ", ".join(PROTOCOLS)
        raise ConfigError(f"unknown protocol {said.app_protocol!r}", where="--app-protocol", mend=mend)
    for name in said.disable_init_endpoints:
        if name not in INIT_ENDPOINTS:
            mend = "use " + " or ".join(INIT_ENDPOINTS)
            raise ConfigError(f"unknown endpoint {name!r}", where="--disable-init-endpoints", mend=mend)
    timeout_ms, interval_s = said.app_health_probe_timeout, said.app_health_probe_interval
    if timeout_ms > interval_s * 1000:
        raise ConfigError(
            f"a probe may take {timeout_ms}ms, and the next one starts after {interval_s}s",
            where="--app-health-probe-timeout",
            mend="make the timeout (milliseconds) no longer than --app-health-probe-interval (seconds)",
        )


def _check_ports(said: Options, environment: Environment) -> None:
    for flag, port in (("--dapr-http-port", said.dapr_http_port), ("--dapr-grpc-port", said.dapr_grpc_port)):
        if said.app_port == port:
            what = f"the app port ({said.app_port}) and the port of {flag} must differ"
            mend = "give one of them another port" if port else f"give {flag} a port of its own, or give --app-port"
            raise ConfigError(what, where="--app-port", mend=mend)


def _check_numbers(said: Options, environment: Environment) -> None:
    if said.scheduler_job_streams < 1:
        raise ConfigError("there must be at least one stream", where="--scheduler-job-streams", mend="leave it at 3")
    if said.actors_disseminate_timeout <= 0:
        raise ConfigError("must be longer than zero", where="--actors-disseminate-timeout", mend="write it like 30s")


def _check_security(said: Options, environment: Environment) -> None:
    if not said.control_plane_trust_domain:
        mend = "name it or leave the flag out: the default is localhost"
        raise ConfigError("the trust domain is empty", where="--control-plane-trust-domain", mend=mend)
    if said.enable_mtls and not environment.trust_anchors:
        mend = "put the PEM of the root certificates into DAPR_TRUST_ANCHORS"
        raise ConfigError("trust anchors are required", where="--enable-mtls", mend=mend)
    if environment.sentry_token_file == "":
        raise ConfigError("is set but empty", where="DAPR_SENTRY_TOKEN_FILE", mend="unset it or name a file")
    if said.mode == "kubernetes" and environment.user == 0 and not environment.root_allowed:
        mend = "run as another user, or set DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK=true"
        raise ConfigError("refuses to run as root in kubernetes mode", mend=mend)
