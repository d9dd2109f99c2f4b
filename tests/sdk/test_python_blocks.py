"""The official Python SDK, synchronous and asynchronous, over state, secrets, invocation and metadata, as its users use
it against a real sidecar."""

from __future__ import annotations

import asyncio
import gc
import json
import os
from typing import TYPE_CHECKING

import grpc
import pytest
from dapr.aio.clients import DaprClient as AsyncDaprClient
from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprGrpcError
from dapr.clients.grpc._request import TransactionalStateOperation, TransactionOperationType
from dapr.clients.grpc._state import Concurrency, Consistency, StateItem, StateOptions

from apps import HttpApp
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def app() -> Iterator[HttpApp]:
    with HttpApp(
        answer=lambda call: (200, {"Content-Type": "text/plain"}, call.path.encode() + b"|" + call.body)
    ) as app:
        yield app


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, app: HttpApp) -> Iterator[SidecarProcess]:
    folder: Path = tmp_path_factory.mktemp("sdk")
    (folder / "secrets.json").write_text(json.dumps({"password": "s3cret", "db": {"user": "ada"}}))
    resources = {
        "store.yaml": component("store", "state.sqlite", connectionString=str(folder / "s.db")),
        "vault.yaml": component("vault", "secretstores.local.file", secretsFile=str(folder / "secrets.json")),
    }
    with SidecarProcess(folder, "shop", app_port=app.port, resources=resources) as running:
        running.wait("/v1.0/healthz")
        os.environ["DAPR_HTTP_PORT"] = str(running.http_port)  # the SDK's health check asks this port
        os.environ["DAPR_GRPC_PORT"] = str(running.grpc_port)
        yield running


@pytest.fixture
def client(sidecar: SidecarProcess) -> Iterator[DaprClient]:
    with DaprClient(f"127.0.0.1:{sidecar.grpc_port}") as client:
        yield client


def test_save_get_delete(client: DaprClient) -> None:
    client.save_state("store", "k", b"\x00binary", state_metadata={"ttlInSeconds": "100"})
    found = client.get_state("store", "k")
    assert found.data == b"\x00binary"
    assert found.etag
    client.delete_state("store", "k")
    assert client.get_state("store", "k").data == b""


def test_etags_guard_writes(client: DaprClient) -> None:
    client.save_state("store", "guarded", "one")
    etag = client.get_state("store", "guarded").etag
    options = StateOptions(concurrency=Concurrency.first_write, consistency=Consistency.strong)
    client.save_state("store", "guarded", "two", etag=etag, options=options)
    with pytest.raises((DaprGrpcError, grpc.RpcError)) as refused:
        client.save_state("store", "guarded", "three", etag=etag, options=options)
    assert refused.value.code() == grpc.StatusCode.ABORTED
    assert client.get_state("store", "guarded").data == b"two"


def test_bulk_and_transaction(client: DaprClient) -> None:
    client.save_bulk_state("store", [StateItem("a", "1"), StateItem("b", "2")])
    items = client.get_bulk_state("store", ["a", "b", "c"]).items
    assert {item.key: item.data for item in items} == {"a": b"1", "b": b"2", "c": b""}
    client.execute_state_transaction(
        "store",
        [
            TransactionalStateOperation(operation_type=TransactionOperationType.upsert, key="c", data="3"),
            TransactionalStateOperation(operation_type=TransactionOperationType.delete, key="a"),
        ],
    )
    assert client.get_state("store", "c").data == b"3"
    assert client.get_state("store", "a").data == b""


def test_errors_carry_their_details(client: DaprClient) -> None:
    with pytest.raises(DaprGrpcError) as refused:
        client.get_state("nowhere", "k")
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert refused.value.error_code() == "DAPR_STATE_NOT_FOUND"
    with pytest.raises(DaprGrpcError) as illegal:
        client.save_state("store", "a||b", "x")
    assert illegal.value.error_code() == "DAPR_STATE_ILLEGAL_KEY"
    assert illegal.value.status_details().as_dict()["bad_request"]


def test_secrets(client: DaprClient) -> None:
    assert client.get_secret("vault", "password").secret == {"password": "s3cret"}
    assert client.get_bulk_secret("vault").secrets["db:user"] == {"db:user": "ada"}
    with pytest.raises(grpc.RpcError, match="secret none not found"):
        client.get_secret("vault", "none")


def test_invoke(client: DaprClient, app: HttpApp) -> None:
    answer = client.invoke_method("shop", "orders/7", data=b"hello", http_verb="POST", content_type="text/plain")
    assert answer.data == b"/orders/7|hello"
    assert any(call.path == "/orders/7" for call in app.calls)


def test_metadata(client: DaprClient) -> None:
    client.set_metadata("colour", "blue")
    found = client.get_metadata()
    assert found.application_id == "shop"
    assert found.extended_metadata["colour"] == "blue"
    assert {row.name: row.type for row in found.registered_components} == {
        "store": "state.sqlite",
        "vault": "secretstores.local.file",
    }


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # grpcio's own loop is left unclosed
def test_the_asynchronous_client(sidecar: SidecarProcess) -> None:
    async def use() -> None:
        async with AsyncDaprClient(f"127.0.0.1:{sidecar.grpc_port}") as client:
            await asyncio.gather(*(client.save_state("store", f"many-{n}", str(n)) for n in range(50)))
            found = await client.get_bulk_state("store", [f"many-{n}" for n in range(50)])
            assert {item.key: item.data for item in found.items} == {f"many-{n}": b"%d" % n for n in range(50)}
            assert (await client.get_secret("vault", "password")).secret == {"password": "s3cret"}
            answer = await client.invoke_method("shop", "async", data=b"x", http_verb="PUT")
            assert answer.data == b"/async|x"

    asyncio.run(use())
    gc.collect()
