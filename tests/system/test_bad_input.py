"""Whatever a client sends, the sidecar answers in the specified shape: no hang, no traceback, no "internal" for the
caller's mistake, and it still serves afterwards. Every route and every method is walked: none can be forgotten."""

from __future__ import annotations

import json
import re
import socket
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import grpc
import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apps import HttpApp
from pillion.wire.messages import services
from pillion.wire.messages._pool import pool
from rows import offered, routes
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

HERE = ["state", "pubsub", "vault", "files", "settings", "locks", "keys", "echo", "app"]
"""Names that are there: of components, of the application."""
ODD = [
    "..", ".", "a/b", "a%2Fb", "a||b", "|", "@", "%", "%zz", "#", "?", "\x00", "bulk", "stat", "states", "é", "🛵",
    "x" * 5000, " ", "a b", "state/../vault", "+", ";", "\r\nX: y", "‮", "\ud800",
]  # fmt: skip
NAMES = st.sampled_from(HERE) | st.sampled_from(ODD) | st.text(min_size=1, max_size=12)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from(HERE + ODD[:-1])
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=6,
)
_KEYS = (
    "key value etag metadata options operations operation request keys parallelism data entryId event contentType "
    "resourceId lockOwner expiryInSeconds name format plaintext algorithm keyName inputs messages ofUser content tools "
    "parameters schedule dueTime repeats ttl period filter sort page ciphertext digest signature temperature"
)
KEYS = st.sampled_from(_KEYS.split())
SHAPED = st.dictionaries(KEYS, VALUES, max_size=6)
BODIES = (
    st.binary(max_size=60)
    | (SHAPED | st.lists(SHAPED | VALUES, max_size=3) | VALUES).map(lambda value: json.dumps(value).encode())
    | st.sampled_from(
        [
            b"", b"null", b"[null]", b'[{"key":null}]', b'[{"key":"k","value":' + b"[" * 2000, b"\xff", b"1e999",
            b'{"operations":[{"operation":"upsert"}]}', b'{"operations":7}', b'{"keys":[1]}', b"{" * 100_000,
            b'[{"key":"k","value":1,"metadata":[]}]', b'[{"key":"k","options":"x"}]', b"9" * 100_000, b'{"a":1,"a":2}',
        ]
    )
)  # fmt: skip
QUERIES = st.sampled_from(
    [
        "", "?key=", "?metadata.=x", "?metadata.ttlInSeconds=x", "?concurrency=%zz", "?a&&=&b",
        "?key=%FF&metadata.%FF=%ED%A0%80",
    ]
)  # fmt: skip
TYPES = [
    "",
    "application/json",
    "text/plain",
    "application/cloudevents+json",
    "application/octet-stream",
    "x/y;\xff",
    ";",
]
PREFIXES = [
    b"",
    b"GET / HTTP/1.1\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"POST /v1.0/state/state HTTP/1.1\r\nContent-Length: 5\r\n\r\n",
]
DAPR, TASK_HUB = "dapr.proto.runtime.v1.Dapr", "TaskHubSidecarService"
METHODS = [(service, name) for service in (DAPR, TASK_HUB) for name in services.methods(service)]
ENDING = ("Shutdown",)
"""What ends the sidecar is left out."""
GRPC_S = 2.0
"""After so long a call is given up. Streams may stay open, and calls that wait for workers or schedulers may wait."""
INTERNAL = re.compile(r"Traceback|object has no attribute|NoneType|takes \d+ positional|\.py\b|KeyError|TypeError")


