"""A stop in the middle of the work (spec `runtime.md` 1.5): what is lost, what is answered, what goes on."""

from __future__ import annotations

import contextlib
import http.client
import threading
import time
from typing import TYPE_CHECKING

import pytest

from apps import Call, HttpApp
from sidecars import SidecarProcess, component, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from servers import RedisServer

Reply = tuple[int, "Mapping[str, str]", bytes]
SUBSCRIPTIONS = (
    {"pubsubname": "ps", "topic": "work", "route": "/work", "deadLetterTopic": "dead"},
    {"pubsubname": "ps", "topic": "dead", "route": "/dead"},
)


class Ledger:
    """An application that writes down what it has handled; message 7 is held until `gate` opens."""

    def __init__(self) -> None:
        self.handled: set[int] = set()
        self.dead: list[object] = []
        self.gate = threading.Event()
        self.held = threading.Event()

    def answer(self, call: Call) -> Reply:
        if call.path not in ("/work", "/dead"):
            return 200, {}, b""
        number = call.json()["data"]
        if call.path == "/dead":
            self.dead.append(number)
        elif number == 7 and not self.gate.is_set():
            self.held.set()
            self.gate.wait(90)
        else:
            time.sleep(0.002)  # work
            self.handled.add(number)
        return 200, {}, b""


