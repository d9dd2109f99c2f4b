"""The official Python SDK against a real sidecar and scheduler: jobs put, looked up, and carried out."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from dapr.clients import ConstantFailurePolicy, DaprClient, DropFailurePolicy, Job
from dapr.conf import settings
from google.protobuf.any_pb2 import Any as GrpcAny

from ports import free_ports
from schedulers import SchedulerProcess
from sidecars import SidecarProcess, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

APP = """
import os, sys
from dapr.ext.grpc import App, JobEvent

app = App()

def say(text: str) -> None:
    os.write(1, text.encode() + b"\\n")  # whole: the handlers run in threads

@app.job_event("greet")
def greet(event: JobEvent) -> None:
    say("greet " + event.get_data_as_string())

@app.job_event("fails")
def fails(event: JobEvent) -> None:
    say("fails")
    raise RuntimeError("not today")

app.run(int(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SidecarProcess, Path]]:
    folder = tmp_path_factory.mktemp("jobs")
    (folder / "app.py").write_text(APP)
    (port,) = free_ports(1)
    said = folder / "said.txt"
    with SchedulerProcess(folder) as scheduler, said.open("wb") as out:
        app = subprocess.Popen(
            [sys.executable, str(folder / "app.py"), str(port)], stdout=out, stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONWARNINGS": "ignore"},
        )  # fmt: skip
        arguments = ["--scheduler-host-address", scheduler.address, "--app-protocol", "grpc"]
        try:
            with SidecarProcess(folder, "sdk", app_port=port, arguments=arguments) as sidecar:
                sidecar.wait("/v1.0/healthz")
                yield sidecar, said
        finally:
            app.kill()
            app.wait()


@pytest.fixture
def client(rig: tuple[SidecarProcess, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    sidecar, _ = rig
    monkeypatch.setattr(settings, "DAPR_HTTP_PORT", sidecar.http_port)
    monkeypatch.setattr(settings, "DAPR_GRPC_PORT", sidecar.grpc_port)
    with DaprClient(address=f"127.0.0.1:{sidecar.grpc_port}") as connected:
        yield connected


def data(text: str) -> GrpcAny:
    return GrpcAny(value=text.encode())


def test_a_job_comes_back_as_it_was_put(client: Any) -> None:
    """Every field, both failure policies; overwrite; what is deleted is gone."""
    whole = Job(
        name="whole", schedule="@every 1h", repeats=3, due_time="1h", ttl="5h", data=data("x"),
        failure_policy=ConstantFailurePolicy(max_retries=2, interval_seconds=4),
    )  # fmt: skip
    client.schedule_job(whole)
    got = client.get_job("whole")
    assert (got.schedule, got.repeats, got.due_time, got.ttl) == ("@every 1h", 3, "1h", "5h")
    assert got.data.value == b"x"
    assert (got.failure_policy.max_retries, got.failure_policy.interval_seconds) == (2, 4)
    with pytest.raises(grpc.RpcError) as failed:
        client.schedule_job(whole)
    assert failed.value.code() is grpc.StatusCode.ALREADY_EXISTS
    client.schedule_job(Job(name="whole", due_time="1h", failure_policy=DropFailurePolicy()), overwrite=True)
    got = client.get_job("whole")
    assert (got.schedule, got.repeats, type(got.failure_policy)) == (None, None, DropFailurePolicy)
    client.delete_job("whole")
    client.delete_job("whole")
    with pytest.raises(grpc.RpcError) as failed:
        client.get_job("whole")
    assert failed.value.code() is grpc.StatusCode.INTERNAL
    assert "failed to get job due to: " in failed.value.details()


def test_the_older_names(client: Any) -> None:
    """The alphas are the same API."""
    with pytest.warns(DeprecationWarning, match="deprecated"):
        client.schedule_job_alpha1(Job(name="older", due_time="1h"))
    with pytest.warns(DeprecationWarning, match="deprecated"):
        assert client.get_job_alpha1("older").due_time == "1h"
    with pytest.warns(DeprecationWarning, match="deprecated"):
        client.delete_job_alpha1("older")


def test_the_application_of_the_sdk_carries_jobs_out(client: Any, rig: tuple[SidecarProcess, Path]) -> None:
    """`@app.job_event`: its data; a handler that raises is tried again."""
    _, said = rig
    client.schedule_job(Job(name="greet", due_time="0s", data=data("hello")))
    again = ConstantFailurePolicy(max_retries=2, interval_seconds=0)
    client.schedule_job(Job(name="fails", due_time="0s", failure_policy=again))
    eventually(lambda: "greet hello" in said.read_text() and said.read_text().count("fails") == 3)


def test_bad_jobs_are_refused(client: Any) -> None:
    """With the scheduler's own status."""
    with pytest.raises(grpc.RpcError) as failed:
        client.schedule_job(Job(name="bad", schedule="whenever"))
    assert failed.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert failed.value.details().startswith("failed to schedule job due to: ")
