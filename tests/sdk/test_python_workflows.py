"""The official Python SDK's workflows: its worker as a process, its clients here, on stores in SQLite and in Redis."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import pytest
from dapr.ext.workflow import DaprWorkflowClient, WorkflowState, WorkflowStatus
from dapr.ext.workflow.aio import DaprWorkflowClient as AsyncClient

import workflow_processes as processes
from judges import SDK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import RedisServer
    from sidecars import SidecarProcess

APP = SDK / "python" / "workflows_app.py"
WAIT_S = 90


class Place(NamedTuple):
    """A sidecar with a worker, a client of it, and what activities have noted."""

    sidecar: SidecarProcess
    client: DaprWorkflowClient
    notes: Path

    def run(self, name: str, given: object = None, *, instance_id: str = "") -> WorkflowState:
        """Run a workflow to its end."""
        return self.end(self.client.schedule_new_workflow(name, input=given, instance_id=instance_id or None))

    def end(self, instance_id: str) -> WorkflowState:
        state = self.client.wait_for_workflow_completion(instance_id, timeout_in_seconds=WAIT_S)
        assert state is not None
        return state

    def result(self, name: str, given: object = None, *, instance_id: str = "") -> Any:
        """Run a workflow that completes; return what it returns."""
        return output(self.run(name, given, instance_id=instance_id))

    def noted(self, text: str) -> list[str]:
        return [line for line in self.notes.read_text().splitlines() if text in line]


def output(state: WorkflowState | None) -> Any:
    assert state is not None
    assert state.runtime_status is WorkflowStatus.COMPLETED, state.to_json()
    return json.loads(state.serialized_output)


@contextmanager
def worker(sidecar: SidecarProcess, release: int = 1) -> Iterator[Place]:
    notes = sidecar.folder / "notes"
    notes.touch()
    with processes.WorkerProcess(sidecar, APP, str(notes), str(release)):
        client = DaprWorkflowClient(host="127.0.0.1", port=str(sidecar.grpc_port))
        try:
            yield Place(sidecar, client, notes)
        finally:
            client.close()


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[str]]:
    with processes.plane(tmp_path_factory.mktemp("planes")) as found:
        yield list(found)


@pytest.fixture(scope="module", params=["sqlite", pytest.param("redis", marks=pytest.mark.redis)])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, flags: list[str]
) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp(request.param)
    store = processes.sqlite(folder)
    if request.param == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        store = processes.redis(server.address)
    app_id = f"sdk-{request.param}"
    with processes.sidecar(folder, flags, app_id, store=store) as sidecar, worker(sidecar) as found:
        yield found


def test_patterns(place: Place) -> None:
    """What the SDK's guide shows: chains, fans, children, sagas, monitors."""
    assert place.result("chain", 1, instance_id="chain-1") == "Hello, 8!"
    assert len(place.noted("double chain-1 ")) == 3
    assert place.result("fan", 40, instance_id="fan-1") == sum(range(40)) * 2
    assert len(place.noted("double fan-1 ")) == 40
    assert place.result("parent", 3, instance_id="parent-1") == [6, "Hello, 24!"]
    assert place.result("monitor", 5, instance_id="monitor-1") == "monitor-1"
    assert len(place.noted("double monitor-1 ")) == 6
    assert place.result("saga", ["flight", "hotel"], instance_id="saga-1") == ["flight", "hotel"]
    failed = place.result("saga", ["flight", "hotel", "car"], instance_id="saga-2")
    assert failed.startswith("RuntimeError: ")
    assert "no cars left" in failed
    assert [line.split()[:2] for line in place.noted("saga-2")] == [
        ["booked", "flight"], ["booked", "hotel"], ["cancelled", "hotel"], ["cancelled", "flight"]
    ]  # fmt: skip
    assert place.result("storyteller") == [["double"], []]


