"""Configuration over HTTP and gRPC, through a real sidecar: exact bytes, errors, callbacks and streams."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from apps import HttpApp
from pillion.errors import Code
from pillion.net.exchange import RpcError
from pillion.net.grpc_client import Channel
from pillion.wire.messages import rpc
from pillion.wire.messages import runtime as m
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from pathlib import Path

SERVICE = "/dapr.proto.runtime.v1.Dapr/"
VERSIONS = ("v1.0", "v1.0-alpha1")


@pytest.fixture(scope="module")
def app() -> Iterator[HttpApp]:
    refusals = {"/configuration/file/stubborn": 2}

    def answer(call: Any) -> tuple[int, dict[str, str], bytes]:
        left = refusals.get(call.path, 0)
        refusals[call.path] = left - 1
        return (500 if left > 0 else 200), {}, b""

    with HttpApp(answer=answer) as app:
        yield app


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("configuration")


RESILIENCY = """
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: patience}
spec:
  policies: {retries: {again: {policy: constant, duration: 10ms, maxRetries: 3}}}
  targets: {components: {file: {inbound: {retry: again}}}}
"""


@pytest.fixture(scope="module")
def sidecar(folder: Path, app: HttpApp) -> Iterator[SidecarProcess]:
    resources = {
        "file.yaml": component("file", "configuration.sqlite", connectionString=str(folder / "c.sqlite")),
        "other.yaml": component("other", "configuration.sqlite", connectionString=str(folder / "o.sqlite")),
        "gone.yaml": component("gone", "configuration.sqlite", connectionString=str(folder / "g.sqlite")),
        "resiliency.yaml": RESILIENCY,
    }
    with SidecarProcess(folder, "shop", app_port=app.port, resources=resources) as running:
        yield running


@pytest.fixture(scope="module")
def bare(folder: Path) -> Iterator[SidecarProcess]:
    """Without stores and without an application."""
    with SidecarProcess(folder, "bare") as running:
        yield running


@pytest.fixture
def put(folder: Path) -> Callable[..., None]:
    def put(key: str, value: str, version: str = "1", metadata: str | None = None, *, file: str = "c.sqlite") -> None:
        with closing(sqlite3.connect(folder / file, timeout=60)) as db, db:
            db.execute("REPLACE INTO configuration VALUES (?, ?, ?, ?)", (key, value, version, metadata))

    return put


def over_grpc(sidecar: SidecarProcess, work: Callable[[Channel], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        channel = Channel(f"127.0.0.1:{sidecar.grpc_port}")
        try:
            await work(channel)
        finally:
            await channel.close()

    asyncio.run(run())


@pytest.mark.parametrize("version", VERSIONS)
def test_get(sidecar: SidecarProcess, put: Callable[..., None], version: str) -> None:
    put("colour", "<blue>", "2", '{"by": "ada", "at": 3}')
    put("size", "10", "")
    reply = sidecar.request("GET", f"/{version}/configuration/file?key=size&key=colour&key=missing")
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.body == (
        b'{"colour":{"value":"\\u003cblue\\u003e","version":"2","metadata":{"at":"3","by":"ada"}},'
        b'"size":{"value":"10"}}\n'
    )
    everything = sidecar.request("GET", f"/{version}/configuration/file").json()
    assert {"colour", "size"} <= set(everything)
    assert (sidecar.request("GET", f"/{version}/configuration/file?key=missing").status) == 204


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("tail", ["", "/subscribe", "/some-id/unsubscribe"])
def test_the_store_is_looked_for_first(sidecar: SidecarProcess, bare: SidecarProcess, version: str, tail: str) -> None:
    none = bare.request("GET", f"/{version}/configuration/file{tail}")
    assert (none.status, none.body) == (
        500,
        b'{"errorCode":"ERR_CONFIGURATION_STORE_NOT_CONFIGURED","message":"configuration stores not configured"}',
    )
    unknown = sidecar.request("GET", f"/{version}/configuration/nowhere{tail}")
    assert (unknown.status, unknown.body) == (
        400,
        b'{"errorCode":"ERR_CONFIGURATION_STORE_NOT_FOUND","message":"configuration store nowhere not found"}',
    )


def test_subscribe_over_http_needs_an_application(folder: Path) -> None:
    resources = {"file.yaml": component("file", "configuration.sqlite", connectionString=str(folder / "n.sqlite"))}
    with SidecarProcess(folder, "alone", resources=resources) as alone:
        reply = alone.request("GET", "/v1.0/configuration/file/subscribe?key=a")
        assert reply.status == 500
        assert reply.json()["errorCode"] == "ERR_APP_CHANNEL_NIL"


@pytest.mark.parametrize("version", VERSIONS)
def test_subscribe_over_http(sidecar: SidecarProcess, app: HttpApp, put: Callable[..., None], version: str) -> None:
    """One POST for each changed key, with the whole event; nothing after unsubscribing."""
    key, last = f"watched {version}", f"last {version}"
    put(key, "1", "1")
    subscribed = sidecar.request("GET", f"/{version}/configuration/file/subscribe?key={key}".replace(" ", "+"))
    assert subscribed.status == 200
    number = subscribed.json()["id"]
    assert subscribed.body == b'{"id":"%s"}\n' % number.encode()
    put(key, "2", "2")
    path = "/configuration/file/" + key.replace(" ", "%20")
    call = next(call for call in app.wait(lambda calls: any(c.path == path for c in calls)) if call.path == path)
    assert call.method == "POST"
    assert call.headers["content-type"] == "application/json"
    expected = {"id": number, "items": {key: {"value": "2", "version": "2"}}}
    assert call.body == json.dumps(expected, separators=(",", ":")).encode() + b"\n"

    elsewhere = sidecar.request("GET", f"/{version}/configuration/other/{number}/unsubscribe")
    assert elsewhere.status == 500
    ended = sidecar.request("GET", f"/{version}/configuration/file/{number}/unsubscribe")
    assert (ended.status, ended.body) == (200, b'{"ok":true}\n')
    again = sidecar.request("GET", f"/{version}/configuration/file/{number}/unsubscribe")
    text = f"failed to unsubscribe to configuration request {number}: subscription does not exist"
    assert (again.status, again.json()) == (500, {"message": text})

    keys = f"key={key}&key={last}".replace(" ", "+")
    sidecar.request("GET", f"/{version}/configuration/file/subscribe?{keys}")
    put(last, "x")
    app.wait(lambda calls: any(c.path.endswith(last.replace(" ", "%20")) for c in calls))
    assert len([call for call in app.calls if call.path == path]) == 1


def test_an_unwilling_application(sidecar: SidecarProcess, app: HttpApp, put: Callable[..., None]) -> None:
    """What is answered with another status than 200 is repeated as the component's inbound policy says."""
    sidecar.request("GET", "/v1.0/configuration/file/subscribe?key=stubborn")
    put("stubborn", "1")
    app.wait(lambda calls: len([call for call in calls if call.path.endswith("stubborn")]) == 3)


