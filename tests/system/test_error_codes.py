"""Error codes of the building blocks that other tests do not meet, provoked through a real sidecar (docs/errors.md).

A code that a path cannot provoke over HTTP is seen by its counter.
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING

import grpc
import pytest

import planes
from pillion.wire.messages import common, own_state
from pillion.wire.messages import runtime as m
from ports import free_port
from refusals import CountingSidecar, reasons, refused, told
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ILL = '''
from pillion.components.memory import MemoryState
from pillion.components.memory_broker import MemoryPubSub
from pillion.errors import ComponentError
from pillion.kinds.state import Feature


class Ill(MemoryState):
    """Takes two operations at once at most, and fails all that it takes."""

    max_operations = 2

    async def fail(self, *_, **__):
        raise ComponentError("it is ill")

    get = bulk_get = set = delete = transact = transact_versions = keys_like = fail


class Plain(MemoryState):
    features = frozenset({Feature.ETAG})


class Deaf(MemoryPubSub):
    async def publish(self, message):
        raise ComponentError("nobody hears")
'''
STATE = "/v1.0/state/ill"
INVALID, INTERNAL = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL
NOT_READY, UNIMPLEMENTED = grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNIMPLEMENTED


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountingSidecar]:
    folder = tmp_path_factory.mktemp("ill")
    (folder / "resources").mkdir()
    (folder / "resources" / "ill.py").write_text(ILL)
    kinds = {"ill": ("state", "Ill"), "plain": ("state", "Plain"), "deaf": ("pubsub", "Deaf")}
    resources = {
        f"{name}.yaml": component(name, f"{kind}.python", **{"pillion.file": "ill.py", "pillion.class": which})
        for name, (kind, which) in kinds.items()
    }
    resources["web.yaml"] = component("web", "bindings.http", url="http://127.0.0.1:9")
    with CountingSidecar(folder, resources=resources, resources_path=folder / "resources") as running:
        yield running


def test_many_keys_of_a_store_that_fails(sidecar: CountingSidecar) -> None:
    """Reading many fails as a whole, without details over gRPC; deleting many is gRPC's alone, listing ours."""
    reply = sidecar.post_json(f"{STATE}/bulk", {"keys": ["a", "b"]})
    assert told(reply) == (500, "ERR_STATE_BULK_GET", "it is ill")
    found = refused(sidecar, "GetBulkState", m.GetBulkStateRequest(store_name="ill", keys=["a"]))
    assert (found.text, found.reason) == ("it is ill", "")
    request = m.DeleteBulkStateRequest(store_name="ill", states=[common.StateItem(key="a")])
    text = "failed deleting state in state store ill: it is ill"
    assert refused(sidecar, "DeleteBulkState", request) == (INTERNAL, text, "ERR_STATE_BULK_DELETE")
    text = "failed listing keys of state store ill: it is ill"
    assert told(sidecar.request("GET", "/v1.0-pillion/state/ill/keys")) == (500, "ERR_STATE_KEYS", text)
    listing = refused(sidecar, "/pillion.state.v1.State/ListKeys", own_state.ListKeysRequest(store_name="ill"))
    assert listing == (INTERNAL, text, "ERR_STATE_KEYS")
    text = "state store plain doesn't support listing keys"
    reply = sidecar.request("GET", "/v1.0-pillion/state/plain/keys")
    assert (told(reply), reasons(reply)) == (
        (501, "ERR_STATE_STORE_NOT_SUPPORTED", text), ["PILLION_STATE_LISTING_NOT_SUPPORTED"],
    )  # fmt: skip
    listing = refused(sidecar, "/pillion.state.v1.State/ListKeys", own_state.ListKeysRequest(store_name="plain"))
    assert listing == (UNIMPLEMENTED, text, "PILLION_STATE_LISTING_NOT_SUPPORTED")


