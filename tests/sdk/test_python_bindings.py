"""The official Python SDK over output bindings and configuration, and its asynchronous client over the blocks with
streams, as its users use them against a real sidecar with a component of each block."""

from __future__ import annotations

import asyncio
import json
import os
import queue
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from dapr.aio.clients import DaprClient as AsyncDaprClient
from dapr.clients import DaprClient
from dapr.clients.grpc._crypto import DecryptOptions, EncryptOptions

from judges import configure, shop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from sidecars import SidecarProcess

WAIT_S = 90
pytestmark = pytest.mark.filterwarnings(
    "ignore:The (En|De)crypt API is an Alpha version:UserWarning",
    "ignore:The Distributed Lock API is an Alpha version:UserWarning",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sdk-bindings")


@pytest.fixture(scope="module")
def sidecar(folder: Path) -> Iterator[SidecarProcess]:
    with shop(folder) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAPR_HTTP_PORT", str(running.http_port))
        patch.setattr("dapr.conf.settings.DAPR_HTTP_PORT", running.http_port)  # where the SDK asks for health
        yield running


@pytest.fixture
def client(sidecar: SidecarProcess) -> Iterator[DaprClient]:
    with DaprClient(f"127.0.0.1:{sidecar.grpc_port}") as client:
        yield client


@pytest.mark.parametrize("content", ["some text", b"\x00\xff bytes", json.dumps({"n": 1})])
def test_a_file_there_and_back(client: DaprClient, folder: Path, content: str | bytes) -> None:
    name = {"fileName": "notes/python.txt"}
    written = client.invoke_binding("files", "create", content, name)
    assert json.loads(written.data)["fileName"].endswith("notes/python.txt")
    data = content.encode() if isinstance(content, str) else content
    assert (folder / "files" / "notes" / "python.txt").read_bytes() == data
    assert client.invoke_binding("files", "get", binding_metadata=name).data == data
    listed = json.loads(client.invoke_binding("files", "list", binding_metadata={"fileName": "notes"}).data)
    assert [os.path.basename(path) for path in listed] == ["python.txt"]
    client.invoke_binding("files", "delete", binding_metadata=name)
    with pytest.raises(grpc.RpcError, match="file not found"):
        client.invoke_binding("files", "get", binding_metadata=name)


def test_what_a_binding_refuses(client: DaprClient) -> None:
    with pytest.raises(grpc.RpcError, match="couldn't find output binding nowhere"):
        client.invoke_binding("nowhere", "create", "x")
    with pytest.raises(grpc.RpcError, match="binding files does not support operation burn"):
        client.invoke_binding("files", "burn", "x")


def test_configuration_without_a_server(client: DaprClient, folder: Path) -> None:
    """An item as it is, the change of it, and the end of listening, once."""
    configure(folder, "colour", "blue", "1")
    item = client.get_configuration("settings", ["colour"]).items["colour"]
    assert (item.value, item.version) == ("blue", "1")
    heard: queue.Queue[dict[str, Any]] = queue.Queue()
    number = client.subscribe_configuration("settings", ["colour"], lambda _, response: heard.put(response.items))
    configure(folder, "colour", "green", "2")
    changed = heard.get(timeout=WAIT_S)["colour"]
    assert (changed.value, changed.version) == ("green", "2")
    assert client.unsubscribe_configuration("settings", number)
    assert not client.unsubscribe_configuration("settings", number)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # grpcio's own loop is left unclosed
def test_the_asynchronous_client(sidecar: SidecarProcess) -> None:
    """Files, documents, a lock and a stream of events, at the same time on one connection."""

    async def files(client: AsyncDaprClient) -> None:
        name = {"fileName": "async.txt"}
        await client.invoke_binding("files", "create", b"hello", name)
        assert (await client.invoke_binding("files", "get", binding_metadata=name)).data == b"hello"

    async def documents(client: AsyncDaprClient) -> None:
        plain = os.urandom(200_000)
        document = await (await client.encrypt(plain, EncryptOptions("keys", "mykey", "A256KW"))).read()
        assert await (await client.decrypt(document, DecryptOptions("keys"))).read() == plain

    async def lock(client: AsyncDaprClient) -> None:
        assert (await client.try_lock("locks", "one", "me", 60)).success
        assert not (await client.try_lock("locks", "one", "you", 60)).success

    async def events(client: AsyncDaprClient) -> None:
        subscription = await client.subscribe("pubsub", "async")
        try:
            for number in range(3):
                data = json.dumps({"n": number})
                await client.publish_event("pubsub", "async", data, data_content_type="application/json")
                message = await subscription.next_message()
                assert message.data() == {"n": number}
                await subscription.respond_success(message)
        finally:
            await subscription.close()

    async def use() -> None:
        async with (
            asyncio.timeout(WAIT_S),
            AsyncDaprClient(f"127.0.0.1:{sidecar.grpc_port}") as client,
            asyncio.TaskGroup() as together,
        ):
            for work in (files, documents, lock, events):
                together.create_task(work(client))

    asyncio.run(use())
