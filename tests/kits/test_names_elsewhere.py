"""Name resolvers that ask a server: Consul against a stub of its agent's HTTP API, DNS, and a mere format."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from consul_agent import Agent
from pillion.components.consul_names import ConsulNames
from pillion.components.kubernetes_names import KubernetesNames
from pillion.components.nameformat_names import NameFormat
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import Context, decode
from pillion.kinds.names import Instance
from pillion.testing.names_kit import NamesKit
from pillion.wire.addresses import split_host_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from pillion.kinds.names import Resolver


@pytest.fixture
def agent() -> Iterator[Agent]:
    with Agent() as running:
        yield running


def consul(agent: Agent, **metadata: object) -> ConsulNames:
    """Return a resolver configured as the Configuration resource would do it: nested values are JSON text."""
    given = {"client": {"address": agent.address}, **metadata}
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in given.items()}
    return ConsulNames(decode(ConsulNames.Settings, texts, where="test"), Context("names"))


def instance(app_id: str, port: int = 50002, app_port: int = 8080) -> Instance:
    return Instance(app_id, "", "127.0.0.1", port, http_port=port, app_port=app_port)


class TestConsul(NamesKit):
    namespaces: ClassVar[bool] = False

    @pytest.fixture(autouse=True)
    def _agent(self, agent: Agent) -> None:
        self.agent = agent

    @contextlib.asynccontextmanager
    async def resolver(self) -> AsyncIterator[Resolver]:
        yield consul(self.agent, selfRegister=True, selfDeregister=True)

    def _instance(self, app_id: str, port: int, namespace: str = "") -> Instance:
        return Instance(app_id, namespace, self.address, port, http_port=port, app_port=8080)


def test_what_is_registered(agent: Agent) -> None:
    """Name, id, port of the application, port of the sidecar in the meta data, health of the sidecar (spec 9)."""

    async def run() -> None:
        names = consul(agent, selfRegister=True, tags=["a"], meta={"k": "v"})
        await names.open()
        await names.register(instance("my app"))
        await names.close()

    asyncio.run(run())
    assert agent.services == {
        "my app-127.0.0.1-50002": {
            "ID": "my app-127.0.0.1-50002",
            "Name": "my app",
            "Address": "127.0.0.1",
            "Port": 8080,
            "Tags": ["a"],
            "Meta": {"k": "v", "DAPR_PORT": "50002"},
            "Checks": [
                {
                    "Name": "Dapr Health Status",
                    "CheckID": "daprHealth:my app-127.0.0.1-50002",
                    "Interval": "15s",
                    "HTTP": "http://127.0.0.1:50002/v1.0/healthz?appid=my+app",
                }
            ],
        }
    }


def test_a_registration_of_ones_own(agent: Agent) -> None:
    """`advancedRegistration` and `checks` in any spelling reach the agent in its own."""

    async def run() -> None:
        names = consul(agent, advancedRegistration={"name": "x", "port": 1, "meta": {"DAPR_PORT": 7}})
        await names.open()
        await names.register(instance("app", app_port=0))
        assert await names.resolve("x", "") == ("10.9.9.9:7",)
        await names.close()
        names = consul(agent, selfRegister="true", checks=[{"checkId": "c", "http": "http://h", "interval": "1s"}])
        await names.open()
        await names.register(instance("y"))
        await names.close()

    asyncio.run(run())
    assert agent.services["x"] == {"Name": "x", "Port": 1, "Meta": {"DAPR_PORT": "7"}}
    assert agent.services["y-127.0.0.1-50002"]["Checks"] == [{"CheckID": "c", "HTTP": "http://h", "Interval": "1s"}]


def test_nothing_is_registered_unasked(agent: Agent) -> None:
    """Nor is an application without a port, nor taken back what was not to be."""

    async def run() -> None:
        names = consul(agent)
        await names.open()
        await names.register(instance("app"))
        await names.close()
        names = consul(agent, selfRegister=True)
        await names.open()
        with pytest.raises(ComponentError, match="--app-port"):
            await names.register(instance("app", app_port=0))
        await names.close()

    asyncio.run(run())
    assert agent.services == {}


def test_what_is_asked(agent: Agent) -> None:
    """By default healthy instances, from the agent's cache; a token and further options as they are configured."""
    agent.token = "hush"

    async def run(**metadata: object) -> None:
        names = consul(agent, **metadata)
        try:
            await names.open()
            with pytest.raises(ComponentError, match="couldn't find service: a/b"):
                await names.resolve("a/b", "")
        finally:
            await names.close()

    client = {"Address": agent.address, "token": "hush"}
    asyncio.run(run(client=client))
    assert agent.asked[-1] == "/v1/health/service/a%2Fb?passing=&cached="
    options = {"useCache": False, "datacenter": "dc2", "requireConsistent": True, "filter": "Service.Port > 1"}
    asyncio.run(run(client=client, queryOptions=options))
    assert agent.asked[-1] == "/v1/health/service/a%2Fb?passing=&dc=dc2&filter=Service.Port+%3E+1&consistent="
    with pytest.raises(ComponentError, match="403 Permission denied"):
        asyncio.run(run())