def test_transactions_that_a_store_cannot_take(sidecar: CountingSidecar) -> None:
    """More operations than it takes at once, and any at all where there are none."""
    rows = [{"operation": "delete", "request": {"key": str(number)}} for number in range(3)]
    reply = sidecar.post_json(f"{STATE}/transaction", {"operations": rows})
    text = "the transaction contains 3 operations, which is more than what the state store supports: 2"
    assert told(reply) == (400, "ERR_STATE_STORE_TOO_MANY_TRANSACTIONS", text)
    assert reasons(reply) == ["DAPR_STATE_TOO_MANY_TRANSACTIONS"]
    request = m.ExecuteStateTransactionRequest(
        storeName="ill",
        operations=[
            m.TransactionalStateOperation(operationType="delete", request=common.StateItem(key=str(number)))
            for number in range(3)
        ],
    )
    found = refused(sidecar, "ExecuteStateTransaction", request)
    assert found == (INVALID, text, "DAPR_STATE_TOO_MANY_TRANSACTIONS")
    text = "state store plain doesn't support transactions"
    reply = sidecar.post_json("/v1.0/state/plain/transaction", {"operations": rows})
    assert (told(reply), reasons(reply)) == (
        (500, "ERR_STATE_STORE_NOT_SUPPORTED", text), ["DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED"],
    )  # fmt: skip
    request = m.ExecuteStateTransactionRequest(storeName="plain")
    found = refused(sidecar, "ExecuteStateTransaction", request)
    assert found == (UNIMPLEMENTED, text, "DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED")


def test_publishing_nowhere_and_to_nobody(sidecar: CountingSidecar) -> None:
    """Names can be empty over gRPC alone: a path without them is another path."""
    nameless = refused(sidecar, "PublishEvent", m.PublishEventRequest(topic="t"))
    assert nameless == (INVALID, "pubsub name is empty", "DAPR_PUBSUB_NAME_EMPTY")
    aimless = refused(sidecar, "PublishEvent", m.PublishEventRequest(pubsub_name="deaf"))
    assert aimless == (INVALID, "topic is empty in pubsub deaf", "DAPR_PUBSUB_TOPIC_NAME_EMPTY")
    assert {"ERR_PUBSUB_EMPTY", "ERR_TOPIC_NAME_EMPTY"} <= sidecar.counted()
    text = "error when publishing to topic t in pubsub deaf: nobody hears"
    reply = sidecar.post_json("/v1.0/publish/deaf/t", {})
    assert (told(reply), reasons(reply)) == (
        (500, "ERR_PUBSUB_PUBLISH_MESSAGE", text), ["DAPR_PUBSUB_PUBLISH_MESSAGE"],
    )  # fmt: skip
    found = refused(sidecar, "PublishEvent", m.PublishEventRequest(pubsub_name="deaf", topic="t"))
    assert found == (INTERNAL, text, "DAPR_PUBSUB_PUBLISH_MESSAGE")


DEEP = "[" * 300 + "]" * 300
"""JSON that can be read, but not written again."""


def test_documents_that_are_too_deep(sidecar: CountingSidecar) -> None:
    """The caller's mistake, or the code that a binding has for it; no surprise to anybody."""
    status, code, text = told(sidecar.request("POST", "/v1.0/bindings/web", f'{{"operation": "post", "data": {DEEP}}}'))
    assert (status, code) == (500, "ERR_MALFORMED_REQUEST_DATA")
    assert text.startswith("can't serialize request data field: ")
    upsert = f'{{"operation": "upsert", "request": {{"key": "k", "value": {DEEP}}}}}'
    for path, body, code in (
        ("/v1.0/state/plain", f'[{{"key": "k", "value": {DEEP}}}]', "ERR_MALFORMED_REQUEST"),
        ("/v1.0/state/ill/transaction", f'{{"operations": [{upsert}]}}', "ERR_MALFORMED_REQUEST"),
        (
            "/v1.0/publish/bulk/deaf/t", f'[{{"entryId": "1", "event": {DEEP}, "contentType": "application/json"}}]',
            "ERR_PUBSUB_EVENTS_SER",
        ),
    ):  # fmt: skip
        status, found, text = told(sidecar.request("POST", path, body))
        assert (status, found) == (400, code)
        assert text.endswith("exceeded max depth")
    assert "Traceback" not in sidecar.log()


