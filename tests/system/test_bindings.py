"""Bindings through real sidecars: both APIs, HTTP and gRPC applications, the official Python SDK."""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprGrpcError
from dapr.conf import settings

from apps import HttpApp
from pillion.wire.messages import rpc
from pillion.wire.messages import runtime as m
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from apps import Call

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
DAPR = "/dapr.proto.runtime.v1.Dapr/"
CALLBACK = "dapr.proto.runtime.v1.AppCallback"


def outside(call: Call) -> tuple[int, Mapping[str, str], bytes]:
    """The system that the http binding calls."""
    if call.path == "/missing":
        return 404, {"X-Why": "gone"}, b"not here"
    return 200, {"Content-Type": "text/plain"}, json.dumps([call.headers, call.body.decode()]).encode()


@pytest.fixture(scope="module")
def server() -> Iterator[HttpApp]:
    with HttpApp(answer=outside) as app:
        yield app


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, server: HttpApp) -> Iterator[SidecarProcess]:
    folder = tmp_path_factory.mktemp("outputs")
    resources = {
        "web.yaml": component("web", "bindings.http", url=f"http://127.0.0.1:{server.port}"),
        "files.yaml": component("files", "bindings.localstorage", rootPath=str(folder / "files")),
        "cron.yaml": component("tick", "bindings.cron", schedule="@every 1s"),
    }
    with SidecarProcess(folder, resources=resources) as found:
        yield found


def call(sidecar: SidecarProcess, request: Any, *metadata: tuple[str, str]) -> tuple[Any, dict[str, Any]]:
    """Invoke over gRPC; return the response, or the error, and the response headers."""
    with grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel:
        method = channel.unary_unary(
            DAPR + "InvokeBinding", m.InvokeBindingRequest.SerializeToString, m.InvokeBindingResponse.FromString
        )
        try:
            response, answered = method.with_call(request, metadata=metadata, timeout=60)
        except grpc.RpcError as error:
            failed: Any = error
            return failed, dict(failed.initial_metadata())
        return response, dict(answered.initial_metadata())


# -- output


def test_files_over_http(sidecar: SidecarProcess) -> None:
    """Data of a response are the body; without a response 204; strings keep their quotes for the component."""
    path, where = "/v1.0/bindings/files", {"fileName": "a/b.txt"}
    made = sidecar.post_json(path, {"operation": "create", "data": "hello there", "metadata": where})
    assert (made.status, made.body) == (200, b'{"fileName":"a/b.txt"}')
    assert made.headers["content-type"] == "application/json"
    read = sidecar.request("PUT", path, json.dumps({"operation": "get", "metadata": where}))
    assert (read.status, read.body) == (200, b"hello there")
    made = sidecar.post_json(path, {"operation": "create", "data": {"b": 1.0, "a": "<"}, "metadata": where})
    assert made.status == 200
    assert sidecar.post_json(path, {"operation": "get", "metadata": where}).body == b'{"a":"\\u003c","b":1}'
    gone = sidecar.post_json(path, {"operation": "delete", "metadata": where})
    assert (gone.status, gone.body) == (204, b"")


@pytest.mark.parametrize(
    ("name", "body", "status", "code", "text"),
    [
        ("nobody", '{"operation":"get"}', 500, "ERR_INVOKE_OUTPUT_BINDING", "couldn't find output binding nobody"),
        ("tick", '{"operation":"get"}', 500, "ERR_INVOKE_OUTPUT_BINDING", "couldn't find output binding tick"),
        ("files", "{}", 500, "ERR_INVOKE_OUTPUT_BINDING", "operation field is missing from request"),
        ("files", '{"operation":"fly"}', 500, "ERR_INVOKE_OUTPUT_BINDING",
         "binding files does not support operation fly. supported operations:create get delete list"),
        ("files", '{"operation":"get","metadata":{"fileName":"x"}}', 500, "ERR_INVOKE_OUTPUT_BINDING",
         "file not found: x"),
        ("files", "", 400, "ERR_MALFORMED_REQUEST", "EOF"),
        ("files", "[1]", 400, "ERR_MALFORMED_REQUEST", "not a JSON object"),
        ("files", '{"operation":1}', 400, "ERR_MALFORMED_REQUEST", "operation is not a string"),
        ("files", '{"operation":"get","metadata":{"a":1}}', 400, "ERR_MALFORMED_REQUEST", "metadata is not"),
        ("files", '{"operation":"get"', 400, "ERR_MALFORMED_REQUEST", "unexpected EOF"),
    ],
)  # fmt: skip
def test_errors_over_http(sidecar: SidecarProcess, name: str, body: str, status: int, code: str, text: str) -> None:
    """Each has its status, code and text."""
    reply = sidecar.request("POST", f"/v1.0/bindings/{name}", body)
    assert (reply.status, reply.json()["errorCode"]) == (status, code)
    lead = f"error invoking output binding {name}: " if status == 500 else "failed deserializing HTTP body: "
    assert reply.json()["message"].startswith(lead)
    assert text in reply.json()["message"]
    assert list(reply.json()) == ["errorCode", "message"]


