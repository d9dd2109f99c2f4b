"""Workers that die, answer twice or for others, or never come; results that are too large; stores that will not do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest

import workflow_processes as processes
from cli_processes import pillion
from pillion.wire.messages import taskhub as m
from sidecars import SidecarProcess, component, eventually
from workflow_client import API, OWN, history, noted, output, post, start, state, until, waits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HUB = "/TaskHubSidecarService/"


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[str]]:
    with processes.plane(tmp_path_factory.mktemp("planes")) as found:
        yield found


@pytest.mark.parametrize("mend", ["retry", "skip"])
def test_a_poison(tmp_path: Path, flags: Sequence[str], mend: str) -> None:
    """An activity that takes its worker down again and again is put aside: its neighbours finish, people can see it,
    and mend it."""
    antidote, ledger = tmp_path / "antidote", tmp_path / "ledger"
    with processes.sidecar(tmp_path, flags, f"poison-{mend}") as sidecar, processes.worker(sidecar, ledger) as worker:
        poisoned = start(sidecar, "one", ["poison", str(antidote)], "poisoned")
        neighbours = [start(sidecar, "one", ["slow", 0.1]) for _ in range(20)]
        home = sidecar.folder / "home"
        for death in range(5):
            assert worker.process is not None
            worker.process.wait(90)
            if death == 2:  # longer away than the instance stays in memory without a worker
                eventually(lambda: not sidecar.request("GET", f"{OWN}/{poisoned}").json()["owner"])
            worker.restart()
        eventually(lambda: bool(put_aside(sidecar, poisoned)))
        assert {output(sidecar, each) for each in neighbours} == {'"slept"'}
        (wait,) = put_aside(sidecar, poisoned)
        assert (wait["name"], wait["error"]) == ("poison", "5 workers were lost while they ran it")
        shown = pillion(["workflow", "show", poisoned], home=home, folder=tmp_path)
        assert "quarantine" in shown.stdout
        assert f"pillion workflow retry {poisoned} 0" in shown.stdout + shown.stderr
        assert state(sidecar, poisoned)["runtimeStatus"] == "RUNNING"
        if mend == "retry":
            antidote.touch()
        arguments = ["retry", poisoned, "0"] if mend == "retry" else ["skip", poisoned, "0", "--result", '"done"']
        done = pillion(["workflow", *arguments], home=home, folder=tmp_path)
        assert done.returncode == 0, done.stderr
        assert output(sidecar, poisoned) == ('"cured"' if mend == "retry" else '"done"')
        assert noted(ledger).count("poisoned") == 5
        again = pillion(["workflow", *arguments], home=home, folder=tmp_path)
        assert again.returncode != 0
        assert f"workflow '{poisoned}' waits for no activity 0" in again.stdout + again.stderr


def put_aside(sidecar: SidecarProcess, instance_id: str) -> list[dict[str, Any]]:
    return [wait for wait in waits(sidecar, instance_id) if wait["kind"] == "quarantine"]


def test_answers_that_nobody_asked_for(tmp_path: Path, flags: Sequence[str]) -> None:
    """Twice, for other instances, under other tokens, of another task: what counts is the first that was asked for."""
    with (
        processes.sidecar(tmp_path, flags, "answers") as sidecar,
        grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel,
    ):

        def ask(name: str, request: m.ActivityResponse | m.WorkflowResponse) -> None:
            call = channel.unary_unary(f"{HUB}{name}", request_serializer=lambda each: each.SerializeToString())
            call(request, timeout=60)

        stream = channel.unary_stream(
            f"{HUB}GetWorkItems", request_serializer=lambda each: each.SerializeToString(),
            response_deserializer=m.WorkItem.FromString,
        )(m.GetWorkItemsRequest(), timeout=120)  # fmt: skip
        start(sidecar, "other", instance_id="bystander")
        start(sidecar, "mine", instance_id="mine")
        turns = {}
        for item in stream:
            turns[item.workflowRequest.instanceId] = item
            if len(turns) == 2:
                break
        wrong = m.WorkflowResponse(instanceId="bystander", completionToken=turns["mine"].completionToken)
        wrong.actions.add(id=-1).completeWorkflow.workflowStatus = m.ORCHESTRATION_STATUS_FAILED
        ask("CompleteWorkflowTask", wrong)
        ask("CompleteWorkflowTask", m.WorkflowResponse(instanceId="nobody", completionToken="none"))
        answer = m.WorkflowResponse(instanceId="mine", completionToken=turns["mine"].completionToken)
        answer.actions.add(id=7).scheduleTask.name = "act"
        for _ in range(3):
            ask("CompleteOrchestratorTask", answer)
        activity = next(stream)
        assert (activity.activityRequest.name, activity.activityRequest.taskId) == ("act", 7)
        for instance_id, task_id, token in (
            ("bystander", 7, ""), ("mine", 8, activity.completionToken), ("mine", 7, turns["mine"].completionToken)
        ):  # fmt: skip
            ask(
                "CompleteActivityTask",
                m.ActivityResponse(instanceId=instance_id, taskId=task_id, completionToken=token),
            )
        good = m.ActivityResponse(instanceId="mine", taskId=7, completionToken=activity.completionToken)
        good.result.value = '"first"'
        ask("CompleteActivityTask", good)
        good.result.value = '"second"'
        ask("CompleteActivityTask", good)
        turn = next(stream)
        results = [
            event.taskCompleted.result.value
            for event in turn.workflowRequest.newEvents
            if event.HasField("taskCompleted")
        ]
        assert results == ['"first"']
        end = m.WorkflowResponse(instanceId="mine")  # an SDK that knows no tokens
        complete = end.actions.add(id=8).completeWorkflow
        complete.workflowStatus, complete.result.value = m.ORCHESTRATION_STATUS_COMPLETED, '"well"'
        ask("CompleteWorkflowTask", end)
        ask("CompleteWorkflowTask", end)
        assert output(sidecar, "mine") == '"well"'
        assert [each["type"] for each in history(sidecar, "mine")].count("taskCompleted") == 1
        assert state(sidecar, "bystander")["runtimeStatus"] in ("PENDING", "RUNNING")
        stream.cancel()


def test_too_large(tmp_path: Path, flags: Sequence[str]) -> None:
    """An instance that outgrows the largest message stalls and says so; a larger limit lets it go on (invariant 35)."""
    small, large = (["--max-body-size", size] for size in ("64Ki", "4Mi"))
    with processes.sidecar(tmp_path, flags, "large", arguments=small) as sidecar, processes.worker(sidecar):
        start(sidecar, "one", ["big", 62_000], "big")
        fine = start(sidecar, "steps", 2)
        eventually(lambda: sidecar.request("GET", f"{OWN}/big").json()["status"] == "STALLED")
        assert state(sidecar, "big")["runtimeStatus"] == "UNKNOWN"
        assert [wait["name"] for wait in waits(sidecar, "big") if wait["kind"] == "stalled"] == [
            "PAYLOAD_SIZE_EXCEEDED"
        ]
        assert "PAYLOAD_SIZE_EXCEEDED" in json.dumps(history(sidecar, "big"))
        output(sidecar, fine)
        sidecar.stop()
    with processes.sidecar(tmp_path, flags, "large", arguments=large) as sidecar, processes.worker(sidecar):
        assert len(output(sidecar, "big")) == 62_002


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_answers_too_large(tmp_path: Path, flags: Sequence[str], compression: grpc.Compression) -> None:
    """A worker's answer that is too large to be taken is no riddle: the activity has failed, the turn stalls."""
    with (
        processes.sidecar(tmp_path, flags, "answers-too-large", arguments=["--max-body-size", "64Ki"]) as sidecar,
        grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel,
    ):

        def ask(name: str, request: m.ActivityResponse | m.WorkflowResponse) -> None:
            call = channel.unary_unary(f"{HUB}{name}", request_serializer=lambda each: each.SerializeToString())
            call(request, timeout=60, compression=compression)

        def refused(name: str, request: m.ActivityResponse | m.WorkflowResponse) -> None:
            with pytest.raises(grpc.RpcError) as caught:
                ask(name, request)
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED

        stream = channel.unary_stream(
            f"{HUB}GetWorkItems", request_serializer=lambda each: each.SerializeToString(),
            response_deserializer=m.WorkItem.FromString,
        )(m.GetWorkItemsRequest(), timeout=120)  # fmt: skip
        start(sidecar, "any", instance_id="outgrown")
        answer = m.WorkflowResponse(instanceId="outgrown", completionToken=next(stream).completionToken)
        answer.actions.add(id=0).scheduleTask.name = "act"
        ask("CompleteOrchestratorTask", answer)
        activity = next(stream)
        result = m.ActivityResponse(instanceId="outgrown", taskId=0, completionToken=activity.completionToken)
        result.result.value = json.dumps("x" * 100_000)
        refused("CompleteActivityTask", result)
        turn = next(stream)
        (failed,) = [event.taskFailed for event in turn.workflowRequest.newEvents if event.HasField("taskFailed")]
        details = failed.failureDetails
        assert (failed.taskScheduledId, details.errorType, details.isNonRetriable) == (
            0,
            "WorkflowPayloadTooLarge",
            True,
        )
        assert "larger than max" in details.errorMessage
        end = m.WorkflowResponse(instanceId="outgrown", completionToken=turn.completionToken)
        complete = end.actions.add(id=1).completeWorkflow
        complete.workflowStatus, complete.result.value = m.ORCHESTRATION_STATUS_COMPLETED, json.dumps("y" * 100_000)
        refused("CompleteOrchestratorTask", end)
        eventually(lambda: sidecar.request("GET", f"{OWN}/outgrown").json()["status"] == "STALLED")
        (wait,) = [wait for wait in waits(sidecar, "outgrown") if wait["kind"] == "stalled"]
        assert wait["name"] == "PAYLOAD_SIZE_EXCEEDED"
        assert "larger than max" in wait["error"]
        again = channel.unary_stream(
            f"{HUB}GetWorkItems", request_serializer=lambda each: each.SerializeToString(),
            response_deserializer=m.WorkItem.FromString,
        )(m.GetWorkItemsRequest(), timeout=120)  # fmt: skip
        stream.cancel()
        end.completionToken = next(again).completionToken
        end.actions[0].completeWorkflow.result.value = '"short"'
        ask("CompleteOrchestratorTask", end)
        assert output(sidecar, "outgrown") == '"short"'
        again.cancel()


