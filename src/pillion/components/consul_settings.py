"""What the nested configuration of the `consul` resolver says (spec `components.md` 9), as checked values.

The reference hands it to Consul's own client, whose fields have these names; names match in any case. What is not known
here is an error: an option that has no effect would be believed to have one. Knows: spellings. Never knows: requests.
"""

from __future__ import annotations

import base64
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from pillion.errors import ConfigError
from pillion.kinds.component import go_bool
from pillion.net.tls import client_context, unverified_client_context
from pillion.wire.durations import go_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

WHERE = "nameresolution consul"
PORT = 8500
SERVICE = (
    "ID", "Name", "Tags", "Port", "Address", "SocketPath", "TaggedAddresses", "EnableTagOverride", "Meta", "Weights",
    "Check", "Checks", "Proxy", "Connect", "Kind", "Namespace", "Partition", "Locality",
)  # fmt: skip
CHECK = (
    "CheckID", "Name", "Args", "DockerContainerID", "Shell", "Interval", "Timeout", "TTL", "HTTP", "Header", "Method",
    "Body", "TCP", "TCPUseTLS", "UDP", "Status", "Notes", "TLSServerName", "TLSSkipVerify", "GRPC", "GRPCUseTLS",
    "H2PING", "H2PingUseTLS", "OSService", "AliasNode", "AliasService", "SuccessBeforePassing",
    "FailuresBeforeWarning", "FailuresBeforeCritical", "DeregisterCriticalServiceAfter", "DisableRedirects",
)  # fmt: skip
"""The agent's spelling of the fields of a service and of a check (Consul HTTP API, /agent/service/register)."""
_QUERY = {"datacenter": "dc", "namespace": "ns", "partition": "partition", "near": "near", "filter": "filter"}
_QUERY_FLAGS = {"usecache": "cached", "allowstale": "stale", "requireconsistent": "consistent"}


def document(text: str) -> Any:
    """Return a nested value, which is JSON text by the time a component sees it. Raises ValueError."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"cannot be read: {error}") from error


def mapping(text: str) -> dict[str, Any]:
    """Return a nested mapping. Raises ValueError."""
    found = document(text) if text else {}
    if not isinstance(found, dict):
        raise ValueError("is no mapping")
    return found


def listing(text: str) -> list[Any]:
    """Return a nested list. Raises ValueError."""
    found = document(text) if text else []
    if not isinstance(found, list):
        raise ValueError("is no list")
    return found


def spelled(given: Mapping[str, Any], fields: tuple[str, ...], what: str) -> dict[str, Any]:
    """Return `given` in the agent's spelling. Raises `ConfigError` for a field it does not have."""
    known = {field.lower(): field for field in fields}
    return {_known(key, known, what): value for key, value in given.items()}


@dataclass(frozen=True, slots=True)
class Client:
    """How the agent is reached. `headers` go with every request; `wait_s` is how long a blocking query may block."""

    host: str
    port: int
    tls: ssl.SSLContext | None
    server_name: str | None
    headers: tuple[tuple[bytes, bytes], ...]
    datacenter: str
    wait_s: float

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Client:
        """Check `client`. Raises `ConfigError`; blocks: reads files of tokens and certificates."""
        names = ("address", "scheme", "datacenter", "httpAuth", "waitTime", "token", "tokenFile", "tlsConfig")
        of = _Reader(spelled(given, names, "client"), "client")
        address = of.text("address") or f"127.0.0.1:{PORT}"
        scheme = of.text("scheme") or "http"
        scheme, host, port = _place(address if "://" in address else f"{scheme}://{address}")
        tls = _Reader(spelled(of.nested("tlsConfig"), _TLS, "client.tlsConfig"), "client.tlsConfig")
        secure = scheme == "https"
        return cls(
            host,
            port,
            _context(tls) if secure else None,
            (tls.text("address") or None) if secure else None,
            tuple(_headers(of)),
            of.text("datacenter"),
            of.duration("waitTime"),
        )


