"""The official Java SDK against a real sidecar. Maven is needed only when its libraries are not in the cache yet."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

import planes
import workflow_processes as processes
from judges import SDK, TIMEOUT_S, built, judged, programs, shop, tool
from ports import free_ports
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS = {
    "health", "state", "etags", "transaction", "publish", "subscribe", "secrets", "invoke", "configuration", "lock",
    "bindings", "crypto", "conversation", "metadata", "errors",
}  # fmt: skip


ACTORS = {"methods and state", "timers", "reminders", "errors"}
WORKFLOWS = {
    "chain", "fan", "monitor", "children", "saga", "retries", "events and timers", "failures", "suspend and resume",
    "terminate and purge", "a start at a given time", "many at once",
}  # fmt: skip
PROGRAMS = ("Judge.java", "Actors.java", "Workflows.java")


@pytest.fixture
def command() -> list[str]:
    """What runs a program, whose name is to be added."""
    (java,) = programs("java", language="Java")
    home = built("java", [SDK / "java" / name for name in ("pom.xml", *PROGRAMS)], compiled)
    classes = os.pathsep.join((str(home / "classes"), str(home / "lib" / "*")))
    return [java, "-XX:TieredStopAtLevel=1", "-cp", classes]  # the option suits a program that lives for seconds


def compiled(folder: Path) -> None:
    mvn, javac = programs("mvn", "javac", language="Java")
    tool([mvn, "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"], folder)
    tool(
        [javac, "--release", "17", "-Xlint:all,-processing,-serial", "-cp", "lib/*", "-d", "classes", *PROGRAMS],
        folder,
    )


@pytest.mark.java
@pytest.mark.timeout(TIMEOUT_S)
def test_every_block_the_sdk_has(tmp_path: Path, command: list[str]) -> None:
    with shop(tmp_path) as sidecar:
        assert judged([*command, "Judge"], sidecar, tmp_path) == BLOCKS


@pytest.mark.java
@pytest.mark.timeout(TIMEOUT_S)
def test_actors(tmp_path: Path, command: list[str]) -> None:
    """Hosted behind HTTP, called over gRPC."""
    (port,) = free_ports(1)
    store = component("store", "state.sqlite", connectionString=str(tmp_path / "s.db"), actorStateStore="true")
    with planes.placement(tmp_path) as placement, planes.scheduler(tmp_path) as scheduler:
        arguments = planes.flags(placement=placement, scheduler=scheduler)
        resources = {"s.yaml": store}
        with SidecarProcess(tmp_path, "bank", app_port=port, resources=resources, arguments=arguments) as sidecar:
            assert judged([*command, "Actors", str(port)], sidecar, tmp_path) == ACTORS


@pytest.mark.java
@pytest.mark.timeout(TIMEOUT_S)
def test_workflows(tmp_path: Path, command: list[str]) -> None:
    """Its worker and its client."""
    with processes.plane(tmp_path) as flags, processes.sidecar(tmp_path, flags) as sidecar:
        assert judged([*command, "Workflows"], sidecar, tmp_path) == WORKFLOWS