def test_metadata_both_ways_over_http(sidecar: SidecarProcess) -> None:
    """Trace context and baggage reach the component; its metadata are headers, of errors too; no data is `null`."""
    path = "/v1.0/bindings/web"
    trace = {"traceparent": PARENT, "tracestate": "a=1", "baggage": "k=v"}
    told = sidecar.post_json(path, {"operation": "create", "metadata": {"X-Mine": "1", "traceparent": "x"}}, **trace)
    headers, body = told.json()
    assert body == "null"
    assert (headers["x-mine"], headers["tracestate"], headers["baggage"]) == ("1", "a=1", "k=v")
    assert headers["traceparent"].split("-")[1] == PARENT.split("-")[1]
    assert (told.status, told.headers["metadata.statuscode"], told.headers["metadata.status"]) == (200, "200", "200 OK")
    assert told.headers["metadata.content-type"] == "text/plain"
    failed = sidecar.post_json(path, {"operation": "get", "metadata": {"path": "/missing"}})
    assert (failed.status, failed.json()["errorCode"]) == (500, "ERR_INVOKE_OUTPUT_BINDING")
    assert failed.json()["message"] == "error invoking output binding web: received status code 404"
    assert (failed.headers["metadata.statuscode"], failed.headers["metadata.x-why"]) == ("404", "gone")


def test_output_over_grpc(sidecar: SidecarProcess) -> None:
    """Bytes stay bytes; metadata of the call reach the component; errors have headers and one detail."""
    made, _ = call(
        sidecar, m.InvokeBindingRequest(name="files", operation="create", data=b"\xff!", metadata={"fileName": "g"})
    )
    assert made.data == b'{"fileName":"g"}'
    read, _ = call(sidecar, m.InvokeBindingRequest(name="files", operation="get", metadata={"fileName": "g"}))
    assert read.data == b"\xff!"
    told, headers = call(
        sidecar, m.InvokeBindingRequest(name="web", operation="get", metadata={"baggage": "mine=1"}),
        ("traceparent", PARENT), ("baggage", "theirs=1"), ("x-other", "1"),
    )  # fmt: skip
    seen, _ = json.loads(told.data)
    assert seen["traceparent"].split("-")[1] == PARENT.split("-")[1]
    assert (seen["baggage"], "x-other" in seen) == ("mine=1", False)
    assert (told.metadata["statusCode"], headers["metadata.statuscode"]) == ("200", "200")
    failed, headers = call(sidecar, m.InvokeBindingRequest(name="web", operation="get", metadata={"path": "missing"}))
    assert (failed.code(), headers["metadata.statuscode"]) == (grpc.StatusCode.INTERNAL, "404")
    assert failed.details() == "error invoking output binding web: received status code 404"
    packed = dict(failed.trailing_metadata())["grpc-status-details-bin"]
    (detail,) = rpc.Status.FromString(packed).details
    info = rpc.ErrorInfo()
    assert detail.Unpack(info)
    assert (info.reason, info.domain) == ("ERR_INVOKE_OUTPUT_BINDING", "dapr.io")
    for request, text in (
        (m.InvokeBindingRequest(name="files"), "operation field is missing from request"),
        (m.InvokeBindingRequest(name="no", operation="get"), "couldn't find output binding no"),
    ):
        failed, _ = call(sidecar, request)
        assert failed.details() == f"error invoking output binding {request.name}: {text}"