_TLS = ("address", "caFile", "caPem", "certFile", "certPem", "keyFile", "keyPem", "insecureSkipVerify")


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for besides the name. `token` takes the place of the client's."""

    parameters: tuple[tuple[str, str], ...]
    token: str

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Query:
        """Check `queryOptions`; nothing given means `useCache`. Raises `ConfigError`."""
        known = {key: key for key in (*_QUERY, *_QUERY_FLAGS, "token")}
        found = {_known(key, known, "queryOptions"): value for key, value in given.items()} or {"usecache": True}
        of = _Reader(found, "queryOptions")
        parameters = [(name, of.text(key)) for key, name in _QUERY.items() if of.text(key)]
        parameters += [(name, "") for key, name in _QUERY_FLAGS.items() if of.flag(key)]
        return cls(tuple(parameters), of.text("token"))


class _Reader:
    """Typed values of one mapping, named in errors as `what`."""

    def __init__(self, values: Mapping[str, Any], what: str) -> None:
        self._values, self._what = values, what

    def text(self, key: str) -> str:
        value = self._values.get(key)
        if value is None:
            return ""
        if not isinstance(value, (str, int, float)):
            raise ConfigError(f"{self._what}.{key} is no text", where=WHERE)
        return str(value).strip()

    def flag(self, key: str) -> bool:
        value = self._values.get(key, False)
        try:
            return value if isinstance(value, bool) else go_bool(str(value))
        except ValueError as error:
            raise ConfigError(f"{self._what}.{key}: {error}", where=WHERE) from error

    def duration(self, key: str) -> float:
        """Seconds; a number without a unit is nanoseconds, as in Go."""
        text = self.text(key)
        try:
            return int(text) / 1e9 if text.isdigit() else go_duration(text or "0s")
        except ValueError as error:
            raise ConfigError(f"{self._what}.{key}: {error}", where=WHERE) from error

    def nested(self, key: str) -> dict[str, Any]:
        value = self._values.get(key)
        if value is None:
            return {}
        if not isinstance(value, dict):
            raise ConfigError(f"{self._what}.{key} is no mapping", where=WHERE)
        return value

    def pem(self, name: str) -> str | None:
        """The text given as `<name>Pem`, or that of the file `<name>File`."""
        text = self.text(f"{name}Pem")
        return text or _file(self.text(f"{name}File"), f"{self._what}.{name}File") or None


def _known(key: str, known: Mapping[str, str], what: str) -> str:
    found = known.get(key.lower())
    if found is None:
        raise ConfigError(f"{what}.{key} is not known", where=WHERE, mend=f"use {', '.join(known.values())}")
    return found


def _place(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port."""
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port or PORT
    except ValueError:
        scheme, host, port = "", "", PORT
    if scheme not in ("http", "https") or not host:
        raise ConfigError(f"client.address {url!r} is no address of an agent", where=WHERE, mend="host:port")
    return scheme, host, port


def _headers(of: _Reader) -> list[tuple[bytes, bytes]]:
    headers = []
    token = of.text("token") or _file(of.text("tokenFile"), "client.tokenFile").strip()
    if token:
        headers.append((b"x-consul-token", token.encode()))
    auth = _Reader(spelled(of.nested("httpAuth"), ("username", "password"), "client.httpAuth"), "client.httpAuth")
    if auth.text("username"):
        pair = f"{auth.text('username')}:{auth.text('password')}".encode()
        headers.append((b"authorization", b"Basic " + base64.b64encode(pair)))
    return headers


def _context(of: _Reader) -> ssl.SSLContext:
    if of.flag("insecureSkipVerify"):
        return unverified_client_context()
    try:
        return client_context(ca_pem=of.pem("ca"), certificate_pem=of.pem("cert"), key_pem=of.pem("key"))
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"client.tlsConfig: {error}", where=WHERE) from error


def _file(path: str, what: str) -> str:
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{what} {path!r} cannot be read: {error}", where=WHERE) from error