def test_keys_cannot_climb(sidecar: SidecarProcess, app: HttpApp, put: Callable[..., None]) -> None:
    """A key's slashes stay, its dots lead nowhere, and what ends a path is escaped."""
    sidecar.request("GET", "/v1.0/configuration/other/subscribe")
    put("../../shutdown?x#y", "1", file="o.sqlite")
    put("a/b", "1", file="o.sqlite")
    wanted = {"/configuration/other/%2E%2E/%2E%2E/shutdown%3Fx%23y", "/configuration/other/a/b"}
    app.wait(lambda calls: wanted <= {call.path for call in calls})


def test_errors_over_grpc(sidecar: SidecarProcess, bare: SidecarProcess) -> None:
    """Both names of each method; the details hold the code as their reason."""

    async def refused(channel: Channel, method: str, store: str) -> RpcError:
        with pytest.raises(RpcError) as error:
            await ask(channel, method, store)
        return error.value

    async def ask(channel: Channel, method: str, store: str) -> None:
        if method.startswith("Subscribe"):
            stream = channel.stream(SERVICE + method)
            await stream.send_last(m.SubscribeConfigurationRequest(store_name=store).SerializeToString())
            await stream.receive()
        else:
            await channel.unary(SERVICE + method, m.GetConfigurationRequest(store_name=store).SerializeToString())

    methods = [name + tail for name in ("GetConfiguration", "SubscribeConfiguration") for tail in ("", "Alpha1")]

    async def none(channel: Channel) -> None:
        for method in methods:
            error = await refused(channel, method, "file")
            assert (error.code, error.message) == (Code.FAILED_PRECONDITION, "configuration stores not configured")
            assert _reason(error) == "ERR_CONFIGURATION_STORE_NOT_CONFIGURED"

    async def unknown(channel: Channel) -> None:
        for method in methods:
            error = await refused(channel, method, "nowhere")
            assert (error.code, error.message) == (Code.INVALID_ARGUMENT, "configuration store nowhere not found")
            assert _reason(error) == "ERR_CONFIGURATION_STORE_NOT_FOUND"
        for method in ("UnsubscribeConfiguration", "UnsubscribeConfigurationAlpha1"):
            request = m.UnsubscribeConfigurationRequest(store_name="file", id="7").SerializeToString()
            reply = m.UnsubscribeConfigurationResponse.FromString(
                (await channel.unary(SERVICE + method, request)).message
            )
            assert not reply.ok
            text = "failed to unsubscribe to configuration request 7: subscription does not exist"
            assert reply.message == text

    over_grpc(bare, none)
    over_grpc(sidecar, unknown)