def test_the_python_sdk(sidecar: SidecarProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """`invoke_binding` as its users call it."""
    monkeypatch.setattr(settings, "DAPR_HTTP_PORT", sidecar.http_port)
    monkeypatch.setattr(settings, "DAPR_GRPC_PORT", sidecar.grpc_port)
    with DaprClient(address=f"127.0.0.1:{sidecar.grpc_port}") as client:
        client.invoke_binding("files", "create", b"from the sdk", {"fileName": "sdk"})
        answer = client.invoke_binding("files", "get", "", {"fileName": "sdk"})
        assert (answer.data, answer.text()) == (b"from the sdk", "from the sdk")
        told = client.invoke_binding("web", "get")
        assert told.binding_metadata["statusCode"] == "200"
        with pytest.raises((grpc.RpcError, DaprGrpcError), match="couldn't find output binding"):
            client.invoke_binding("nobody", "get")


# -- input


def test_an_http_application(tmp_path: Path) -> None:
    """Asked by OPTIONS unless the direction says so, given events at its route; while it is unwell nothing is read."""
    well = [True]

    def answer(call: Call) -> tuple[int, Mapping[str, str], bytes]:
        if call.path == "/healthz":
            return (204 if well[0] else 500), {}, b""
        if call.method == "OPTIONS":
            return (405 if call.path == "/ticks" else 404), {}, b""
        return 204, {}, b""

    resources = {
        "a.yaml": component("tick", "bindings.cron", schedule="@every 1s", route="/ticks"),
        "b.yaml": component("unwanted", "bindings.cron", schedule="@every 1s"),
        "c.yaml": component("sure", "bindings.cron", schedule="@every 1s", direction="input"),
        "d.yaml": component("never", "bindings.cron", schedule="@every 1s", direction="output"),
    }
    arguments = ["--enable-app-health-check", "--app-health-probe-interval", "1", "--app-health-threshold", "1"]
    env = {"APP_API_TOKEN": "secret"}
    with HttpApp(answer=answer) as app, SidecarProcess(
        tmp_path, app_port=app.port, resources=resources, arguments=arguments, env=env
    ) as sidecar:  # fmt: skip
        calls = app.wait(lambda all: {"/ticks", "/sure"} <= {one.path for one in all if one.method == "POST"})
        asked = {one.path for one in calls if one.method == "OPTIONS"}
        assert asked == {"/ticks", "/unwanted"}
        tick = next(one for one in calls if (one.method, one.path) == ("POST", "/ticks"))
        assert (tick.body, tick.headers["content-type"], tick.headers["timezone"]) == (b"", "application/json", "Local")
        assert tick.headers["readtimeutc"].endswith(" +0000 UTC")
        assert tick.headers["traceparent"].startswith("00-")
        assert tick.headers["dapr-api-token"] == "secret"

        well[0] = False
        app.wait(lambda _: "input binding tick is not read any more" in sidecar.log())
        before = len([one for one in app.calls if one.path == "/ticks"])
        well[0] = True
        app.wait(lambda all: len([one for one in all if one.path == "/ticks"]) > before + 1)
        assert sidecar.stop() == 0
        assert {one.path for one in app.calls if one.method == "POST"} == {"/ticks", "/sure"}


class GrpcApp:
    """An application on grpcio; `answers` are what it says to events, one after the other, and then the last."""

    def __init__(self, wanted: list[str], answers: list[Any]) -> None:
        self.wanted, self.answers = wanted, answers
        self.events: queue.Queue[tuple[Any, dict[str, Any]]] = queue.Queue()

    def list(self, request: Any, context: Any) -> Any:
        return m.ListInputBindingsResponse(bindings=self.wanted)

    def event(self, request: Any, context: Any) -> Any:
        self.events.put((request, dict(context.invocation_metadata())))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is None:
            context.abort(grpc.StatusCode.INTERNAL, "not now")
        return answer

    @contextlib.contextmanager
    def running(self) -> Iterator[int]:
        server = grpc.server(ThreadPoolExecutor(4))
        handlers = {
            "ListInputBindings": grpc.unary_unary_rpc_method_handler(
                self.list, response_serializer=m.ListInputBindingsResponse.SerializeToString
            ),
            "OnBindingEvent": grpc.unary_unary_rpc_method_handler(
                self.event, m.BindingEventRequest.FromString, m.BindingEventResponse.SerializeToString
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(CALLBACK, handlers),))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(0).wait()


def test_a_grpc_application(tmp_path: Path, server: HttpApp) -> None:
    """It lists what it takes; its answer goes to the bindings it names, as JSON; a failure ends nothing."""
    answers = [
        None,
        m.BindingEventResponse(
            data=b'{"b": 1, "a": "<"}', to=["web", "nobody"], concurrency=m.BindingEventResponse.PARALLEL
        ),
        m.BindingEventResponse(data=b"not json", to=["nobody", "web"]),
        m.BindingEventResponse(data=b"not json", to=["web", "nobody"]),
        m.BindingEventResponse(),
    ]
    app = GrpcApp(["tick", "unknown"], answers)
    resources = {
        "a.yaml": component("tick", "bindings.cron", schedule="@every 1s"),
        "b.yaml": component("unwanted", "bindings.cron", schedule="@every 1s"),
        "web.yaml": component("web", "bindings.http", url=f"http://127.0.0.1:{server.port}/to"),
    }
    with app.running() as port, SidecarProcess(
        tmp_path, app_port=port, resources=resources, arguments=["--app-protocol", "grpc"], env={"APP_API_TOKEN": "t"}
    ) as sidecar:  # fmt: skip
        events = [app.events.get(timeout=90) for _ in range(5)]
        assert {request.name for request, _ in events} == {"tick"}
        request, metadata = events[0]
        assert dict(request.metadata)["timeZone"] == "Local"
        assert metadata["dapr-api-token"] == "t"
        calls = server.wait(lambda all: sum(one.path == "/to" for one in all) > 1)
        got = [one.body for one in calls if one.path == "/to"]
        assert got == [b'{"a":"\\u003c","b":1}', b"null"], "the second answer's first failure kept it from web"
        assert sidecar.stop() == 0
        log = sidecar.log()
        assert "error invoking app:" in log
        assert "could not be given to nobody" in log


RESILIENCY = """
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: { name: policies }
spec:
  policies:
    retries: { thrice: { policy: constant, duration: 10ms, maxRetries: 3 } }
  targets:
    components:
      web: { outbound: { retry: thrice } }
      tick: { inbound: { retry: thrice } }
"""


def test_policies(tmp_path: Path) -> None:
    """An outbound retry repeats an operation, an inbound one a delivery; 204 is a success and is not repeated."""
    left = {"POST /out": 2, "POST /tick": 2}

    def answer(call: Call) -> tuple[int, Mapping[str, str], bytes]:
        key = f"{call.method} {call.path}"
        if left.get(key, 0) > 0:
            left[key] -= 1
            return 503, {}, b""
        return 204, {}, b""

    with HttpApp(answer=answer) as app:
        resources = {
            "policies.yaml": RESILIENCY,
            "web.yaml": component("web", "bindings.http", url=f"http://127.0.0.1:{app.port}/out"),
            "tick.yaml": component("tick", "bindings.cron", schedule="@every 3s", direction="input"),
        }
        with SidecarProcess(tmp_path, app_port=app.port, resources=resources) as sidecar:
            assert sidecar.post_json("/v1.0/bindings/web", {"operation": "create"}).status == 200
            assert [one.path for one in app.calls].count("/out") == 3
            calls = app.wait(lambda all: sum(one.path == "/tick" for one in all) >= 3)
            first = [one for one in calls if one.path == "/tick"][:3]
            assert len({one.headers["readtimeutc"] for one in first}) == 1, "the same event, three times"
            assert sidecar.stop() == 0
            assert "did not process a tick" not in sidecar.log()


def test_stopping_waits_for_an_event_on_its_way(tmp_path: Path) -> None:
    """The application may finish what it began; nothing new comes in the meantime."""
    begun, go_on = threading.Event(), threading.Event()

    def answer(call: Call) -> tuple[int, Mapping[str, str], bytes]:
        if call.method == "POST":
            begun.set()
            assert go_on.wait(90)
        return 200, {}, b""

    resources = {"tick.yaml": component("tick", "bindings.cron", schedule="@every 1s")}
    with HttpApp(answer=answer) as app, SidecarProcess(tmp_path, app_port=app.port, resources=resources) as sidecar:
        assert begun.wait(90)
        sidecar.kill(signal.SIGTERM)
        sidecar.wait("/v1.0/healthz", 500)
        go_on.set()
        assert sidecar.process is not None
        assert sidecar.process.wait(90) == 0
        assert "did not process a tick" not in sidecar.log()
        assert "input binding tick is not read any more" in sidecar.log()