def test_events(place: Place) -> None:
    """Raised early, in another case, too late, several at once, and while the workflow begins anew."""
    client = place.client
    waiting = client.schedule_new_workflow("approval", input=60)
    started = client.wait_for_workflow_start(waiting, fetch_payloads=True, timeout_in_seconds=WAIT_S)
    assert started is not None
    assert started.runtime_status is WorkflowStatus.RUNNING
    assert started.serialized_custom_status == "waiting for a decision"
    client.raise_workflow_event(waiting, "DECISION", data={"by": "ada", "ok": True})
    assert output(place.end(waiting)) == {"by": "ada", "ok": True}
    assert place.result("approval", 0.05) == "too late"

    collecting = client.schedule_new_workflow("collector", input=[])
    for number in range(1, 11):  # the SDK sends nothing for 0
        client.raise_workflow_event(collecting, "item", data=number)
    assert output(place.end(collecting)) == list(range(1, 11))

    racing = client.schedule_new_workflow("race")
    client.raise_workflow_event(racing, "go")
    assert output(place.end(racing)) == "event"
    client.raise_workflow_event(racing, "go")  # of one that has ended: discarded
    with pytest.raises(grpc.RpcError, match="no such instance exists"):
        client.raise_workflow_event("nobody", "go")


def test_failures_and_retries(place: Place) -> None:
    """Attempts of activities and of children; what a failure tells."""
    assert place.result("stubborn", [3, 5]) == 3
    assert place.result("patient", [5, 2], instance_id="patient-1") == 5
    gone = place.run("stubborn", [9, 2])
    assert gone.runtime_status is WorkflowStatus.FAILED
    assert gone.failure_details is not None
    assert "attempt 2 of 9" in gone.failure_details.message
    assert gone.failure_details.error_type == "TaskFailedError"
    assert gone.failure_details.stack_trace
    failed = place.run("broken", "one over nothing")
    assert failed.failure_details is not None
    assert (failed.failure_details.error_type, failed.failure_details.message) == (
        "ArithmeticError",
        "one over nothing",
    )
    unknown = place.run("nowhere")
    assert unknown.runtime_status is WorkflowStatus.FAILED
    assert unknown.failure_details is not None
    assert "nowhere" in unknown.failure_details.message


def test_steering(place: Place) -> None:
    """Suspend, resume, terminate with children, purge, ids that are used again, a start at a given time."""
    client = place.client
    one = client.schedule_new_workflow("race")
    client.pause_workflow(one)
    assert status(client, one) is WorkflowStatus.SUSPENDED
    client.raise_workflow_event(one, "go")
    assert status(client, one) is WorkflowStatus.SUSPENDED
    client.resume_workflow(one)
    assert output(place.end(one)) == "event"

    tree = client.schedule_new_workflow("family", instance_id="family-1")
    client.wait_for_workflow_start("family-1-child", timeout_in_seconds=WAIT_S)
    with pytest.raises(grpc.RpcError, match="already exists"):
        client.schedule_new_workflow("family", instance_id=tree)
    client.terminate_workflow(tree, output={"why": "tired"})
    ended = place.end(tree)
    assert ended.runtime_status is WorkflowStatus.TERMINATED
    assert json.loads(ended.serialized_output) == {"why": "tired"}
    assert place.end("family-1-child").runtime_status is WorkflowStatus.TERMINATED
    client.purge_workflow(tree)
    assert client.get_workflow_state(tree) is None
    assert client.get_workflow_state("family-1-child") is None

    assert place.result("chain", 2, instance_id="again") == "Hello, 16!"
    assert place.result("chain", 3, instance_id="again") == "Hello, 24!"

    at = datetime.now(UTC) + timedelta(seconds=1.2)
    late = client.schedule_new_workflow("chain", input=1, start_at=at)
    assert status(client, late) is WorkflowStatus.PENDING
    state = place.end(late)
    assert output(state) == "Hello, 8!"
    assert datetime.now(UTC) >= at
    assert (state.name, json.loads(state.serialized_input)) == ("chain", 1)
    bare = client.get_workflow_state(late, fetch_payloads=False)
    assert bare is not None
    assert (bare.serialized_input, bare.serialized_output) == (None, None)
    assert bare.created_at <= bare.last_updated_at
    assert client.get_workflow_state("nobody") is None
    with pytest.raises(TimeoutError):
        client.wait_for_workflow_completion(client.schedule_new_workflow("race"), timeout_in_seconds=1)