def test_half_a_character(sidecar: CountingSidecar) -> None:
    """Half of a surrogate pair becomes U+FFFD, as with the reference; a number beside it keeps its spelling."""
    body = '[{"key": "half \\ud800", "value": {"\\udc00": ["\\ud83d\\ude00 \\ud83d", 1.0]}}]'
    assert sidecar.request("POST", "/v1.0/state/plain", body).status == 204
    (found,) = sidecar.request("POST", "/v1.0/state/plain/bulk", '{"keys": ["half \\ud800"]}').json()
    assert (found["key"], found["data"]) == ("half \ufffd", {"\ufffd": ["\U0001f600 \ufffd", 1]})


def test_blocks_without_a_component(sidecar: CountingSidecar) -> None:
    """No secret store, no scheduler: both protocols say what is not configured."""
    text = "secret store is not configured"
    for path in ("/v1.0/secrets/vault/key", "/v1.0/secrets/vault/bulk"):
        assert told(sidecar.request("GET", path)) == (500, "ERR_SECRET_STORES_NOT_CONFIGURED", text)
    assert refused(sidecar, "GetSecret", m.GetSecretRequest(store_name="vault", key="key")) == (NOT_READY, text, "")
    assert refused(sidecar, "GetBulkSecret", m.GetBulkSecretRequest(store_name="vault")) == (NOT_READY, text, "")
    text = "failed to delete job due to: scheduler clients are disabled"
    reply = sidecar.request("DELETE", "/v1.0/jobs/j")
    assert (told(reply), reasons(reply)) == ((500, "DAPR_SCHEDULER_DELETE_JOB", text), ["DAPR_SCHEDULER_DELETE_JOB"])
    found = refused(sidecar, "DeleteJob", m.DeleteJobRequest(name="j"))
    assert found == (INTERNAL, text, "DAPR_SCHEDULER_DELETE_JOB")
    text = "failed to list jobs due to: scheduler clients are disabled"
    found = refused(sidecar, "ListJobs", m.ListJobsRequest())
    assert found == (INTERNAL, text, "DAPR_SCHEDULER_LIST_JOBS")


def test_no_state_store(tmp_path: Path) -> None:
    text = "state store orders is not configured"
    with SidecarProcess(tmp_path) as bare:
        reply = bare.request("GET", "/v1.0/state/orders/1")
        assert (told(reply), reasons(reply)) == (
            (500, "ERR_STATE_STORE_NOT_CONFIGURED", text), ["DAPR_STATE_NOT_CONFIGURED"],
        )  # fmt: skip
        found = refused(bare, "GetState", m.GetStateRequest(store_name="orders", key="1"))
        assert found == (NOT_READY, text, "DAPR_STATE_NOT_CONFIGURED")


def test_outbound_calls_wait_for_tools(tmp_path: Path) -> None:
    """While an MCP server is asked for its tools - here it never answers - `healthz/outbound` is not ready."""
    with planes.placement(tmp_path) as placement, socket.create_server(("127.0.0.1", free_port())) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/mcp"
        server = {"url": url, "timeout": "0s"}
        document = {
            "apiVersion": "dapr.io/v1alpha1", "kind": "MCPServer", "metadata": {"name": "silent"},
            "spec": {"endpoint": {"streamableHTTP": server}},
        }  # fmt: skip
        waiting = SidecarProcess(
            tmp_path, resources={"silent.yaml": json.dumps(document)}, arguments=planes.flags(placement=placement)
        )
        waiting.start(ready=False)
        try:
            waiting.wait("/v1.0/healthz/outbound", 500)
            reply = waiting.request("GET", "/v1.0/healthz/outbound")
            assert told(reply)[:2] == (500, "ERR_OUTBOUND_HEALTH_NOT_READY")
        finally:
            waiting.stop()
