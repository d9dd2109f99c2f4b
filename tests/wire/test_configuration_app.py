"""Changes of configuration on their way to applications: gRPC ones, and those that do not take them."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import grpc

from apps import HttpApp
from invoke_apps import GrpcApp
from pillion.wire.messages import common
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from pathlib import Path


class Listening(GrpcApp):
    """Keeps what it is invoked with; refuses the method that ends with `refused`."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: asyncio.Queue[Any] = asyncio.Queue()

    async def _on_invoke(self, request: bytes, context: Any) -> bytes:
        message = common.InvokeRequest.FromString(request)
        self.heard.put_nowait(message)
        if message.method.endswith("refused"):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "not today")
        return common.InvokeResponse().SerializeToString()


def put(path: Path, key: str, value: str) -> None:
    with closing(sqlite3.connect(path, timeout=60)) as db, db:
        db.execute("REPLACE INTO configuration (key, value) VALUES (?, ?)", (key, value))


def test_a_grpc_application_is_invoked(tmp_path: Path) -> None:
    """Subscribed over HTTP, told through OnInvoke; what it refuses is dropped, and the next change comes anyway."""
    path = tmp_path / "c.sqlite"
    resources = {"file.yaml": component("file", "configuration.sqlite", connectionString=str(path))}

    async def run() -> None:
        async with Listening().running() as app:
            assert isinstance(app, Listening)
            sidecar = SidecarProcess(
                tmp_path, app_port=app.port, resources=resources, arguments=["--app-protocol", "grpc"]
            )
            try:
                await asyncio.to_thread(sidecar.start)
                asked = "/v1.0/configuration/file/subscribe?key=a&key=refused"
                number = (await asyncio.to_thread(sidecar.request, "GET", asked)).json()["id"]
                for key in ("refused", "a"):
                    put(path, key, "1")
                    async with asyncio.timeout(90):
                        message = await app.heard.get()
                        while not message.method.startswith("configuration/"):
                            message = await app.heard.get()
                    assert message.method == f"configuration/file/{key}"
                    assert message.http_extension.verb == common.HTTPExtension.POST
                    assert message.content_type == "application/json"
                    event = f'{{"id":"{number}","items":{{"{key}":{{"value":"1"}}}}}}\n'
                    assert message.data.value == event.encode()
                assert "'refused' in configuration store file was not taken" in sidecar.log()
            finally:
                await asyncio.to_thread(sidecar.stop)

    asyncio.run(run())


def test_anything_but_200_is_not_taken(tmp_path: Path) -> None:
    """Without a policy the change is dropped, and the log says which."""
    path = tmp_path / "c.sqlite"
    resources = {"file.yaml": component("file", "configuration.sqlite", connectionString=str(path))}
    with (
        HttpApp(answer=lambda call: (204 if call.path.endswith("odd") else 200, {}, b"")) as app,
        SidecarProcess(tmp_path, app_port=app.port, resources=resources) as sidecar,
    ):
        sidecar.request("GET", "/v1.0/configuration/file/subscribe")
        put(path, "odd", "1")
        app.wait(lambda calls: len(calls) == 1)
        put(path, "even", "1")
        app.wait(lambda calls: len(calls) == 2)
        assert [call.path.rpartition("/")[2] for call in app.calls] == ["odd", "even"]
        assert "'odd' in configuration store file was not taken and is dropped" in sidecar.log()
        assert "status 204" in sidecar.log()