@pytest.fixture(scope="module")
def surface(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Every verb and route; what ends the sidecar is left out."""
    found = routes(offered(tmp_path_factory.mktemp("surface")))
    return [f"{verb} /{row.path}" for verb, row in found if not row.path.endswith("/shutdown")]


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SidecarProcess]:
    """One component of each kind; at the end the log must not tell of a mistake of ours."""
    folder: Path = tmp_path_factory.mktemp("bad-input")
    (folder / "secrets.json").write_text('{"a": "b"}')
    for name in ("files", "keys"):
        (folder / name).mkdir()

    def file(name: str) -> dict[str, str]:
        return {"connectionString": str(folder / f"{name}.db")}

    documents = [
        component("state", "state.sqlite", **file("state")),
        component("pubsub", "pubsub.in-memory"),
        component("vault", "secretstores.local.file", secretsFile=str(folder / "secrets.json")),
        component("files", "bindings.localstorage", rootPath=str(folder / "files")),
        component("settings", "configuration.sqlite", **file("settings")),
        component("locks", "lock.sqlite", **file("locks")),
        component("keys", "crypto.dapr.localstorage", path=str(folder / "keys")),
        component("echo", "conversation.echo"),
    ]
    resources = {"all.yaml": "---\n".join(documents)}
    with HttpApp() as app, SidecarProcess(folder, app_port=app.port, resources=resources) as running:
        running.wait("/v1.0/healthz")
        yield running
        told = [line for line in running.log().splitlines() if "Traceback" in line]
        assert not told, "\n".join(told[:5])


def quick(examples: int) -> settings:
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(max_examples=examples, deadline=None, suppress_health_check=checks)


def judge(reply: Any, what: object) -> None:
    """The answer is one of the specified shapes."""
    assert reply.status < 600
    if reply.status >= 400 and reply.headers.get("content-type") == "application/json" and reply.body:
        document = reply.json()
        assert document.get("errorCode") not in ("ERROR", "ERR_INTERNAL"), (what, document)
        assert document.get("message"), (what, document)
        assert not INTERNAL.search(document["message"]), (what, document)


@quick(1200)
@given(data=st.data())
def test_every_route_answers_in_shape(sidecar: SidecarProcess, surface: list[str], data: Any) -> None:
    verb, route = data.draw(st.sampled_from(surface)).split(" ")
    raw = data.draw(st.booleans())

    def named(_: object) -> str:
        name: str = data.draw(NAMES)
        return quote(name.encode("utf-8", "surrogatepass"), safe="%./@|" if raw else "")

    path = re.sub(r"\{[^}]*\}", named, route) + data.draw(QUERIES)
    body, content_type = data.draw(BODIES), data.draw(st.sampled_from(TYPES))
    headers = {"Content-Type": content_type} if content_type else {}
    judge(sidecar.request(verb, path, body, headers), (verb, path, body))


@quick(60)
@given(
    one=NAMES, two=NAMES, verb=st.sampled_from(["GET", "POST", "OPTIONS", "HEAD", "PATCH", "DELETE"]), body=BODIES,
    path=st.sampled_from(["/{}/{}", "/v1.0/{}", "/v1.0/invoke/{}/method/{}", "/v2/{}/{}", "/v1.0/state/{}/{}/more"]),
)  # fmt: skip
def test_what_no_route_takes(sidecar: SidecarProcess, one: str, two: str, verb: str, body: bytes, path: str) -> None:
    names = [quote(name.encode("utf-8", "surrogatepass"), safe="%./") for name in (one, two)]
    judge(sidecar.request(verb, path.format(*names), body), (verb, path, names))


@quick(150)
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


def drawn(data: Any, descriptor: Descriptor, depth: int = 3) -> Message:
    """Return a message with anything in its fields that their types allow."""
    from google.protobuf.message_factory import GetMessageClass

    message = GetMessageClass(descriptor)()
    for member in descriptor.fields:
        if not data.draw(st.booleans()):
            continue
        made = getattr(message, member.name)
        is_map = member.message_type is not None and member.message_type.GetOptions().map_entry
        if is_map:
            assert member.message_type is not None
            if member.message_type.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING:
                made[data.draw(NAMES).encode("utf-8", "replace").decode()] = data.draw(st.text(max_size=9))
        elif member.message_type is not None:
            if depth:
                inner = drawn(data, member.message_type, depth - 1)
                made.append(inner) if member.is_repeated else made.CopyFrom(inner)
        else:
            value = data.draw(_scalar(member))
            made.append(value) if member.is_repeated else setattr(message, member.name, value)
    return message


def _scalar(member: FieldDescriptor) -> st.SearchStrategy[Any]:
    match member.type:
        case FieldDescriptor.TYPE_STRING:
            return NAMES.map(lambda name: name.encode("utf-8", "replace").decode())
        case FieldDescriptor.TYPE_BYTES:
            return st.binary(max_size=40)
        case FieldDescriptor.TYPE_BOOL:
            return st.booleans()
        case FieldDescriptor.TYPE_DOUBLE | FieldDescriptor.TYPE_FLOAT:
            return st.floats(width=32)
        case FieldDescriptor.TYPE_ENUM:
            return st.integers(0, 9)
        case FieldDescriptor.TYPE_UINT32 | FieldDescriptor.TYPE_UINT64 | FieldDescriptor.TYPE_FIXED32:
            return st.integers(0, 2**31)
        case _:
            return st.integers(-(2**31), 2**31 - 1)


@quick(500)
@given(data=st.data())
def test_every_method_survives_any_message(sidecar: SidecarProcess, data: Any) -> None:
    service, name = data.draw(st.sampled_from([pair for pair in METHODS if pair[1] not in ENDING]))
    method = services.methods(service)[name]
    takes = pool.FindMessageTypeByName(method.request)
    count = data.draw(st.integers(0, 3)) if method.client_streaming else 1
    sent = [
        data.draw(st.binary(max_size=80)) if data.draw(st.integers(0, 4)) == 0
        else drawn(data, takes).SerializeToString()
        for _ in range(count)
    ]  # fmt: skip
    with grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel:
        path = f"/{service}/{name}"
        error: Any = None
        try:
            if method.client_streaming and method.server_streaming:
                list(channel.stream_stream(path)(iter(sent), timeout=GRPC_S))
            elif method.server_streaming:
                list(channel.unary_stream(path)(sent[0], timeout=GRPC_S))
            else:
                channel.unary_unary(path)(sent[0], timeout=GRPC_S)
        except grpc.RpcError as raised:
            error = raised
        if error is not None:
            assert not INTERNAL.search(error.details() or ""), (path, sent, error)
    assert sidecar.request("GET", "/v1.0/healthz/outbound").status == 204


def test_oversized_bodies_are_refused_in_the_route_s_own_words(sidecar: SidecarProcess) -> None:
    huge = json.dumps([{"key": "k", "value": "x" * (5 << 20)}])
    saved = sidecar.request("POST", "/v1.0/state/state", huge)
    assert (saved.status, saved.json()["errorCode"]) == (400, "ERR_MALFORMED_REQUEST")
    assert "stream too large" in saved.json()["message"]
    published = sidecar.request("POST", "/v1.0/publish/pubsub/t", huge)
    assert (published.status, published.json()["errorCode"]) == (500, "ERR_PUBSUB_PUBLISH_MESSAGE")
    invoked = sidecar.request("POST", "/v1.0/invoke/app/method/m", huge)
    assert (invoked.status, invoked.json()["errorCode"]) == (500, "ERR_DIRECT_INVOKE")


def test_an_oversized_head_is_431(sidecar: SidecarProcess) -> None:
    assert sidecar.request("GET", "/v1.0/healthz", headers={"X-Long": "x" * 20000}).status == 431
