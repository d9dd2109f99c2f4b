"""`consul` name resolution over the HTTP API of an agent (spec `components.md` 9; Consul HTTP API v1).

An instance is a service named as its application; the port of its sidecar is in the service's meta data. Namespaces are
not known to the reference's entries, and are ignored here as well. Answers may be kept, and are then followed by
blocking queries: the agent answers when something has changed.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence  # noqa: TC003 - the types of settings are looked at
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import orjson

from pillion.components.consul_settings import CHECK, SERVICE, WHERE, Client, Query, listing, mapping, spelled
from pillion.components.names_cache import NamesCache
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import setting
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Request
from pillion.net.http_client import HttpClient, HttpError
from pillion.net.middleware import response_body
from pillion.tasks import Tasks
from pillion.wire.addresses import join_host_port

if TYPE_CHECKING:
    from pillion.kinds.component import Context
    from pillion.kinds.names import Instance
    from pillion.net.exchange import Headers

log = logging.getLogger("pillion.components.consul_names")
ANSWER_S = 5.0
"""How long the agent may take, beyond what a query may block."""
WAIT_S = 60.0
"""How long a blocking query blocks where `waitTime` does not say."""
MOST = 8 << 20
"""Bytes of an answer."""
KEEP_S, SHUN_S = 1.0, 5.0
CALM_S = 0.1
"""The least pause between two questions about one application that is followed."""
MOST_FOLLOWED = 256
"""Applications whose instances are followed with `useCache`; what is asked for beyond them is asked each time."""


class ConsulNames:
    """A resolver on an agent of Consul."""

    @dataclass(frozen=True)
    class Settings:
        client: Mapping[str, Any] = setting(
            {}, secret=True, parse=mapping, help="address, scheme, token, tlsConfig of the agent ..."
        )
        self_register: bool = setting(False, help="register this sidecar's application")
        self_deregister: bool = setting(False, help="take the registration back at the end")
        checks: Sequence[Any] = setting(
            [], parse=listing, help="checks of the service, instead of the sidecar's health"
        )
        tags: Sequence[Any] = setting([], parse=listing, help="tags of the service")
        meta: Mapping[str, Any] = setting({}, parse=mapping, help="further meta data of the service")
        query_options: Mapping[str, Any] = setting({}, parse=mapping, help="how it is asked; by default with useCache")
        advanced_registration: Mapping[str, Any] = setting(
            {}, parse=mapping, help="the whole registration, as it is sent"
        )
        dapr_port_meta_key: str = setting("DAPR_PORT", help="key of the sidecar's port in the meta data")
        use_cache: bool = setting(False, help="keep the answers and follow their changes")

        def __post_init__(self) -> None:
            for check in self.checks:
                if not isinstance(check, dict):
                    raise ConfigError("an entry of checks is no mapping", where=WHERE)
                spelled(check, CHECK, "checks")
            spelled(self.advanced_registration, SERVICE, "advancedRegistration")
            Query.read(self.query_options)

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._query = Query.read(settings.query_options)
        self._client: Client | None = None
        self._http: HttpClient | None = None
        self._registered = ""
        self._tasks = Tasks("nameresolution consul")
        self._followed: dict[str, tuple[str, ...]] = {}
        self._cache = NamesCache(self._look_up, keep_s=KEEP_S, shun_s=SHUN_S)

    # -- life

    async def open(self) -> None:
        client = self._client = await asyncio.to_thread(Client.read, self._settings.client)
        self._http = HttpClient(client.host, client.port, tls=client.tls, server_name=client.server_name)
        await self.ping()

    async def ping(self) -> None:
        await self._ask("GET", "/v1/agent/self")

    async def close(self) -> None:
        """Take the registration back where that is wished, and let go of the agent."""
        await self._tasks.close()
        await self._cache.close()
        self._followed.clear()
        registered, self._registered = self._registered, ""
        try:
            if registered and self._settings.self_deregister:
                await self._ask("PUT", f"/v1/agent/service/deregister/{quote(registered, safe='')}")
        except ComponentError as error:
            log.warning("the registration could not be taken back: %s", error)
        http, self._http = self._http, None
        if http is not None:
            await http.close()

    async def register(self, instance: Instance) -> None:
        """Register the service, where `selfRegister` or `advancedRegistration` says so."""
        if not self._settings.self_register and not self._settings.advanced_registration:
            return
        service = self._service(instance)
        await self._ask("PUT", "/v1/agent/service/register", orjson.dumps(service))
        self._registered = str(service.get("ID") or service["Name"])

    def _service(self, instance: Instance) -> dict[str, Any]:
        settings = self._settings
        port = {settings.dapr_port_meta_key: str(instance.internal_port)}
        if settings.advanced_registration:
            given = spelled(settings.advanced_registration, SERVICE, "advancedRegistration")
            return {"Name": instance.app_id, **given, "Meta": {**port, **_texts(given.get("Meta") or {})}}
        if not instance.app_port:
            raise ComponentError("consul: an application without a port cannot be registered (--app-port)")
        service_id = f"{instance.app_id}-{instance.address}-{instance.http_port}"
        health = f"http://{join_host_port(instance.address, instance.http_port)}/v1.0/healthz"
        check = {
            "Name": "Dapr Health Status", "CheckID": f"daprHealth:{service_id}", "Interval": "15s",
            "HTTP": f"{health}?{urlencode({'appid': instance.app_id})}",
        }  # fmt: skip
        return {
            "ID": service_id,
            "Name": instance.app_id,
            "Address": instance.address,
            "Port": instance.app_port,
            "Tags": [str(tag) for tag in settings.tags],
            "Meta": {**_texts(settings.meta), **port},
            "Checks": [spelled(one, CHECK, "checks") for one in settings.checks] or [check],
        }

    # -- answers

    async def resolve(self, app_id: str, namespace: str) -> Sequence[str]:
        followed = self._followed.get(app_id)
        if followed:
            return self._cache.shunned.without((app_id, namespace), followed)
        return await self._cache.get(app_id, namespace)

    def failed(self, app_id: str, namespace: str, address: str) -> None:
        self._cache.failed(app_id, namespace, address)

    async def _look_up(self, app_id: str, namespace: str) -> Sequence[str]:
        addresses, index = await self._healthy(app_id)
        if self._settings.use_cache and app_id not in self._followed and len(self._followed) < MOST_FOLLOWED:
            self._followed[app_id] = addresses
            self._tasks.start(self._follow(app_id, index), f"following {app_id}")
        return addresses

    async def _follow(self, app_id: str, index: int) -> None:
        """Ask again and again, each time until something has changed; ends when the agent fails: then it is asked."""
        try:
            while index > 0:
                self._followed[app_id], following = await self._healthy(app_id, index)
                index = following if following >= index else 0  # it went backwards: begin anew, says the manual
                await asyncio.sleep(CALM_S)
        except ComponentError as error:
            log.warning("the instances of %s are not followed any more: %s", app_id, error)
        finally:
            self._followed.pop(app_id, None)

    async def _healthy(self, app_id: str, index: int = 0) -> tuple[tuple[str, ...], int]:
        """Return the addresses of the instances that pass their checks, and the index of that state."""
        parameters = [("passing", ""), *self._query.parameters]
        if self._client is not None and self._client.datacenter and not any(key == "dc" for key, _ in parameters):
            parameters.append(("dc", self._client.datacenter))
        block_s = 0.0
        if index:
            block_s = (self._client.wait_s if self._client is not None else 0.0) or WAIT_S
            parameters = [pair for pair in parameters if pair[0] != "cached"]  # the agent's cache does not block
            parameters += [("index", str(index)), ("wait", f"{block_s:g}s")]
        target = f"/v1/health/service/{quote(app_id, safe='')}?{urlencode(parameters)}"
        # The agent adds up to a sixteenth of the wait, so that not all questions come at once.
        body, headers = await self._ask("GET", target, answer_s=ANSWER_S + block_s * 17 / 16, token=self._query.token)
        at = next((value for key, value in headers if key == b"x-consul-index"), b"0")
        return _addresses(body, self._settings.dapr_port_meta_key), int(at) if at.isdigit() and len(at) < 20 else 0

    async def _ask(
        self, method: str, target: str, body: bytes = b"", *, answer_s: float = ANSWER_S, token: str = ""
    ) -> tuple[bytes, Headers]:
        """Send one request to the agent; return the answer's body and headers. Raises `ComponentError`."""
        if self._http is None or self._client is None:
            raise ComponentError("consul: the resolver is not open")
        headers = list(self._client.headers)
        if token:
            headers = [pair for pair in headers if pair[0] != b"x-consul-token"] + [(b"x-consul-token", token.encode())]
        what = f"consul: {method} {target.partition('?')[0]}"
        try:
            async with asyncio.timeout(answer_s):
                response = await self._http.request(Request(method, target.encode(), headers, body))
                answer = await response_body(response, MOST)
        except TimeoutError as error:
            raise ComponentError(f"{what}: no answer within {answer_s:g} s") from error
        except (HttpError, OSError, BodyIncomplete, BodyTooLarge) as error:
            raise ComponentError(f"{what}: {error or type(error).__name__}") from error
        if response.status != 200:
            raise ComponentError(f"{what}: {response.status} {answer[:200].decode(errors='replace')}")
        return answer, response.headers

    def __repr__(self) -> str:
        return f"<ConsulNames at {self._http!r}, registered {self._registered!r}>"


def _texts(values: Mapping[str, Any]) -> dict[str, str]:
    """Meta data are texts."""
    return {key: value if isinstance(value, str) else orjson.dumps(value).decode() for key, value in values.items()}


def _addresses(body: bytes, port_key: str) -> tuple[str, ...]:
    """Return the addresses in the answer of /health/service. Raises `ComponentError` for an entry without a port."""
    try:
        found = []
        for entry in orjson.loads(body) or ():
            service = entry["Service"]
            host = service.get("Address") or entry["Node"].get("Address")
            port = (service.get("Meta") or {}).get(port_key)
            if not host:
                raise ComponentError(f"consul: service {service.get('ID')} has no address")
            if not isinstance(port, str) or not re.fullmatch("[0-9]{1,5}", port) or not 0 < int(port) < 65536:
                raise ComponentError(f"consul: service {service.get('ID')} has no port in its meta data as {port_key}")
            found.append(join_host_port(str(host), int(port)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ComponentError(f"consul: an answer that is none of health/service: {error!r}") from error
    return tuple(found)
