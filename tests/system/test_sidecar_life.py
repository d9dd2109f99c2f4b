"""The life of a real sidecar: start, health, tokens, limits, signals, end (spec `runtime.md` 1, `http-api.md` 1)."""

from __future__ import annotations

import http.client
import json
import secrets
import signal
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from apps import Call, HttpApp
from ports import free_ports
from sidecars import START_S, SidecarProcess, component, eventually

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def test_the_apis_answer_before_the_application_is_there(tmp_path: Path) -> None:
    """`healthz/outbound` is ready at once, `healthz` only when the application listens; invoking it fails clearly."""
    (port,) = free_ports(1)
    with SidecarProcess(tmp_path, app_port=port) as sidecar:
        waiting = sidecar.request("GET", "/v1.0/healthz")
        assert (waiting.status, waiting.json()) == (
            500, {"errorCode": "ERR_HEALTH_NOT_READY", "message": "dapr is not ready: [runtime]"},
        )  # fmt: skip
        invoked = sidecar.request("GET", "/v1.0/invoke/app/method/m")
        assert (invoked.status, invoked.json()["errorCode"]) == (500, "ERR_DIRECT_INVOKE")
        with HttpApp(port=port):
            sidecar.wait("/v1.0/healthz")
            assert sidecar.request("GET", "/v1.0/invoke/app/method/m").status == 200