def test_followed_with_use_cache(agent: Agent) -> None:
    """The second answer costs no request, and a change is known without anybody asking for it."""

    async def run() -> None:
        one, other = consul(agent, selfRegister=True), consul(agent, useCache=True)
        await one.open()
        await other.open()
        await one.register(instance("app", 50001))
        assert await other.resolve("app", "") == ("127.0.0.1:50001",)
        await one.register(instance("app", 50002))
        async with asyncio.timeout(90):
            while len(await other.resolve("app", "")) < 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)  # another thread's state
        assert all("index=" in target for target in agent.asked if "/health/" in target and "cached" not in target)
        await other.close()
        await one.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("metadata", "says"),
    [
        ({"client": {"adress": "x"}}, "client.adress is not known"),
        ({"client": {"address": "unix:///x"}}, "is no address"),
        ({"client": {"address": "[::1"}}, "is no address"),
        ({"client": {"tokenFile": "/no/such/file"}}, "cannot be read"),
        ({"client": {"scheme": "https", "tlsConfig": {"caPem": "nonsense"}}}, "client.tlsConfig"),
        ({"client": "{"}, "cannot be read"),
        ({"client": []}, "is no mapping"),
        ({"tags": {}}, "is no list"),
        ({"checks": ["x"]}, "is no mapping"),
        ({"checks": [{"htp": "x"}]}, "checks.htp is not known"),
        ({"queryOptions": {"useCache": "perhaps"}}, "queryOptions.usecache"),
        ({"queryOptions": {"waitIndex": 1}}, "queryOptions.waitIndex is not known"),
        ({"advancedRegistration": {"nme": 1}}, "advancedRegistration.nme is not known"),
    ],
)
def test_wrong_configuration(agent: Agent, metadata: dict[str, Any], says: str) -> None:
    async def run() -> None:
        names = consul(agent, **metadata)
        try:
            await names.open()
        finally:
            await names.close()

    with pytest.raises(ConfigError, match=says):
        asyncio.run(run())


@pytest.mark.parametrize(
    "answer", [b"{", b"{}}", b'[{"Service": 1}]', b"[1]", b'[{"Service": {"ID": "s"}, "Node": {}}]']
)
def test_answers_that_are_none(agent: Agent, answer: bytes) -> None:
    """What the agent says is not believed: an entry without an address or a port is an error."""
    agent.answer = lambda target, body: (200, answer)  # type: ignore[method-assign]

    async def run() -> None:
        names = consul(agent)
        await names.open()
        try:
            await names.resolve("app", "")
        finally:
            await names.close()

    with pytest.raises(ComponentError, match="consul: "):
        asyncio.run(run())


def kubernetes(**metadata: str) -> KubernetesNames:
    return KubernetesNames(decode(KubernetesNames.Settings, metadata, where="test"), Context("names"))


def test_names_in_a_cluster() -> None:
    assert kubernetes().name_of("app", "ns") == "app-dapr.ns.svc.cluster.local:50002"
    assert kubernetes(clusterDomain="here").name_of("app", "") == "app-dapr.default.svc.here:50002"
    own = kubernetes(template="{{ .ID }}.{{.Namespace}}.internal:{{- .Port -}}")
    assert own.name_of("app", "ns") == "app.ns.internal:50002"
    with pytest.raises(ConfigError, match=r"\{\{if \.ID\}\} is not known"):
        kubernetes(template="{{if .ID}}x")


def test_dns_is_asked() -> None:
    """All addresses of the name, with the port that sidecars of a cluster share; an unknown name is not found."""

    async def run() -> None:
        names = kubernetes(template="{{.ID}}")
        with pytest.raises(ComponentError, match="not open"):
            await names.resolve("localhost", "")
        await names.open()
        await names.ping()
        await names.register(Instance("me", "", "127.0.0.1", 50123))
        assert "127.0.0.1:50123" in await names.resolve("localhost", "")
        names.failed("localhost", "", "127.0.0.1:50123")
        with pytest.raises(ComponentError, match="couldn't find service: nobody"):
            await names.resolve("nobody.invalid", "")
        with pytest.raises(ComponentError, match="has no host"):
            await names.resolve("a b", "")
        await names.close()
        await names.close()

    asyncio.run(run())


def test_a_format() -> None:
    async def run(format_: str) -> list[str]:
        names = NameFormat(decode(NameFormat.Settings, {"format": format_}, where="test"), Context("names"))
        with pytest.raises(ComponentError, match="not open"):
            await names.resolve("app", "")
        await names.open()
        await names.ping()
        await names.register(Instance("me", "", "127.0.0.1", 50007))
        with pytest.raises(ComponentError, match="empty"):
            await names.resolve("", "")
        found = list(await names.resolve("app", ""))
        names.failed("app", "", found[0])
        await names.close()
        return found

    assert asyncio.run(run("{appid}.internal:5000")) == ["app.internal:5000"]
    assert asyncio.run(run("x-{appid}-{appid}")) == ["x-app-app:50007"]
    for wrong in ("", "host:1", "{appid}:port", "http://{appid}:1"):
        with pytest.raises(ConfigError):
            asyncio.run(run(wrong))


def test_host_and_port() -> None:
    assert split_host_port("h:1", 9) == ("h", 1)
    assert split_host_port("h", 9) == ("h", 9)
    assert split_host_port("[::1]", 9) == ("::1", 9)
    assert split_host_port("[::1]:2", 9) == ("::1", 2)
    for wrong in ("::1", "h:0", "h:65536", "h:x", ":1", "h:", "[]", "a b:1"):
        with pytest.raises(ValueError, match=r"has no|is no"):
            split_host_port(wrong, 9)
