"""The official Python SDK's actors: hosted behind HTTP and over the stream that the application opens, called through
its proxies over both protocols."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from dapr.actor import ActorId, ActorProxy, ActorProxyFactory
from dapr.clients.exceptions import DaprInternalError
from dapr.clients.grpc.dapr_actor_grpc_client import DaprActorGrpcClient
from dapr.conf import settings
from dapr.serializers import DefaultJSONSerializer

import planes
from judges import SDK
from ports import free_ports
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APP = SDK / "python" / "actors_app.py"
HELD = b'"tell me"'


@pytest.fixture(scope="module")
def plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    folder = tmp_path_factory.mktemp("planes")
    with planes.placement(folder) as placement, planes.scheduler(folder) as scheduler:
        yield list(planes.flags(placement=placement, scheduler=scheduler))


@pytest.fixture(autouse=True)
def settings_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """`cart` changes the SDK's."""
    monkeypatch.setattr(settings, "DAPR_HTTP_PORT", settings.DAPR_HTTP_PORT)


@contextmanager
def hosted(folder: Path, protocol: str, plane: list[str]) -> Iterator[SidecarProcess]:
    """A sidecar, and an application that hosts carts beside it."""
    (port,) = free_ports(1)
    store = component("store", "state.sqlite", connectionString=str(folder / "s.db"), actorStateStore="true")
    arguments = ["--app-protocol", protocol, *plane]
    sidecar = SidecarProcess(folder, "shop", app_port=port, resources={"s.yaml": store}, arguments=arguments)
    where = {"DAPR_HTTP_PORT": str(sidecar.http_port), "DAPR_GRPC_PORT": str(sidecar.grpc_port)}
    with (
        sidecar,
        (folder / "app.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, str(APP), protocol, str(port)], stdout=log, stderr=log, env={**os.environ, **where}
        ) as app,
    ):
        try:
            sidecar.wait("/v1.0/healthz")
            yield sidecar
        finally:
            app.kill()


def cart(sidecar: SidecarProcess, actor_id: str) -> Any:
    """A proxy that speaks HTTP."""
    settings.DAPR_HTTP_PORT = sidecar.http_port  # type: ignore[attr-defined]
    return ActorProxy.create("Cart", ActorId(actor_id), None, ActorProxyFactory())


async def ask(proxy: Any, method: str, *values: object) -> Any:
    serializer = DefaultJSONSerializer()
    reply = await proxy.invoke_method(method, serializer.serialize(values[0]) if values else None)
    return serializer.deserialize(reply) if reply else None


async def until(proxy: Any, times: int) -> list[str]:
    """Wait for what fires: another process tells it when it is asked."""
    async with asyncio.timeout(90):
        while len(seen := await ask(proxy, "Seen")) < times:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
    return list(seen)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_carts(tmp_path: Path, plane: list[str], protocol: str) -> None:
    """Methods, state, turns, timers, reminders, chains that come back, errors."""

    async def main(sidecar: SidecarProcess) -> None:
        proxy = cart(sidecar, "1")
        assert await ask(proxy, "Add", 3) == 3
        assert await ask(proxy, "Add", 4) == 7
        assert sidecar.request("GET", "/v1.0/actors/Cart/1/state/total").body == b"7"
        await ask(proxy, "Forget")
        assert sidecar.request("GET", "/v1.0/actors/Cart/1/state/total").status == 204

        turns = await asyncio.gather(*(ask(proxy, "Slow") for _ in range(5)))
        assert turns == [1] * 5

        await ask(proxy, "Clock", "timer")
        seen = await until(proxy, 3)
        assert set(seen) == {"timer {'a': 1}"}
        await ask(proxy, "Clock", "timer off")

        other = cart(sidecar, "2")
        await ask(other, "Clock", "reminder")
        assert set(await until(other, 2)) == {"reminder r tell me"}
        shown = sidecar.request("GET", "/v1.0/actors/Cart/2/reminders/r").json()
        assert (shown["actorType"], shown["actorID"], shown["period"]) == ("Cart", "2", "@every 1s")
        await ask(other, "Clock", "reminder off")
        assert sidecar.request("GET", "/v1.0/actors/Cart/2/reminders/r").status == 404

        assert await ask(proxy, "Around", 3) == 3
        refused = sidecar.request("PUT", "/v1.0/actors/Cart/1/method/Around", "5")
        assert (b"maximum stack depth exceeded" in refused.body) == (protocol == "http")  # the SDK hides it otherwise
        assert await ask(proxy, "Add", 1) == 1

        if protocol == "http":
            with pytest.raises(DaprInternalError, match="no money"):
                await ask(proxy, "Break")
        else:  # over the stream the SDK declares the error to be the actor's own
            assert b"no money" in await proxy.invoke_method("Break")

        async with grpc.aio.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel:
            client = DaprActorGrpcClient(channel=channel)
            assert await client.invoke_method("Cart", "1", "Add", b"5") == b"6"

    with hosted(tmp_path, protocol, plane) as sidecar:
        asyncio.run(main(sidecar))
        told = sidecar.request("GET", "/v1.0/metadata").json()["actorRuntime"]
    assert told["activeActors"] == [{"type": "Cart", "count": 2}]
    assert told["placement"] == "placement: connected"