def test_no_worker(tmp_path: Path, flags: Sequence[str]) -> None:
    """Without a worker requests wait, and what is there says that it waits for one."""
    with processes.sidecar(tmp_path, flags, "alone") as sidecar:
        with processes.worker(sidecar) as worker:
            start(sidecar, "waits", None, "waiting")
            until(sidecar, "waiting", "RUNNING")
            worker.stop()
        eventually(lambda: "worker" in [wait["kind"] for wait in waits(sidecar, "waiting")])
        assert state(sidecar, "waiting")["runtimeStatus"] == "RUNNING"
        with processes.worker(sidecar):
            assert post(sidecar, "waiting/raiseEvent/go", '"on"').status == 202
            assert output(sidecar, "waiting") == '"on"'


def test_stores_that_will_not_do(tmp_path: Path, flags: Sequence[str]) -> None:
    """No store of actors, or no placement: an error that says what is missing."""
    plain = component("store", "state.sqlite", connectionString=str(tmp_path / "plain.db"))
    with processes.sidecar(tmp_path, flags, "bare", store=plain) as sidecar:
        reply = post(sidecar, "steps/start")
        assert (reply.status, reply.json()["errorCode"]) == (500, "ERR_ACTOR_RUNTIME_NOT_FOUND"), reply
        assert "actorStateStore" in reply.json()["message"]
        reply = sidecar.request("GET", "/v1.0/workflows/dapr/any")
        assert (reply.status, reply.json()["errorCode"]) == (500, "ERR_ACTOR_RUNTIME_NOT_FOUND"), reply
    with SidecarProcess(tmp_path, "unplaced", resources={"s.yaml": processes.sqlite(tmp_path)}) as sidecar:
        reply = post(sidecar, "steps/start")
        assert reply.json()["errorCode"] == "ERR_ACTOR_NO_PLACEMENT", reply


