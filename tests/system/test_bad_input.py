"""Whatever a client sends, the sidecar answers in the specified shape: no hang, no traceback, no "internal" for the
caller's mistake, and it still serves afterwards."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAMES = st.text(min_size=1, max_size=12) | st.sampled_from(
    [
        "..",
        ".",
        "a/b",
        "a%2Fb",
        "a||b",
        "@",
        "%",
        "%zz",
        "#",
        "?",
        "\x00",
        "store",
        "pubsub",
        "vault",
        "bulk",
        "é",
        "🛵",
    ]
)
ROUTES = st.sampled_from(
    [
        "/v1.0/state/{}/{}", "/v1.0/state/{}", "/v1.0/state/{}/bulk", "/v1.0/state/{}/transaction",
        "/v1.0/publish/{}/{}", "/v1.0/publish/bulk/{}/{}", "/v1.0/secrets/{}/{}", "/v1.0/secrets/{}/bulk",
        "/v1.0/invoke/{}/method/{}", "/v1.0/metadata/{}", "/v1.0/{}", "/{}/{}", "/v1.0-alpha1/state/{}/query",
        "/v1.0/bindings/{}", "/v1.0/configuration/{}", "/v1.0-alpha1/lock/{}", "/v1.0/actors/{}/{}/method/x",
        "/v1.0/workflows/{}/{}/start", "/v1.0/jobs/{}",
    ]
)  # fmt: skip
BODIES = st.binary(max_size=60) | st.sampled_from(
    [
        b"", b"null", b"[]", b"{}", b"[{}]", b"[null]", b'[{"key":null}]', b'[{"key":"k","value":' + b"[" * 2000,
        b"\xff",
        b'{"operations":[{"operation":"upsert"}]}', b'{"operations":7}', b'{"keys":[1]}', b'[{"entryId":1}]', b"1e999",
        b'[{"key":"k","value":1,"etag":5}]', b'[{"key":"k","value":1,"metadata":[]}]', b'[{"key":"k","options":"x"}]',
    ]
)  # fmt: skip
TYPES = ["", "application/json", "text/plain", "application/cloudevents+json", "application/octet-stream"]
PREFIXES = [
    b"",
    b"GET / HTTP/1.1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"POST /v1.0/state/store HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
]
VERBS = st.sampled_from(["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD"])


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SidecarProcess]:
    folder: Path = tmp_path_factory.mktemp("bad-input")
    (folder / "secrets.json").write_text('{"a": "b"}')
    resources = {
        "a.yaml": component("store", "state.sqlite", connectionString=str(folder / "s.db")),
        "b.yaml": component("pubsub", "pubsub.in-memory"),
        "c.yaml": component("vault", "secretstores.local.file", secretsFile=str(folder / "secrets.json")),
    }
    with SidecarProcess(folder, resources=resources) as running:
        yield running


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    route=ROUTES, one=NAMES, two=NAMES, raw=st.booleans(), verb=VERBS, body=BODIES, content_type=st.sampled_from(TYPES)
)
def test_every_route_answers_in_shape(
    sidecar: SidecarProcess, route: str, one: str, two: str, raw: bool, verb: str, body: bytes, content_type: str
) -> None:
    names = [quote(n.encode("utf-8", "surrogatepass"), safe="%./" if raw else "") for n in (one, two)]
    path = route.format(*names)
    reply = sidecar.request(verb, path, body, {"Content-Type": content_type} if content_type else {})
    assert reply.status < 600
    if reply.status >= 400 and verb != "HEAD" and reply.headers.get("content-type") == "application/json":
        document = reply.json()
        assert document["errorCode"] != "ERROR", (path, body, document)
        assert document["message"], (path, body, document)
        assert "Traceback" not in document["message"]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1, max_size=300), prefix=st.sampled_from(PREFIXES), grpc_port=st.booleans())
def test_garbage_on_the_ports(sidecar: SidecarProcess, data: bytes, prefix: bytes, grpc_port: bool) -> None:
    with socket.create_connection(("127.0.0.1", sidecar.grpc_port if grpc_port else sidecar.http_port), 5) as raw:
        raw.sendall(prefix + data)
        raw.shutdown(socket.SHUT_WR)
        raw.settimeout(5)
        try:
            while raw.recv(65536):
                pass
        except ConnectionResetError:
            pass
    assert sidecar.request("GET", "/v1.0/healthz").status == 204


METHODS = [
    "GetState",
    "SaveState",
    "DeleteState",
    "GetBulkState",
    "DeleteBulkState",
    "ExecuteStateTransaction",
    "PublishEvent",
    "BulkPublishEvent",
    "InvokeService",
    "GetSecret",
    "GetBulkSecret",
    "GetMetadata",
    "SetMetadata",
    "TryLockAlpha1",
    "InvokeBinding",
    "GetConfiguration",
    "StartWorkflowBeta1",
    "ScheduleJob",
    "InvokeActor",
    "ConverseAlpha1",
    "Nonsense",
]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(method=st.sampled_from(METHODS), payload=st.binary(max_size=80))
def test_every_method_survives_any_message(sidecar: SidecarProcess, method: str, payload: bytes) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel:
        call: Any = channel.unary_unary(f"/dapr.proto.runtime.v1.Dapr/{method}")
        future = call.future(payload, timeout=10)
        error = future.exception()
        if error is not None:
            assert error.code() not in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE), error
            assert "Traceback" not in (error.details() or "")


def test_oversized_bodies_are_refused_in_the_route_s_own_words(sidecar: SidecarProcess) -> None:
    huge = json.dumps([{"key": "k", "value": "x" * (5 << 20)}])
    saved = sidecar.request("POST", "/v1.0/state/store", huge)
    assert (saved.status, saved.json()["errorCode"]) == (400, "ERR_MALFORMED_REQUEST")
    assert "stream too large" in saved.json()["message"]
    published = sidecar.request("POST", "/v1.0/publish/pubsub/t", huge)
    assert (published.status, published.json()["errorCode"]) == (500, "ERR_PUBSUB_PUBLISH_MESSAGE")
    invoked = sidecar.request("POST", "/v1.0/invoke/app/method/m", huge)
    assert (invoked.status, invoked.json()["errorCode"]) == (500, "ERR_DIRECT_INVOKE")


def test_an_oversized_head_is_431(sidecar: SidecarProcess) -> None:
    assert sidecar.request("GET", "/v1.0/healthz", headers={"X-Long": "x" * 20000}).status == 431