class Publisher:
    """Publishes numbers until the sidecar is gone; `accepted` are those it promised to deliver."""

    def __init__(self, sidecar: SidecarProcess) -> None:
        self.accepted: set[int] = set()
        self._port = sidecar.http_port
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        with contextlib.suppress(OSError, http.client.HTTPException), contextlib.closing(connection):
            for number in range(100_000):
                connection.request("POST", "/v1.0/publish/ps/work", str(number), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                if answer.status == 204:
                    self.accepted.add(number)

    def __enter__(self) -> Publisher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def durable(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A Component of a broker that keeps messages."""
    if request.param == "sqlite":
        yield component("ps", "pubsub.sqlite", connectionString=str(tmp_path / "ps.db"))
    else:
        server: RedisServer = request.getfixturevalue("redis_server")
        times = {"processingTimeout": "2s", "redeliverInterval": "200ms"}
        yield component("ps", "pubsub.redis", redisHost=server.address, consumerID=f"stops-{time.time_ns()}", **times)


def test_a_stop_under_load_loses_nothing(durable: str, tmp_path: Path) -> None:
    """Every message that was accepted is handled, before the stop or after the next start; none is a dead letter, also
    not the one that its handler held beyond the grace period."""
    ledger = Ledger()
    arguments = ["--dapr-graceful-shutdown-seconds", "2"]
    with HttpApp(SUBSCRIPTIONS, ledger.answer) as app:
        sidecar = SidecarProcess(tmp_path, app_port=app.port, resources={"ps.yaml": durable}, arguments=arguments)
        with sidecar:
            sidecar.wait("/v1.0/healthz")
            with Publisher(sidecar) as publisher:
                eventually(lambda: ledger.held.is_set() and len(ledger.handled) > 100)
                assert sidecar.stop() == 0
            before = len(ledger.handled)
            assert publisher.accepted - ledger.handled, "the stop was not in the middle of the work"
            ledger.gate.set()
            sidecar.start()
            eventually(lambda: publisher.accepted <= ledger.handled)
            assert len(ledger.handled) > before
            assert ledger.dead == []
            assert sidecar.stop() == 0


def test_memory_keeps_nothing_but_finishes_what_it_began(tmp_path: Path) -> None:
    """The in-memory broker ends with its process; what the application has begun is finished, nothing is dead."""
    begun: list[int] = []
    ended: list[object] = []

    def answer(call: Call) -> Reply:
        if call.path == "/dead":
            ended.append("dead")
        elif call.path == "/work":
            begun.append(call.json()["data"])
            time.sleep(0.1)
            ended.append(call.json()["data"])
        return 200, {}, b""

    resources = {"ps.yaml": component("ps", "pubsub.in-memory")}
    with (
        HttpApp(SUBSCRIPTIONS, answer) as app,
        SidecarProcess(tmp_path, app_port=app.port, resources=resources) as sidecar,
    ):
        sidecar.wait("/v1.0/healthz")
        with Publisher(sidecar):
            app.wait(lambda calls: len(calls) > 5)
            assert sidecar.stop() == 0
        eventually(lambda: sorted(begun) == sorted(ended))  # type: ignore[type-var]
        assert "dead" not in ended


def test_requests_on_their_way_are_answered(tmp_path: Path) -> None:
    """A call that the application has not answered yet is answered during the stop."""
    inside, gate = threading.Event(), threading.Event()

    def answer(call: Call) -> Reply:
        inside.set()
        gate.wait(90)
        return 200, {}, b"late"

    with HttpApp(answer=answer) as app, SidecarProcess(tmp_path, app_port=app.port) as sidecar:
        sidecar.wait("/v1.0/healthz")
        answers: list[bytes] = []
        caller = threading.Thread(
            target=lambda: answers.append(sidecar.request("GET", "/v1.0/invoke/app/method/m").body)
        )
        caller.start()
        assert inside.wait(90)
        sidecar.kill(15)
        eventually(lambda: not _connects(sidecar))
        gate.set()
        caller.join()
        assert answers == [b"late"]
        assert sidecar.process is not None
        assert sidecar.process.wait(60) == 0


def _connects(sidecar: SidecarProcess) -> bool:
    try:
        return sidecar.request("GET", "/v1.0/healthz").status == 204
    except (OSError, http.client.HTTPException):
        return False


def test_a_shutdown_that_waits(tmp_path: Path) -> None:
    """With `--dapr-block-shutdown-duration` a signal ends deliveries at once; the APIs serve until the application is
    unwell. Messages published meanwhile stay with the broker."""
    sick = threading.Event()

    def answer(call: Call) -> Reply:
        return (503 if call.path == "/healthz" and sick.is_set() else 200), {}, b""

    resources = {"ps.yaml": component("ps", "pubsub.sqlite", connectionString=str(tmp_path / "ps.db"))}
    arguments = [
        "--dapr-block-shutdown-duration", "60s", "--enable-app-health-check", "--app-health-probe-interval", "1",
        "--app-health-threshold", "1",
    ]  # fmt: skip
    subscriptions = [{"pubsubname": "ps", "topic": "t", "route": "/t"}]
    with HttpApp(subscriptions, answer) as app:
        sidecar = SidecarProcess(tmp_path, app_port=app.port, resources=resources, arguments=arguments)
        with sidecar:
            sidecar.wait_log("is started")
            assert sidecar.post_json("/v1.0/publish/ps/t", "first").status == 204
            app.wait(lambda calls: [call.path for call in calls].count("/t") == 1)
            sidecar.kill(15)
            sidecar.wait_log("Blocking shutdown for 60s")
            sidecar.wait_log("no messages are taken any more")
            assert sidecar.post_json("/v1.0/publish/ps/t", "second").status == 204
            assert sidecar.request("GET", "/v1.0/invoke/app/method/m").status == 200
            sick.set()
            assert sidecar.process is not None
            assert sidecar.process.wait(60) == 0
            assert "App reported unhealthy, entering shutdown" in sidecar.log()
            assert [call.json()["data"] for call in app.calls if call.path == "/t"] == ["first"]
            sick.clear()
            sidecar.start()
            calls = app.wait(lambda calls: [call.path for call in calls].count("/t") == 2)
            assert [call.json()["data"] for call in calls if call.path == "/t"] == ["first", "second"]


def test_a_shutdown_that_waits_so_long(tmp_path: Path) -> None:
    """The time given is the longest; the shutdown API does not wait; a second signal ends the process at once."""
    with SidecarProcess(tmp_path, "short", arguments=["--dapr-block-shutdown-duration", "1ms"]) as sidecar:
        assert sidecar.stop() == 0
        assert "Block shutdown period expired" in sidecar.log()
    arguments = ["--dapr-block-shutdown-duration", "60s"]
    with SidecarProcess(tmp_path, "asked", arguments=arguments) as sidecar:
        assert sidecar.request("POST", "/v1.0/shutdown").status == 204
        assert sidecar.process is not None
        assert sidecar.process.wait(60) == 0
        assert "Blocking shutdown" not in sidecar.log()
    with SidecarProcess(tmp_path, "twice", arguments=arguments) as sidecar:
        sidecar.kill(15)
        sidecar.wait_log("Blocking shutdown")
        assert sidecar.stop() == 1
