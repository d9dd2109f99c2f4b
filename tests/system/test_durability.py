"""What was acknowledged survives `kill -9` of the sidecar at any moment (promise 1), on the SQLite store and broker."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import threading
import time
from typing import TYPE_CHECKING

import pytest

from apps import HttpApp
from ports import free_ports
from sidecars import SidecarProcess, component, eventually

if TYPE_CHECKING:
    from pathlib import Path

WRITERS = 8


def writer(port: int, number: int, path: str, acknowledged: list[str], stop: threading.Event) -> None:
    """Send one request after the other, noting those that were answered 204, until told to stop or cut off."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        while not stop.is_set():
            name = f"{number}-{len(acknowledged)}"
            body = [{"key": name, "value": name}] if "state" in path else {"name": name}
            try:
                connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                return
            assert answer.status == 204
            acknowledged.append(name)


def load_and_kill(sidecar: SidecarProcess, path: str, after_s: float) -> list[str]:
    acknowledged: list[list[str]] = [[] for _ in range(WRITERS)]
    stop = threading.Event()
    threads = [
        threading.Thread(target=writer, args=(sidecar.http_port, n, path, acknowledged[n], stop))
        for n in range(WRITERS)
    ]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: any(acknowledged))
        time.sleep(after_s)  # the moment of the kill is what the test varies
    finally:
        sidecar.kill()
        assert sidecar.process is not None
        sidecar.process.wait()
        stop.set()
        for thread in threads:
            thread.join()
    return [name for each in acknowledged for name in each]


@pytest.mark.parametrize("moment", [0.2, 0.5, 0.9])
def test_saved_state_survives(tmp_path: Path, moment: float) -> None:
    resources = {"state.yaml": component("store", "state.sqlite", connectionString=str(tmp_path / "state.db"))}
    with SidecarProcess(tmp_path, resources=resources) as sidecar:
        names = load_and_kill(sidecar, "/v1.0/state/store", moment + random.random() / 10)
    with SidecarProcess(tmp_path, resources=resources) as again:
        for start in range(0, len(names), 500):
            keys = names[start : start + 500]
            reply = again.post_json("/v1.0/state/store/bulk", {"keys": keys})
            assert reply.status == 200
            assert {row["key"]: row.get("data") for row in reply.json()} == {key: key for key in keys}


@pytest.mark.parametrize("moment", [0.3, 0.7])
def test_published_messages_survive(tmp_path: Path, moment: float) -> None:
    """Each message whose publishing was answered 204 reaches the subscriber at least once, though both its publisher's
    and its subscriber's sidecar was killed."""
    resources = {"broker.yaml": component("pubsub", "pubsub.sqlite", connectionString=str(tmp_path / "broker.db"))}
    subscriptions = [{"pubsubname": "pubsub", "topic": "t", "route": "/t"}]
    (app_port,) = free_ports(1)
    with HttpApp(subscriptions, port=app_port) as app:
        with SidecarProcess(tmp_path, app_port=app.port, resources=resources) as sidecar:
            sidecar.wait("/v1.0/healthz")
            names = set(load_and_kill(sidecar, "/v1.0/publish/pubsub/t", moment + random.random() / 10))
        with SidecarProcess(tmp_path, app_port=app.port, resources=resources):
            app.wait(lambda calls: names <= {call.json()["data"]["name"] for call in calls})
