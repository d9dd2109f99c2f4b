"""The official JavaScript SDK, over HTTP and over gRPC, against a real sidecar: its client, and its server as the
application behind the sidecar."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import pytest

import planes
import workflow_processes as processes
from judges import SDK, TIMEOUT_S, built, judged, programs, shop, tool
from ports import free_ports
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from pathlib import Path

HERE = SDK / "node"
CLIENT = {"state", "publish", "secrets", "invoke", "lock", "bindings", "metadata", "health"}
CLIENT_GRPC = {"configuration", "crypto"}
SERVER = {"health", "invoke", "subscribe", "retry", "dead letter", "input binding"}
SERVER_HTTP = {"bulk"}
ACTORS = {
    f"{what}, {how}" for what in ("methods and state", "timers", "reminders", "errors") for how in ("http", "grpc")
}
WORKFLOWS = {
    "chain", "fan", "monitor", "children", "saga", "events and timers", "failures", "suspend and resume",
    "terminate and purge", "a start at a given time", "many at once",
}  # fmt: skip

pytestmark = [pytest.mark.node, pytest.mark.timeout(TIMEOUT_S)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the judges, in which they find the SDK."""
    _, npm = programs("node", "npm", language="JavaScript")

    def install(where: Path) -> None:
        tool([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"], where)

    home = built("node", [HERE / "package.json"], install)
    for name in ("judge.mjs", "server.mjs", "load.mjs", "actors.mjs", "workflows.mjs"):
        shutil.copy(HERE / name, tmp_path)
    (tmp_path / "node_modules").symlink_to(home / "node_modules")
    return tmp_path


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_every_block_the_sdk_has(folder: Path, protocol: str) -> None:
    with shop(folder) as sidecar:
        held = judged(["node", "judge.mjs", protocol], sidecar, folder)
    assert held == (CLIENT | CLIENT_GRPC if protocol == "grpc" else CLIENT)


def test_grpc_js_under_load(folder: Path) -> None:
    """Three seconds here; `PILLION_LOAD_S=60` makes it a minute."""
    with shop(folder) as sidecar:
        held = judged(["node", "load.mjs", os.environ.get("PILLION_LOAD_S", "3")], sidecar, folder)
    assert held == {"load"}


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_an_application_made_with_it(folder: Path, protocol: str) -> None:
    (port,) = free_ports(1)
    broker = {"connectionString": str(folder / "broker.sqlite"), "redeliverInterval": "100ms"}
    resources = {
        "pubsub.yaml": component("pubsub", "pubsub.sqlite", **broker),
        "tick.yaml": component("tick", "bindings.cron", schedule="@every 1s"),
    }
    arguments = ["--app-protocol", protocol]
    with SidecarProcess(folder, "front", app_port=port, resources=resources, arguments=arguments) as sidecar:
        held = judged(["node", "server.mjs", protocol, str(port)], sidecar, folder)
    assert held == (SERVER if protocol == "grpc" else SERVER | SERVER_HTTP)


def test_actors(folder: Path) -> None:
    """Hosted behind HTTP, called over both protocols."""
    (port,) = free_ports(1)
    store = component("store", "state.sqlite", connectionString=str(folder / "s.db"), actorStateStore="true")
    with planes.placement(folder) as placement, planes.scheduler(folder) as scheduler:
        arguments = planes.flags(placement=placement, scheduler=scheduler)
        resources = {"s.yaml": store}
        with SidecarProcess(folder, "front", app_port=port, resources=resources, arguments=arguments) as sidecar:
            held = judged(["node", "actors.mjs", str(port)], sidecar, folder)
    assert held == ACTORS


def test_workflows(folder: Path) -> None:
    """Its worker and its client."""
    with processes.plane(folder) as flags, processes.sidecar(folder, flags) as sidecar:
        held = judged(["node", "workflows.mjs"], sidecar, folder)
    assert held == WORKFLOWS