def _reason(error: RpcError) -> str:
    [detail] = rpc.Status.FromString(error.details).details
    info = rpc.ErrorInfo()
    detail.Unpack(info)
    return info.reason


def test_a_stream(sidecar: SidecarProcess, put: Callable[..., None]) -> None:
    """The id alone, then changes; unsubscribing ends it with status OK; a cancelled one is forgotten."""

    async def work(channel: Channel) -> None:
        put("streamed", "1", "1")
        stream = channel.stream(SERVICE + "SubscribeConfiguration")
        request = m.SubscribeConfigurationRequest(store_name="file", keys=["streamed", "streamed", "fresh"])
        await stream.send_last(request.SerializeToString())
        first = await _event(stream)
        assert first.id
        assert not first.items
        put("streamed", "2", "2", '{"a": "b"}')
        second = await _event(stream)
        assert second.id == first.id
        item = second.items["streamed"]
        assert (list(second.items), item.value, item.version, dict(item.metadata)) == (
            ["streamed"], "2", "2", {"a": "b"},
        )  # fmt: skip
        ending = m.UnsubscribeConfigurationRequest(store_name="file", id=first.id).SerializeToString()
        method = SERVICE + "UnsubscribeConfiguration"
        assert m.UnsubscribeConfigurationResponse.FromString((await channel.unary(method, ending)).message).ok
        assert await stream.receive() is None
        assert not m.UnsubscribeConfigurationResponse.FromString((await channel.unary(method, ending)).message).ok

        cancelled = channel.stream(SERVICE + "SubscribeConfigurationAlpha1")
        await cancelled.send_last(request.SerializeToString())
        number = (await _event(cancelled)).id
        cancelled.cancel()
        ending = m.UnsubscribeConfigurationRequest(store_name="file", id=number).SerializeToString()
        for _ in range(100):  # the cancellation travels on its own: the id is unknown as soon as it has arrived
            answer = m.UnsubscribeConfigurationResponse.FromString((await channel.unary(method, ending)).message)
            if not answer.ok:
                break

    over_grpc(sidecar, work)


async def _event(stream: Any) -> m.SubscribeConfigurationResponse:
    async with asyncio.timeout(90):
        message = await stream.receive()
    assert message is not None
    return m.SubscribeConfigurationResponse.FromString(message)


def test_the_end_of_the_sidecar_ends_streams(folder: Path) -> None:
    """With status OK, and without delaying the end."""
    resources = {"file.yaml": component("file", "configuration.sqlite", connectionString=str(folder / "e.sqlite"))}
    with SidecarProcess(folder, "ending", resources=resources) as running:

        async def work(channel: Channel) -> None:
            stream = channel.stream(SERVICE + "SubscribeConfiguration")
            await stream.send_last(m.SubscribeConfigurationRequest(store_name="file").SerializeToString())
            await _event(stream)
            running.kill(15)
            async with asyncio.timeout(90):
                assert await stream.receive() is None

        over_grpc(running, work)
        assert running.process is not None
        assert running.process.wait(60) == 0


def test_errors_of_the_store(folder: Path, sidecar: SidecarProcess) -> None:
    """Quote the keys: as asked for when getting, sorted when subscribing."""
    with closing(sqlite3.connect(folder / "g.sqlite")) as db, db:
        db.execute("DROP TABLE configuration")
    reply = sidecar.request("GET", "/v1.0/configuration/gone?key=b&key=a")
    text = "[b a] from Configuration store gone: sqlite: no such table: configuration"
    assert reply.status == 500
    assert reply.json() == {"errorCode": "ERR_CONFIGURATION_GET", "message": "failed to get " + text}
    reply = sidecar.request("GET", "/v1.0/configuration/gone/subscribe?key=b&key=a")
    text = "[a b] from Configuration store gone: sqlite: no such table: configuration"
    assert reply.status == 500
    assert reply.json() == {"errorCode": "ERR_CONFIGURATION_SUBSCRIBE", "message": "failed to subscribe " + text}
