"""Policies around every kind of target, through a real `pilliond` (spec `runtime.md` 4; docs/resiliency.md)."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprGrpcError
from dapr.conf import settings

from apps import HttpApp
from sidecars import SidecarProcess, component, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from apps import Call
    from servers import RedisServer

PATIENCE_S = 60.0


def resiliency(spec: str) -> str:
    indented = "\n".join("  " + line for line in spec.strip("\n").splitlines())
    return f"apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata:\n  name: rules\nspec:\n{indented}\n"


def subscription(topic: str, route: str, dead_letter: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {"pubsubname": "bus", "topic": topic, "route": route}
    return found | ({"deadLetterTopic": dead_letter} if dead_letter else {})


class Failing:
    """Answers `status` so many times for each path, then 200."""

    def __init__(self, times: int, status: int = 503) -> None:
        self.times, self.status = times, status
        self._seen: dict[str, int] = {}
        self._turn = threading.Lock()

    def __call__(self, call: Call) -> tuple[int, Mapping[str, str], bytes]:
        path = call.path.partition("?")[0]
        with self._turn:
            seen = self._seen[path] = self._seen.get(path, 0) + 1
        return (self.status, {}, b"not yet") if seen <= self.times else (200, {}, b"at last")


INVOCATION = resiliency("""
policies:
  timeouts: {attempt: TIMEOUT}
  retries:
    few: {policy: constant, duration: 10ms, maxRetries: 3, matching: {httpStatusCodes: "500-599"}}
  circuitBreakers:
    fuse: {trip: consecutiveFailures >= 4, timeout: 8s}
targets:
  apps:
    app: {timeout: attempt, retry: few, circuitBreaker: fuse}
""")


@pytest.fixture
def failing(tmp_path: Path) -> Iterator[tuple[SidecarProcess, HttpApp, Failing]]:
    """A sidecar with policies for its own application, which fails three times on each path."""
    answer = Failing(3)
    with (
        HttpApp(answer=answer) as app,
        SidecarProcess(
            tmp_path, app_port=app.port, resources={"r.yaml": INVOCATION.replace("TIMEOUT", "60s")}
        ) as sidecar,
    ):
        sidecar.wait("/v1.0/healthz")
        yield sidecar, app, answer


def test_an_invocation_is_repeated_until_it_succeeds(failing: tuple[SidecarProcess, HttpApp, Failing]) -> None:
    """Three retries for a listed status; one that is not listed is the client's at once."""
    sidecar, app, answer = failing
    reply = sidecar.request("POST", "/v1.0/invoke/app/method/cart", b"one apple")
    assert (reply.status, reply.body) == (200, b"at last")
    assert [call.body for call in app.calls] == [b"one apple"] * 4
    answer.status = 404
    assert sidecar.request("GET", "/v1.0/invoke/app/method/nowhere").status == 404
    assert len(app.calls) == 5


def test_a_breaker_opens_and_closes(failing: tuple[SidecarProcess, HttpApp, Failing]) -> None:
    """Four failures open it for that method alone; a refusal ends the call; after its timeout a probe closes it."""
    sidecar, app, answer = failing
    answer.times = 1000
    reply = sidecar.request("GET", "/v1.0/invoke/app/method/broken")
    assert reply.status == 503  # the fourth failure is the last attempt's
    reply = sidecar.request("GET", "/v1.0/invoke/app/method/broken")
    assert reply.status == 500
    assert reply.json()["message"] == "failed to invoke, id: app, err: circuit breaker is open"
    assert len(app.calls) == 4
    answer.times = 0
    assert sidecar.request("GET", "/v1.0/invoke/app/method/other").status == 200
    eventually(lambda: sidecar.request("GET", "/v1.0/invoke/app/method/broken").status == 200)
    assert "circuit breaker fuse of app:broken: closed, was half-open" in sidecar.log()


def test_a_slow_application_is_given_up(tmp_path: Path) -> None:
    """The timeout is that of one attempt; what the client reads is the deadline."""
    hold = threading.Event()

    def slow(call: Call) -> tuple[int, Mapping[str, str], bytes]:
        hold.wait(PATIENCE_S)
        return 200, {}, b""

    with (
        HttpApp(answer=slow) as app,
        SidecarProcess(
            tmp_path, app_port=app.port, resources={"r.yaml": INVOCATION.replace("TIMEOUT", "1500ms")}
        ) as sidecar,
    ):
        sidecar.wait("/v1.0/healthz")
        reply = sidecar.request("GET", "/v1.0/invoke/app/method/slow")
        hold.set()
        assert reply.status == 500
        assert reply.json()["message"] == "failed to invoke, id: app, err: context deadline exceeded"
        assert len(app.wait(lambda calls: len(calls) >= 4)) == 4