def status(client: DaprWorkflowClient, instance_id: str) -> WorkflowStatus:
    state = client.get_workflow_state(instance_id)
    assert state is not None
    found: WorkflowStatus = state.runtime_status
    return found


def test_the_client_for_asyncio(place: Place) -> None:
    """Fifty at once."""

    async def main() -> None:
        client = AsyncClient(host="127.0.0.1", port=str(place.sidecar.grpc_port))
        ids = await asyncio.gather(*(client.schedule_new_workflow("chain", input=number) for number in range(50)))
        ends = await asyncio.gather(
            *(client.wait_for_workflow_completion(each, timeout_in_seconds=WAIT_S) for each in ids)
        )
        assert [output(state) for state in ends] == [f"Hello, {number * 8}!" for number in range(50)]
        waiting = await client.schedule_new_workflow("approval", input=60)
        await client.pause_workflow(waiting)
        await client.resume_workflow(waiting)
        await client.raise_workflow_event(waiting, "decision", data="yes")
        state = await client.wait_for_workflow_completion(waiting, timeout_in_seconds=WAIT_S)
        assert output(state) == "yes"
        await client.purge_workflow(waiting)
        assert await client.get_workflow_state(waiting) is None

    asyncio.run(main())


def test_releases(tmp_path: Path, flags: list[str]) -> None:
    """Instances outlive their sidecar and their worker; a new release runs the old path of those that took it, and
    one that was rolled back stalls what took a newer path until it comes again."""
    with processes.sidecar(tmp_path, flags, "releases") as sidecar, worker(sidecar) as place:
        old = place.client.schedule_new_workflow("patched")
        named = place.client.schedule_new_workflow("versioned")
        timed = place.client.schedule_new_workflow("approval", input=4)
        for each in (old, named, timed):
            place.client.wait_for_workflow_start(each, timeout_in_seconds=WAIT_S)
        sidecar.kill()
    with processes.sidecar(tmp_path, flags, "releases") as sidecar:
        with worker(sidecar, 2) as place:
            new, latest = place.client.schedule_new_workflow("patched"), place.client.schedule_new_workflow("versioned")
            stalled = place.client.schedule_new_workflow("patched")
            for each in (old, new, named, latest):
                place.client.raise_workflow_event(each, "on")
            assert output(place.end(old)) == ["Hello, old!", "Hello, v2!"]
            assert output(place.end(new)) == ["Hello, new!", "Hello, v2!"]
            assert (output(place.end(named)), output(place.end(latest))) == ("v1", "v2")
            assert output(place.end(timed)) == "too late"
            place.client.wait_for_workflow_start(stalled, timeout_in_seconds=WAIT_S)
        with worker(sidecar, 1) as place:
            place.client.raise_workflow_event(stalled, "on")
            deadline = time.monotonic() + WAIT_S
            while status(place.client, stalled) is not WorkflowStatus.STALLED:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        with worker(sidecar, 2) as place:
            assert output(place.end(stalled)) == ["Hello, new!", "Hello, v2!"]


def test_a_worker_that_dies(tmp_path: Path, flags: list[str]) -> None:
    """What it held goes to the next one; requests wait meanwhile."""
    with processes.sidecar(tmp_path, flags, "fragile") as sidecar:
        with worker(sidecar) as place:
            ids = [
                place.client.schedule_new_workflow("chain", input=1, instance_id=uuid.uuid4().hex) for _ in range(20)
            ]
        with worker(sidecar) as place:
            assert {output(place.end(each)) for each in ids} == {"Hello, 8!"}
            assert place.result("chain", 1) == "Hello, 8!"
