"""What every Redis component is told (spec `components.md` 1, row Redis), decoded and checked.

Knows: the metadata fields, addresses and TLS contexts. Never knows: connections.
"""

from __future__ import annotations

import logging
import os
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pillion.errors import ConfigError
from pillion.kinds.component import go_bool, milliseconds, setting, whole

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger("pillion.components.redis")


def _bool(text: str) -> bool:
    return go_bool(text) if text else False


def _optional_ms(text: str) -> float | None:
    """Return seconds, or None for an empty text: the default of the field."""
    return milliseconds(text) if text.strip() else None


def _optional_int(text: str) -> int | None:
    return whole(text) if text.strip() else None


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """Metadata shared by all Redis components. Durations are seconds; negative switches a limit off."""

    redis_host: str = setting(help="host:port; a comma list of nodes (cluster) or sentinels (failover)")
    redis_port: int | None = setting(None, parse=_optional_int, help="port, when redisHost has none")
    redis_username: str = setting("", help="ACL user")
    redis_password: str = setting("", secret=True)
    redis_db: int = setting(0, key="redisDB", aliases=("db",), help="number of the database; 0 in a cluster")
    redis_type: str = setting("node", choices=("node", "cluster"))
    failover: bool = setting(False, parse=_bool, help="ask sentinels for the master")
    sentinel_master_name: str = setting("")
    sentinel_username: str = setting("")
    sentinel_password: str = setting("", secret=True)
    enable_tls: bool = setting(False, key="enableTLS", parse=_bool)
    insecure_skip_tls_verify: bool = setting(False, key="insecureSkipTLSVerify", parse=_bool)
    client_cert: str = setting("", help="PEM text or path")
    client_key: str = setting("", secret=True, help="PEM text or path")
    redis_max_retries: int | None = setting(
        None,
        aliases=("maxRetries",),
        parse=_optional_int,
        help="how often a read is sent again on a new connection",
    )
    redis_min_retry_interval: float | None = setting(
        None, aliases=("maxRetryBackoff",), parse=_optional_ms, help="first pause between attempts to connect"
    )
    redis_max_retry_interval: float | None = setting(None, parse=_optional_ms, help="longest such pause")
    dial_timeout: float | None = setting(None, parse=_optional_ms, help="wait for a connection, 5s")
    read_timeout: float | None = setting(None, parse=_optional_ms, help="longest silence, 3s")
    write_timeout: float | None = setting(None, parse=_optional_ms, help="longest time without reading")
    pool_size: str = setting("", help="no effect: one connection carries all commands")
    pool_timeout: str = setting("", help="no effect")
    min_idle_conns: str = setting("", help="no effect")
    max_conn_age: str = setting("", help="no effect")
    idle_timeout: str = setting("", help="no effect")
    idle_check_frequency: str = setting("", help="no effect")
    use_entra_id: bool = setting(False, key="useEntraID", aliases=("useAzureAD",), parse=_bool, help="not supported")


@dataclass(frozen=True, slots=True)
class Dialing:
    """How connections are made and how long they are waited for, in seconds; None: no limit."""

    username: str
    password: str
    database: int
    tls: ssl.SSLContext | None
    verify_name: bool
    dial_s: float
    read_s: float | None
    write_s: float | None
    retries: int
    first_pause_s: float
    longest_pause_s: float


def dialing(settings: RedisSettings, where: str) -> Dialing:
    """Check what belongs together and fill in defaults; raises `ConfigError`."""
    if settings.use_entra_id:
        raise ConfigError("useEntraID is not supported", where=where, mend="use redisUsername and redisPassword")
    if settings.failover and not settings.sentinel_master_name:
        raise ConfigError("failover needs sentinelMasterName", where=where)
    if settings.failover and settings.redis_type == "cluster":
        raise ConfigError("failover and redisType cluster exclude each other", where=where)
    if settings.redis_type == "cluster" and settings.redis_db:
        raise ConfigError("a cluster has database 0 only", where=where, mend="leave redisDB out")
    if settings.redis_db < 0:
        raise ConfigError(f"redisDB {settings.redis_db} is negative", where=where)
    for name in ("pool_size", "pool_timeout", "min_idle_conns", "max_conn_age", "idle_timeout", "idle_check_frequency"):
        if getattr(settings, name):
            log.info("%s: the setting %s has no effect: one connection carries all commands", where, name)
    read = _limit(settings.read_timeout, 3.0)
    first_pause = _limit(settings.redis_min_retry_interval, 0.05) or 0.0
    return Dialing(
        settings.redis_username,
        settings.redis_password,
        settings.redis_db,
        _tls(settings, where) if settings.enable_tls else None,
        not settings.insecure_skip_tls_verify,
        _limit(settings.dial_timeout, 5.0) or 5.0,
        read,
        _limit(settings.write_timeout, read),
        max(3 if settings.redis_max_retries is None else settings.redis_max_retries, 0),
        min(max(first_pause, 0.01), 10.0),
        max(_limit(settings.redis_max_retry_interval, 1.0) or 1.0, 0.05),
    )


def _limit(given: float | None, default: float | None) -> float | None:
    if given is None or given == 0:
        return default
    return given if given > 0 else None


def addresses(settings: RedisSettings, where: str) -> list[tuple[str, int]]:
    """Return the hosts and ports of `redisHost`; raises `ConfigError`."""
    return list(_addresses(settings, where))


def _addresses(settings: RedisSettings, where: str) -> Iterator[tuple[str, int]]:
    for part in settings.redis_host.split(","):
        host, port = _split(part.strip(), where)
        if port is not None and settings.redis_port not in (None, port):
            raise ConfigError(f"redisHost has port {port} and redisPort is {settings.redis_port}", where=where)
        yield host, port if port is not None else settings.redis_port if settings.redis_port is not None else 6379


def _split(text: str, where: str) -> tuple[str, int | None]:
    host, colon, port = text.rpartition(":")
    if not colon or (":" in host and not host.startswith("[")):  # no port; or a bare IPv6 address
        host, port = text, ""
    host = host.removeprefix("[").removesuffix("]")
    if not host or (port and not (port.isdigit() and 0 < int(port) < 65536)):
        raise ConfigError(f"redisHost {text!r} is not host:port", where=where)
    return host, int(port) if port else None


def _tls(settings: RedisSettings, where: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if settings.insecure_skip_tls_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if bool(settings.client_cert) != bool(settings.client_key):
        raise ConfigError("clientCert and clientKey are given together or not at all", where=where)
    if settings.client_cert:
        try:
            _load(context, settings.client_cert, settings.client_key)
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"clientCert and clientKey cannot be used: {error}", where=where) from error
    return context


def _load(context: ssl.SSLContext, certificate: str, key: str) -> None:
    if "-----BEGIN" not in certificate:
        context.load_cert_chain(certificate, key)
        return
    # Python's ssl reads keys from files only: a file of our own eyes (mkstemp gives mode 0600), gone at once.
    handle, name = tempfile.mkstemp(suffix=".pem")
    try:
        with os.fdopen(handle, "w") as file:
            file.write(certificate.rstrip() + "\n" + key)
        context.load_cert_chain(name)
    finally:
        Path(name).unlink()