def test_a_store_of_actors_without_transactions(tmp_path: Path, flags: Sequence[str]) -> None:
    """It is marked as the store of actors and cannot be: the log says so, every request is refused as without one, and
    nothing is written."""
    page = Path(__file__).parents[2] / "docs" / "python-components.md"
    (tmp_path / "resources-unfit").mkdir()
    (tmp_path / "resources-unfit" / "folder_store.py").write_text(
        page.read_text().split("```python\n")[1].split("```")[0]
    )
    rows = tmp_path / "rows"
    metadata = {"pillion.file": "folder_store.py", "folder": str(rows), "actorStateStore": "true"}
    with (
        processes.sidecar(tmp_path, flags, "unfit", store=component("s", "state.python", **metadata)) as sidecar,
        processes.worker(sidecar),
    ):
        sidecar.wait_log("s cannot keep the state of actors: it lacks TRANSACTIONAL")
        upsert = json.dumps([{"operation": "upsert", "request": {"key": "k", "value": 1}}])
        for method, path, body in (
            ("POST", f"{API}/steps/start?instanceID=one", "2"),
            ("GET", f"{API}/one", ""),
            ("POST", f"{API}/one/raiseEvent/go", "1"),
            ("POST", f"{API}/one/terminate", ""),
            ("POST", f"{API}/one/pause", ""),
            ("POST", f"{API}/one/purge", ""),
            ("POST", "/v1.0/actors/T/1/state", upsert),
            ("GET", "/v1.0/actors/T/1/state/k", ""),
        ):
            reply = sidecar.request(method, path, body)
            assert (reply.status, reply.json()["errorCode"]) == (500, "ERR_ACTOR_RUNTIME_NOT_FOUND"), (path, reply)
            assert "the state store is not configured to use the actor runtime" in reply.json()["message"]
        with grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel:
            for name, request in (
                ("StartInstance", m.CreateInstanceRequest(name="steps", instanceId="two")),
                ("GetInstance", m.GetInstanceRequest(instanceId="two")),
            ):
                call = channel.unary_unary(f"{HUB}{name}", request_serializer=lambda each: each.SerializeToString())
                with pytest.raises(grpc.RpcError, match="not configured to use the actor runtime") as refused:
                    call(request, timeout=10)
                assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
        # As a state store it serves on, beside.
        assert sidecar.post_json("/v1.0/state/s", [{"key": "k", "value": 1}]).status == 204
        assert len([path for path in rows.rglob("*") if path.is_file()]) == 1, "only what has just been saved"