@pytest.mark.redis
def test_a_store_that_hangs(tmp_path: Path, private_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that does not answer costs its timeout, over both protocols, and works again when it is back."""
    rules = resiliency("""
policies:
  timeouts: {short: 3s}
  retries:
    once: {duration: 10ms, maxRetries: 1}
targets:
  components:
    store:
      outbound: {timeout: short, retry: once}
""")
    store = component("store", "state.redis", redisHost=private_redis.address)
    with SidecarProcess(tmp_path, resources={"r.yaml": rules, "store.yaml": store}) as sidecar:
        assert sidecar.post_json("/v1.0/state/store", [{"key": "k", "value": 1}]).status == 204
        private_redis.pause()
        reply = sidecar.request("GET", "/v1.0/state/store/k")
        assert reply.status == 500
        assert reply.json()["message"] == "fail to get k from state store store: context deadline exceeded"
        monkeypatch.setattr(settings, "DAPR_HTTP_ENDPOINT", f"http://127.0.0.1:{sidecar.http_port}")
        with DaprClient(f"127.0.0.1:{sidecar.grpc_port}") as client, pytest.raises(DaprGrpcError) as failure:
            client.get_state("store", "k")
        assert "context deadline exceeded" in str(failure.value.details())
        private_redis.resume()
        assert sidecar.request("GET", "/v1.0/state/store/k").body == b"1"


def test_an_etag_conflict_is_final(tmp_path: Path) -> None:
    """Conflicts are neither repeated nor held against the store: the breaker stays closed."""
    rules = resiliency("""
policies:
  retries:
    ever: {duration: 60s}
  circuitBreakers:
    fuse: {trip: consecutiveFailures > 0}
targets:
  components:
    store:
      outbound: {retry: ever, circuitBreaker: fuse}
""")
    resources = {"r.yaml": rules, "store.yaml": component("store", "state.in-memory")}
    with SidecarProcess(tmp_path, resources=resources) as sidecar:
        item = {"key": "k", "value": 1, "etag": "77", "options": {"concurrency": "first-write"}}
        for _ in range(2):
            assert sidecar.post_json("/v1.0/state/store", [item]).status == 409
        assert sidecar.post_json("/v1.0/state/store", [{"key": "k", "value": 1}]).status == 204


@pytest.mark.redis
def test_publishing_waits_for_its_broker(tmp_path: Path, private_redis: RedisServer) -> None:
    """A publish is tried again while the broker hangs, and arrives when it is back."""
    rules = resiliency("""
policies:
  timeouts: {short: 3s}
  retries:
    many: {duration: 50ms, maxRetries: 60}
targets:
  components:
    bus:
      outbound: {timeout: short, retry: many}
""")
    bus = component("bus", "pubsub.redis", redisHost=private_redis.address)
    with (
        HttpApp([subscription("news", "/news")]) as app,
        SidecarProcess(tmp_path, app_port=app.port, resources={"r.yaml": rules, "bus.yaml": bus}) as sidecar,
    ):
        sidecar.wait_log("is started")
        assert sidecar.post_json("/v1.0/publish/bus/news", {"n": 0}).status == 204
        app.wait(lambda calls: len(calls) >= 1)
        private_redis.pause()
        answers: list[int] = []
        single = threading.Thread(
            target=lambda: answers.append(sidecar.post_json("/v1.0/publish/bus/news", {"n": 1}).status)
        )
        single.start()
        sidecar.wait_log("Pubsub_bus: trying again")
        private_redis.resume()
        single.join()
        assert answers == [204]
        app.wait(lambda calls: any(call.json()["data"] == {"n": 1} for call in calls))


DELIVERY = resiliency("""
policies:
  retries:
    few: {duration: 10ms, maxRetries: 2, matching: {httpStatusCodes: "500-599"}}
targets:
  components:
    bus:
      inbound: {retry: few}
""")


def buried(data: str) -> Callable[[list[Call]], bool]:
    """The last message that arrived is this one, on the dead-letter topic."""
    return lambda calls: bool(calls) and calls[-1].path == "/dead" and calls[-1].json()["data"] == data


def test_delivery_is_repeated_then_dead_lettered(tmp_path: Path) -> None:
    """As many attempts as the policy says; only then, or for a status that is not listed, the dead-letter topic."""

    def answer(call: Call) -> tuple[int, Mapping[str, str], bytes]:
        status = {"/bad": 500, "/wrong": 400}.get(call.path, 200)
        if call.path == "/heals":
            status = 200 if sum(other.path == "/heals" for other in app.calls) > 2 else 502
        return status, {}, b""

    app = HttpApp(
        [
            subscription("bad", "/bad", "dead"),
            subscription("wrong", "/wrong", "dead"),
            subscription("heals", "/heals", "dead"),
            subscription("dead", "/dead"),
        ],
        answer,
    )
    resources = {"r.yaml": DELIVERY, "bus.yaml": component("bus", "pubsub.in-memory")}
    with app, SidecarProcess(tmp_path, app_port=app.port, resources=resources) as sidecar:
        sidecar.wait_log("is started", 4)
        for topic, attempts in (("bad", 3), ("wrong", 1)):
            before = len(app.calls)
            assert sidecar.post_json(f"/v1.0/publish/bus/{topic}", topic).status == 204
            calls = app.wait(buried(topic))
            assert [call.path for call in calls[before:]] == [f"/{topic}"] * attempts + ["/dead"]
        before = len(app.calls)
        assert sidecar.post_json("/v1.0/publish/bus/heals", 1).status == 204
        app.wait(lambda calls: len(calls) == before + 3)
        assert sidecar.post_json("/v1.0/publish/bus/bad", "end").status == 204
        calls = app.wait(buried("end"))
        assert [call.path for call in calls[before:]] == ["/heals"] * 3 + ["/bad"] * 3 + ["/dead"]


def test_messages_that_a_breaker_keeps_back_are_not_dead_lettered(tmp_path: Path) -> None:
    """The message that opened the breaker is dead-lettered; those that were never tried stay with the broker."""
    rules = resiliency("""
policies:
  circuitBreakers:
    fuse: {trip: consecutiveFailures > 0, timeout: 500ms}
targets:
  components:
    bus:
      inbound: {circuitBreaker: fuse}
""")

    def answer(call: Call) -> tuple[int, Mapping[str, str], bytes]:
        return (500 if b"poison" in call.body and call.path == "/m" else 200), {}, b""

    bus = component("bus", "pubsub.sqlite", connectionString=str(tmp_path / "q.db"), redeliverInterval="200ms")
    resources = {"r.yaml": rules, "bus.yaml": bus}
    app = HttpApp([subscription("m", "/m", "dead")], answer)
    with app, SidecarProcess(tmp_path, app_port=app.port, resources=resources) as sidecar:
        sidecar.wait_log("is started")
        assert sidecar.post_json("/v1.0/publish/bus/m", "poison").status == 204
        app.wait(lambda calls: len(calls) == 1)
        for number in range(5):
            assert sidecar.post_json("/v1.0/publish/bus/m", number).status == 204
        calls = app.wait(lambda calls: {0, 1, 2, 3, 4} <= {call.json()["data"] for call in calls})
        assert {call.path for call in calls} == {"/m"}
        assert sidecar.log().count("went to dead-letter topic") == 1


def test_a_sidecar_that_stops_does_not_wait_for_the_next_attempt(tmp_path: Path) -> None:
    """The message goes back to the broker, is not dead-lettered, and comes to the next sidecar."""
    rules = resiliency("""
policies:
  retries:
    slow: {duration: 60s}
targets:
  components:
    bus:
      inbound: {retry: slow}
""")
    bus = component("bus", "pubsub.sqlite", connectionString=str(tmp_path / "q.db"))
    resources = {"r.yaml": rules, "bus.yaml": bus}
    answer = Failing(1)
    with HttpApp([subscription("m", "/m", "dead")], answer) as app:
        with SidecarProcess(tmp_path, app_port=app.port, resources=resources) as sidecar:
            sidecar.wait_log("is started")
            assert sidecar.post_json("/v1.0/publish/bus/m", "patience").status == 204
            sidecar.wait_log("Pubsub_bus: trying again")
            assert sidecar.stop() == 0
            assert "dead-letter" not in sidecar.log()
        with SidecarProcess(tmp_path, app_port=app.port, resources=resources):
            calls = app.wait(lambda calls: len(calls) == 2)
            assert [(call.path, call.json()["data"]) for call in calls] == [("/m", "patience")] * 2


def test_a_resource_with_a_mistake_is_left_out(tmp_path: Path) -> None:
    """The sidecar starts; the log names file, line and field; other resources count."""
    resources = {
        "bad.yaml": resiliency("policies:\n  timeouts: {short: soon}"),
        "good.yaml": resiliency("policies:\n  timeouts: {DefaultTimeoutPolicy: 5s}"),
        "store.yaml": component("store", "state.in-memory"),
    }
    with SidecarProcess(tmp_path, resources=resources) as sidecar:
        assert sidecar.post_json("/v1.0/state/store", [{"key": "k", "value": 1}]).status == 204
        assert "bad.yaml:7: spec.policies.timeouts.short: not a duration: 'soon'" in sidecar.log()
