"""Pluggable components in a real sidecar: found by reflection at the start, used through the API."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from apps import HttpApp
from pillion.sidecar import pluggable
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = Path(__file__).parents[1] / "pluggable_process.py"


@pytest.fixture
def sockets() -> Iterator[Path]:
    """A folder with the socket of a component process, and with what disturbs."""
    with tempfile.TemporaryDirectory(prefix="p-") as text, contextlib.ExitStack() as stack:
        folder = Path(text)
        for name in ("dead.sock", "nonsense.sock"):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(f"{folder}/{name}")
        listener.listen()
        threading.Thread(target=_talk_nonsense, args=(listener,), daemon=True).start()
        (folder / "readme.txt").touch()
        command = [sys.executable, str(PROGRAM), text, f"{text}/messages.db", "things.v2.sock"]
        process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        stack.callback(process.kill)
        assert process.stdout is not None
        assert process.stdout.readline() == "listening\n"
        yield folder
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _talk_nonsense(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b"220 mail.example ESMTP\r\n")
            connection.recv(1)


def test_a_process_as_four_components(tmp_path: Path, sockets: Path) -> None:
    """State with ETags, secrets, publishing and delivery, a binding in both directions."""
    types = {"store": "state", "broker": "pubsub", "things": "bindings", "vault": "secretstores"}
    resources = {f"{name}.yaml": component(name, f"{kind}.things.v2") for name, kind in types.items()}
    env = {"DAPR_COMPONENTS_SOCKETS_FOLDER": str(sockets)}
    wants = [{"pubsubname": "broker", "topic": "t", "route": "/t"}]
    with HttpApp(wants) as app, SidecarProcess(tmp_path, app_port=app.port, resources=resources, env=env) as sidecar:
        log = sidecar.log()
        for bad in ("dead.sock", "nonsense.sock"):
            assert any(bad in line and "is ignored" in line for line in log.splitlines()), log
        told = {one["name"]: one for one in sidecar.request("GET", "/v1.0/metadata").json()["components"]}
        assert told["store"]["capabilities"] == ["ETAG", "TRANSACTIONAL", "TTL"]

        assert sidecar.post_json("/v1.0/state/store", [{"key": "k", "value": {"a": "<b>"}}]).status == 204
        found = sidecar.request("GET", "/v1.0/state/store/k")
        assert found.body == b'{"a":"\\u003cb\\u003e"}'
        stale = [{"key": "k", "value": 2, "etag": "stale"}]
        assert sidecar.post_json("/v1.0/state/store", stale).status == 409
        invalid = [{"key": "k", "value": 2, "etag": "invalid"}]
        assert sidecar.post_json("/v1.0/state/store", invalid).status == 400
        transaction = {"operations": [{"operation": "delete", "request": {"key": "k"}}]}
        assert sidecar.post_json("/v1.0/state/store/transaction", transaction).status == 204
        assert sidecar.request("GET", "/v1.0/state/store/k").status == 204

        assert sidecar.request("GET", "/v1.0/secrets/vault/user").json() == {"user": "me"}

        assert sidecar.post_json("/v1.0/publish/broker/t", {"n": 1}).status == 204
        sidecar.post_json("/v1.0/bindings/things", {"operation": "happen", "data": "now"})
        calls = app.wait(lambda calls: {"/t", "/things"} <= {call.path for call in calls if call.method == "POST"})
        bodies = {call.path: call.body for call in calls if call.method == "POST"}
        assert json.loads(bodies["/t"])["data"] == {"n": 1}
        assert bodies["/things"] == b'"now"'


def test_a_mute_socket_is_given_up(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Somebody who listens and says nothing costs a bounded time; no folder at all costs nothing."""
    monkeypatch.setattr(pluggable, "ANSWER_S", 0.05)
    with tempfile.TemporaryDirectory(prefix="p-") as folder, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{folder}/mute.sock")
        listener.listen()
        assert asyncio.run(pluggable.discover(folder)) == []
        assert "mute.sock: no answer within 0.05s; it is ignored" in caplog.text
        assert asyncio.run(pluggable.discover(f"{folder}/none")) == []


def test_what_a_socket_offers() -> None:
    """Services become types; one socket with both directions is one binding; what nobody knows is nothing."""

    def offers(*services: str) -> dict[str, str]:
        entries = pluggable.entries_of(Path("/s/x.sock"), set(services))
        assert all(entry.given == (("pillion.socket", "/s/x.sock"),) for entry in entries)
        return {entry.type: entry.path.rpartition(":")[2] for entry in entries}

    assert offers("TransactionalStateStore", "Other") == {}
    assert offers("StateStore", "PubSub") == {"state.x": "PluggableState", "pubsub.x": "PluggablePubSub"}
    assert offers("InputBinding") == {"bindings.x": "PluggableInput"}
    assert offers("OutputBinding") == {"bindings.x": "PluggableOutput"}
    assert offers("OutputBinding", "InputBinding") == {"bindings.x": "PluggableBinding"}
