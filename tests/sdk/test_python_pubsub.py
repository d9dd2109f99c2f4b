"""The official Python SDK against a real sidecar: publishing, bulks, streams that outlive the sidecar."""

from __future__ import annotations

import json
import signal
from typing import TYPE_CHECKING, Any

import pytest
from dapr.clients import DaprClient
from dapr.clients.grpc._response import TopicEventResponse
from dapr.conf import settings

from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def sidecar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    resources = {"broker.yaml": component("ps", "pubsub.sqlite", connectionString=str(tmp_path / "broker.sqlite"))}
    found = SidecarProcess(tmp_path, resources=resources, arguments=["--dapr-graceful-shutdown-seconds", "1"])
    monkeypatch.setattr(settings, "DAPR_HTTP_PORT", found.http_port)
    monkeypatch.setattr(settings, "DAPR_GRPC_PORT", found.grpc_port)
    with found:
        yield found


def connected(sidecar: SidecarProcess) -> Any:
    return DaprClient(address=f"127.0.0.1:{sidecar.grpc_port}")


def test_publish_and_stream(sidecar: SidecarProcess) -> None:
    """Events arrive as they were published; one that is to be tried again comes again."""
    with connected(sidecar) as client:
        subscription = client.subscribe("ps", "orders")
        try:
            client.publish_event("ps", "orders", json.dumps({"n": 1}), data_content_type="application/json")
            message = subscription.next_message()
            assert (message.data(), message.topic(), message.pubsub_name()) == ({"n": 1}, "orders", "ps")
            subscription.respond_success(message)
            client.publish_event("ps", "orders", b"bytes", data_content_type="application/octet-stream")
            message = subscription.next_message()
            assert message.raw_data() == b"bytes"
            subscription.respond_success(message)
            (row,) = sidecar.request("GET", "/v1.0/metadata").json()["subscriptions"]
            assert (row["pubsubname"], row["topic"], row["type"]) == ("ps", "orders", "STREAMING")
        finally:
            subscription.close()


def test_a_callback_and_a_dead_letter(sidecar: SidecarProcess) -> None:
    """`subscribe_with_handler`: what the handler drops goes to the dead-letter topic."""
    with connected(sidecar) as client:
        dead = client.subscribe("ps", "dead")
        close = client.subscribe_with_handler(
            "ps", "work", lambda message: TopicEventResponse("drop"), dead_letter_topic="dead"
        )
        try:
            client.publish_events(
                "ps", "work", [json.dumps({"n": n}) for n in range(2)], data_content_type="application/json"
            )
            got = []
            for _ in range(2):
                message = dead.next_message()
                got.append(message.data()["n"])
                dead.respond_success(message)
            assert sorted(got) == [0, 1]
        finally:
            close()
            dead.close()


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_stream_survives_a_restart(sidecar: SidecarProcess, how: signal.Signals) -> None:
    """With an event outstanding: the SDK reconnects, and the event, which nobody acknowledged, comes again."""
    with connected(sidecar) as client:
        subscription = client.subscribe("ps", "orders")
        try:
            client.publish_event("ps", "orders", "precious", data_content_type="text/plain")
            assert subscription.next_message().data() == "precious"
            sidecar.kill(how)
            assert sidecar.process is not None
            assert sidecar.process.wait(60) == (0 if how is signal.SIGTERM else -how)
            sidecar.start()
            message = subscription.next_message()
            assert message.data() == "precious"
            subscription.respond_success(message)
        finally:
            subscription.close()
    assert "dead-letter" not in sidecar.log()
