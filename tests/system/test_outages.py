"""A store that goes away and comes back: clear errors meanwhile, nothing acknowledged is lost, no restart is needed."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from apps import HttpApp
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from pathlib import Path

    from servers import PostgresServer, RedisServer

RECOVERY_S = 30.0


def eventually(sidecar: SidecarProcess, method: str, path: str, status: int, body: str | None = None) -> None:
    """Ask until the answer is `status`: recovery is the store's client's own, and tells nobody."""
    deadline = time.monotonic() + RECOVERY_S
    while True:
        reply = sidecar.request(method, path, body, {"Content-Type": "application/json"})
        if reply.status == status:
            return
        assert time.monotonic() < deadline, f"{reply}\n{sidecar.log()}"
        time.sleep(0.1)


@pytest.mark.redis
def test_redis_goes_and_comes_back(tmp_path: Path, private_redis: RedisServer) -> None:
    server = private_redis
    resources = {
        "state.yaml": component("store", "state.redis", redisHost=f"127.0.0.1:{server.port}"),
        "broker.yaml": component(
            "pubsub",
            "pubsub.redis",
            redisHost=f"127.0.0.1:{server.port}",
            redeliverInterval="500",
            processingTimeout="2s",
        ),
    }
    with (
        HttpApp([{"pubsubname": "pubsub", "topic": "t", "route": "/t"}]) as app,
        SidecarProcess(tmp_path, app_port=app.port, resources=resources) as sidecar,
    ):
        sidecar.wait("/v1.0/healthz")
        assert sidecar.post_json("/v1.0/state/store", [{"key": "before", "value": 1}]).status == 204
        assert sidecar.post_json("/v1.0/publish/pubsub/t", {"n": 1}).status == 204
        app.wait(lambda calls: len(calls) >= 1)
        server.stop()
        refused = sidecar.request("GET", "/v1.0/state/store/before")
        assert refused.status == 500
        assert refused.json()["errorCode"] == "ERR_STATE_GET"
        failed = sidecar.post_json("/v1.0/publish/pubsub/t", {"n": 2})
        assert failed.status == 500
        assert failed.json()["errorCode"] == "ERR_PUBSUB_PUBLISH_MESSAGE"
        server.start()
        eventually(sidecar, "GET", "/v1.0/state/store/before", 200)
        eventually(sidecar, "POST", "/v1.0/publish/pubsub/t", 204, '{"n":3}')
        app.wait(lambda calls: 3 in [call.json()["data"]["n"] for call in calls])
        assert sidecar.stop() == 0


@pytest.mark.postgresql
def test_postgresql_goes_and_comes_back(tmp_path: Path, private_postgres: PostgresServer) -> None:
    server = private_postgres
    resources = {"state.yaml": component("store", "state.postgresql", connectionString=server.url)}
    with SidecarProcess(tmp_path, resources=resources) as sidecar:
        assert sidecar.post_json("/v1.0/state/store", [{"key": "before", "value": [1, 2]}]).status == 204
        server.kill()
        refused = sidecar.post_json("/v1.0/state/store", [{"key": "during", "value": 1}])
        assert refused.status == 500
        assert refused.json()["errorCode"] == "ERR_STATE_SAVE"
        server.start()
        eventually(sidecar, "GET", "/v1.0/state/store/before", 200)
        assert sidecar.request("GET", "/v1.0/state/store/before").json() == [1, 2]
        assert sidecar.stop() == 0