class AskedApp(HttpApp):
    """Notes what it is asked when it is well: for `calls` these questions do not count."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[tuple[str, str]] = []
        self.done = threading.Event()

    def reply(self, call: Call) -> tuple[int, Mapping[str, str], bytes]:
        if call.path.startswith("/dapr/"):
            self.asked.append((call.path, call.headers["dapr-app-id"]))
        if call.path == "/dapr/subscribe":
            self.done.set()
        return super().reply(call)


@pytest.mark.parametrize("left_out", [False, True])
def test_an_application_is_asked_for_its_configuration(tmp_path: Path, left_out: bool) -> None:
    """With or without a placement service, before its subscriptions (spec `http-api.md` 5.1); unless it is left out."""
    arguments = ["--disable-init-endpoints", "config"] if left_out else []
    resources = {"ps.yaml": component("ps", "pubsub.in-memory")}
    with AskedApp() as app, SidecarProcess(tmp_path, app_port=app.port, resources=resources, arguments=arguments):
        assert app.done.wait(START_S)
    questions = ["/dapr/subscribe"] if left_out else ["/dapr/config", "/dapr/subscribe"]
    assert app.asked == [(path, "app") for path in questions]


def test_health_checks_gate_the_application(tmp_path: Path) -> None:
    """Three failed probes stop deliveries and calls; one success starts them again (spec 7.7)."""
    sick = threading.Event()

    def answer(call: Call) -> tuple[int, Mapping[str, str], bytes]:
        return (503 if call.path == "/alive" and sick.is_set() else 200), {}, b""

    subscriptions = [{"pubsubname": "ps", "topic": "t", "route": "/t"}]
    resources = {"ps.yaml": component("ps", "pubsub.sqlite", connectionString=str(tmp_path / "ps.db"))}
    arguments = [
        "--enable-app-health-check", "--app-health-check-path", "/alive", "--app-health-probe-interval", "1",
        "--app-health-threshold", "1",
    ]  # fmt: skip
    with (
        HttpApp(subscriptions, answer) as app,
        SidecarProcess(tmp_path, app_port=app.port, resources=resources, arguments=arguments) as sidecar,
    ):
        sidecar.wait("/v1.0/healthz")
        assert sidecar.post_json("/v1.0/publish/ps/t", 1).status == 204
        app.wait(lambda calls: any(call.path == "/t" for call in calls))
        sick.set()
        eventually(lambda: sidecar.request("GET", "/v1.0/invoke/app/method/m").status == 500)
        assert "app is not in a healthy state" in sidecar.request("GET", "/v1.0/invoke/app/method/m").json()["message"]
        delivered = sum(call.path == "/t" for call in app.calls)
        assert sidecar.post_json("/v1.0/publish/ps/t", 2).status == 204
        sick.clear()
        app.wait(lambda calls: sum(call.path == "/t" for call in calls) > delivered)
        connection = sidecar.request("GET", "/v1.0/metadata").json()["appConnectionProperties"]
        assert connection["health"]["healthCheckPath"] == "/alive"


def test_tokens_both_ways(tmp_path: Path) -> None:
    env = {"DAPR_API_TOKEN": "in-secret", "APP_API_TOKEN": "out-secret"}
    with HttpApp() as app, SidecarProcess(tmp_path, app_port=app.port, env=env) as sidecar:
        sidecar.wait("/v1.0/healthz")
        refused = sidecar.request("GET", "/v1.0/metadata")
        assert (refused.status, refused.body) == (401, b"invalid api token\n")
        assert refused.headers["content-type"] == "text/plain; charset=utf-8"
        token = {"dapr-api-token": "in-secret"}
        assert sidecar.request("GET", "/v1.0/metadata", headers=token).status == 200
        assert sidecar.request("POST", "/v1.0/invoke/app/method/m", b"", token).status == 200
        (call,) = [call for call in app.calls if call.path == "/m"]
        assert call.headers["dapr-api-token"] == "out-secret"


def test_cross_origin_requests(tmp_path: Path) -> None:
    with SidecarProcess(tmp_path, arguments=["--allowed-origins", "http://a.example"]) as sidecar:
        asked = {"Origin": "http://a.example", "Access-Control-Request-Method": "PUT"}
        allowed = sidecar.request("OPTIONS", "/v1.0/metadata", headers=asked)
        assert (allowed.status, allowed.headers["access-control-allow-origin"]) == (200, "http://a.example")
        stranger = sidecar.request("OPTIONS", "/v1.0/metadata", headers={**asked, "Origin": "http://b.example"})
        assert stranger.status == 200
        assert "access-control-allow-origin" not in stranger.headers


def test_the_application_s_concurrency_is_limited(tmp_path: Path) -> None:
    """With `--app-max-concurrency 2` never more than two calls are with the application."""
    inside, most, lock, gate = 0, 0, threading.Lock(), threading.Event()

    def answer(call: Call) -> tuple[int, Mapping[str, str], bytes]:
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
            if inside == 2:
                gate.set()
        gate.wait(60)
        with lock:
            inside -= 1
        return 200, {}, b""

    arguments = ["--app-max-concurrency", "2"]
    with HttpApp(answer=answer) as app, SidecarProcess(tmp_path, app_port=app.port, arguments=arguments) as sidecar:
        sidecar.wait("/v1.0/healthz")
        statuses: list[int] = []
        callers = [
            threading.Thread(
                target=lambda: statuses.append(sidecar.request("POST", "/v1.0/invoke/app/method/m", b"x").status)
            )
            for _ in range(10)
        ]
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join()
        assert statuses == [200] * 10
        assert most == 2


def test_the_public_port_shows_health_and_metadata_alone(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    env = {"DAPR_API_TOKEN": "secret"}
    arguments = ["--dapr-public-port", str(port), "--dapr-public-listen-address", "127.0.0.1"]
    with SidecarProcess(tmp_path, arguments=arguments, env=env) as sidecar:
        sidecar.wait("/v1.0/healthz")
        sidecar.http_port, private = port, sidecar.http_port
        assert sidecar.request("GET", "/v1.0/metadata").json()["id"] == "app"
        assert sidecar.request("GET", "/v1.0/state/s/k").status == 404
        assert sidecar.request("POST", "/v1.0/metadata").status == 405
        sidecar.http_port = private
        assert sidecar.request("GET", "/v1.0/metadata").status == 401


@pytest.mark.parametrize("way", ["SIGTERM", "SIGINT", "shutdown", "forced"])
def test_ends_and_their_exit_codes(tmp_path: Path, way: str) -> None:
    with SidecarProcess(tmp_path) as sidecar:
        sidecar.wait("/v1.0/healthz")
        assert sidecar.process is not None
        if way in ("shutdown", "forced"):
            headers = {"dapr-force-shutdown": "true"} if way == "forced" else {}
            assert sidecar.request("POST", "/v1.0/shutdown", headers=headers).status == 204
        else:
            sidecar.kill(getattr(signal, way))
        assert sidecar.process.wait(60) == (1 if way == "forced" else 0)


def test_sighup_starts_anew_with_the_files_of_now(tmp_path: Path) -> None:
    sidecar = SidecarProcess(tmp_path, resources={"a.yaml": component("first", "state.in-memory")})
    with sidecar:
        sidecar.wait("/v1.0/healthz")
        pid = sidecar.process.pid if sidecar.process else 0
        (tmp_path / "resources-app" / "b.yaml").write_text(component("second", "state.in-memory"))
        sidecar.kill(signal.SIGHUP)
        eventually(lambda: names(sidecar) == {"first", "second"})
        assert sidecar.process is not None
        assert sidecar.process.pid == pid
        assert sidecar.stop() == 0


def names(sidecar: SidecarProcess) -> set[str]:
    try:
        return {row["name"] for row in sidecar.request("GET", "/v1.0/metadata").json()["components"]}
    except (OSError, http.client.HTTPException):
        return set()


def test_api_log_and_json_log(tmp_path: Path) -> None:
    arguments = ["--enable-api-logging", "--log-as-json"]
    with SidecarProcess(tmp_path, arguments=arguments) as sidecar:
        sidecar.request("GET", "/v1.0/metadata", headers={"User-Agent": "tester"})
        sidecar.stop()
        lines = [json.loads(line) for line in sidecar.log().splitlines()]
        (called,) = [line for line in lines if line["msg"] == "HTTP API Called" and line.get("useragent") == "tester"]
        assert (called["method"], called["code"], called["scope"]) == (
            "GET /v1.0/metadata",
            200,
            "dapr.runtime.http-info",
        )
        assert all(
            {"time", "level", "msg", "app_id", "instance", "scope", "type", "ver"} <= line.keys() for line in lines
        )


def test_the_api_log_names_operations_where_urls_are_hidden(tmp_path: Path) -> None:
    """`http-api.md` 1: the endpoint's name; of an invocation its target, never the path."""
    config = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec:\n"
    config += "  logging: {apiLogging: {enabled: true, obfuscateURLs: true, omitHealthChecks: true}}\n"
    (tmp_path / "config.yaml").write_text(config)
    asked = {
        "/v1.0/metadata": "GetMetadata",
        "/v1.0/state/orders/card-4711": "GetState",
        "/v1.0/invoke/app/method/card-4711": "InvokeService/app",
        "/v1.0/actors/Card/4711/method/pay": "InvokeActor/Card.4711",
        "/v1.0/actors/Card/4711/state/card-4711": "GetActorState",  # by the same name without a placement service
        "/v1.0-beta1/workflows/dapr/card-4711": "GetWorkflow",
        "/card-4711": "InvokeService",
        "/v1.0/state/orders/card-4711%zz": "InvokeService",
    }
    with SidecarProcess(tmp_path, arguments=["--config", "config.yaml", "--log-as-json"]) as sidecar:
        for path in asked:
            sidecar.request("GET", path)
        sidecar.request("GET", "/card-4711", headers={"dapr-app-id": "pay"})
        sidecar.request("GET", "/v1.0/invoke/app/method/card%23")
        sidecar.stop()
        lines = [json.loads(line) for line in sidecar.log().splitlines()]
    called = [line["method"] for line in lines if line["msg"] == "HTTP API Called"]
    assert called == [*asked.values(), "InvokeService/pay", "InvokeService/app"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--app-protocol", "smoke"], "smoke"),
        (["--no-such-flag"], "no-such-flag"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--resources-path", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_get_an_answer_not_a_traceback(tmp_path: Path, arguments: list[str], said: str) -> None:
    sidecar = SidecarProcess(tmp_path, arguments=arguments)
    sidecar.start(ready=False)
    assert sidecar.process is not None
    assert sidecar.process.wait(60) in (1, 2)
    assert said in sidecar.log()
    assert "Traceback" not in sidecar.log()


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    sidecar = SidecarProcess(tmp_path)
    with socket.socket() as other:
        other.bind(("127.0.0.1", sidecar.http_port))
        other.listen()
        sidecar.start(ready=False)
        assert sidecar.process is not None
        assert sidecar.process.wait(60) == 1
    assert str(sidecar.http_port) in sidecar.log()
    assert "Traceback" not in sidecar.log()


def test_two_sidecars_of_one_machine_find_each_other_by_mdns(tmp_path: Path) -> None:
    """The default of `pilliond`; several instances of one application share the load, a dead one is left alone."""
    callee = f"callee-{secrets.token_hex(4)}"  # everybody on this network hears of it
    with HttpApp(answer=lambda call: (200, {}, b"1")) as one, HttpApp(answer=lambda call: (200, {}, b"2")) as two:
        first = SidecarProcess(tmp_path, callee, app_port=one.port)
        second = SidecarProcess(tmp_path, callee, app_port=two.port)
        with SidecarProcess(tmp_path, "caller") as caller, first, second:
            first.wait("/v1.0/healthz")
            second.wait("/v1.0/healthz")
            seen: set[bytes] = set()

            def both() -> bool:
                reply = caller.request("GET", f"/v1.0/invoke/{callee}/method/m")
                assert reply.status == 200, (reply, caller.log())
                seen.add(reply.body)
                return seen == {b"1", b"2"}

            eventually(both, 75)
            first.kill()
            for _ in range(20):
                assert caller.request("GET", f"/v1.0/invoke/{callee}/method/m").body == b"2"
