"""The workflow API of a real sidecar, and `pillion workflow` beside it."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import grpc
import pytest

import workflow_processes as processes
from cli_processes import pillion
from pillion.wire.messages import runtime as m
from sidecars import Reply, SidecarProcess, eventually
from workflow_client import API, post, start, state, until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

UNKNOWN = "no such instance exists"


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SidecarProcess]:
    folder = tmp_path_factory.mktemp("workflows")
    with processes.plane(folder) as flags, processes.sidecar(folder, flags) as sidecar, processes.worker(sidecar):
        yield sidecar


def refused(reply: Reply, status: int, code: str, text: str) -> None:
    found = reply.json()
    assert (reply.status, found["errorCode"]) == (status, code), reply
    assert text in found["message"], reply


@pytest.mark.parametrize("version", ["v1.0", "v1.0-beta1", "v1.0-alpha1"])
def test_a_life(sidecar: SidecarProcess, version: str) -> None:
    """3.8: every call on every version, whatever the component is called."""
    root = f"/{version}/workflows/any-{version}"
    name = f"life-{uuid.uuid4().hex}"
    begun = sidecar.request("POST", f"{root}/waits/start?instanceID={name}", "null")
    assert (begun.status, begun.body) == (202, b'{"instanceID":"%s"}' % name.encode())
    eventually(lambda: sidecar.request("GET", f"{root}/{name}").json()["runtimeStatus"] == "RUNNING")
    for action, after in (("pause", "SUSPENDED"), ("resume", "RUNNING")):
        done = sidecar.request("POST", f"{root}/{name}/{action}")
        assert (done.status, done.body) == (202, b"{}")
        eventually(lambda after=after: sidecar.request("GET", f"{root}/{name}").json()["runtimeStatus"] == after)  # type: ignore[misc]
    done = sidecar.request("POST", f"{root}/{name}/raiseEvent/GO", '{"by": "ada"}')
    assert (done.status, done.body) == (202, b"{}")
    eventually(lambda: sidecar.request("GET", f"{root}/{name}").json()["runtimeStatus"] == "COMPLETED")
    found = sidecar.request("GET", f"{root}/{name}").json()
    assert set(found) == {
        "instanceID", "workflowName", "createdAt", "lastUpdatedAt", "runtimeStatus", "properties"
    }  # fmt: skip
    assert (found["instanceID"], found["workflowName"]) == (name, "waits")
    assert found["properties"] == {
        "dapr.workflow.custom_status": '"waiting"', "dapr.workflow.input": "null",
        "dapr.workflow.output": '{"by": "ada"}',
    }  # fmt: skip
    assert found["createdAt"] <= found["lastUpdatedAt"]
    assert sidecar.request("POST", f"{root}/{name}/raiseEvent/go").status == 202  # it has ended: discarded
    assert sidecar.request("POST", f"{root}/{name}/terminate").status == 202
    assert sidecar.request("POST", f"{root}/{name}/purge").body == b"{}"
    assert sidecar.request("GET", f"{root}/{name}").status == 404


def test_what_is_refused(sidecar: SidecarProcess) -> None:
    """Every error that a caller can meet, with its code and words."""
    refused(
        post(sidecar, "waits/start?instanceID=" + "x" * 65), 400, "ERR_INSTANCE_ID_TOO_LONG",
        "workflow instance ID exceeds the max length of 64 characters",
    )  # fmt: skip
    for bad in ("a.b", "a%20b", "a%7C%7Cb", "a:b", "%E2%82%AC"):
        refused(
            post(sidecar, f"waits/start?instanceID={bad}"), 400, "ERR_INSTANCE_ID_INVALID",
            "is invalid: only alphanumeric and underscore characters are allowed",
        )  # fmt: skip
    assert len(start(sidecar, "steps", 0)) == 36
    assert start(sidecar, "steps", 0, "x" * 64) == "x" * 64
    assert start(sidecar, "steps", 0, "%C3%A9t%C3%A9_1-2") == "été_1-2"
    waiting = start(sidecar, "waits")
    refused(
        sidecar.post_json(f"{API}/waits/start?instanceID={waiting}", None), 500, "ERR_START_WORKFLOW",
        f"rpc error: code = AlreadyExists desc = an active workflow with ID '{waiting}' already exists",
    )  # fmt: skip
    refused(
        sidecar.request("GET", f"{API}/nobody"), 404, "ERR_INSTANCE_ID_NOT_FOUND",
        "unable to find workflow with the provided instance ID: nobody",
    )  # fmt: skip
    for action, status, code, text in (
        ("raiseEvent/go", 500, "ERR_RAISE_EVENT_WORKFLOW", f"error raising event on workflow 'nobody': {UNKNOWN}"),
        ("pause", 500, "ERR_PAUSE_WORKFLOW", f"error pausing workflow nobody: {UNKNOWN}"),
        ("resume", 500, "ERR_RESUME_WORKFLOW", f"error resuming workflow nobody: {UNKNOWN}"),
        ("terminate", 404, "ERR_INSTANCE_ID_NOT_FOUND", "unable to find workflow"),
        ("purge", 404, "ERR_INSTANCE_ID_NOT_FOUND", "unable to find workflow"),
    ):
        refused(post(sidecar, f"nobody/{action}"), status, code, text)
    until(sidecar, waiting, "RUNNING")
    refused(
        post(sidecar, f"{waiting}/purge"), 500, "ERR_PURGE_WORKFLOW",
        f"error purging workflow {waiting}: orchestration has not yet completed",
    )  # fmt: skip
    refused(sidecar.request("POST", f"{API}/steps/start", b"\xff\xfe"), 400, "ERR_MALFORMED_REQUEST", "UTF-8")
    too_large = b" " * ((4 << 20) + 1)
    for path in ("steps/start?instanceID=fat", f"{waiting}/raiseEvent/go"):
        refused(sidecar.request("POST", f"{API}/{path}", too_large), 400, "ERR_BODY_READ", "stream too large")
    for name in ("fat", "metadata", "a||b", "..", "inbox-000000", "%25"):  # no instance has these
        found = sidecar.request("GET", f"{API}/{name.replace('|', '%7C')}")
        assert found.status == 404, (name, found)
    post(sidecar, f"{waiting}/terminate")
    assert until(sidecar, waiting, "TERMINATED")["properties"]["dapr.workflow.custom_status"] == '"waiting"'


def test_failures_are_shown(sidecar: SidecarProcess) -> None:
    found = until(sidecar, start(sidecar, "fails", "no money"), "FAILED")["properties"]
    assert found["dapr.workflow.failure.error_type"] == "ValueError"
    assert found["dapr.workflow.failure.error_message"] == "no money"
    assert "dapr.workflow.output" not in found


def test_over_grpc(sidecar: SidecarProcess) -> None:
    """The same calls under both their names; a start at a given time; unknown ids are no errors here."""
    with grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel:

        def ask(name: str, request: Any, gives: type[Any]) -> Any:
            call = channel.unary_unary(
                f"/dapr.proto.runtime.v1.Dapr/{name}", request_serializer=lambda each: each.SerializeToString(),
                response_deserializer=gives.FromString,
            )  # fmt: skip
            return call(request, timeout=60)

        for suffix in ("Alpha1", "Beta1"):
            begun = ask(
                f"StartWorkflow{suffix}", m.StartWorkflowRequest(workflow_name="steps", input=b"2"),
                m.StartWorkflowResponse,
            )  # fmt: skip
            until(sidecar, begun.instance_id, "COMPLETED")
            found = ask(
                f"GetWorkflow{suffix}", m.GetWorkflowRequest(instance_id=begun.instance_id), m.GetWorkflowResponse
            )
            assert (found.workflow_name, found.runtime_status) == ("steps", "COMPLETED")
            assert json.loads(found.properties["dapr.workflow.output"])[1].endswith("/1")
            unknown = ask(f"GetWorkflow{suffix}", m.GetWorkflowRequest(instance_id="nobody"), m.GetWorkflowResponse)
            assert unknown == m.GetWorkflowResponse(instance_id="nobody")
        later = m.StartWorkflowRequest(workflow_name="steps", input=b"1", instance_id="later")
        later.options["dapr.workflow.start_time"] = "2999-01-01T00:00:00Z"
        ask("StartWorkflowBeta1", later, m.StartWorkflowResponse)
        pending = state(sidecar, "later")
        assert (pending["runtimeStatus"], pending["createdAt"]) == ("PENDING", "0001-01-01T00:00:00Z")
        for request, code in (
            (m.StartWorkflowRequest(workflow_name="", instance_id="x"), grpc.StatusCode.INVALID_ARGUMENT),
            (m.StartWorkflowRequest(workflow_name="steps", instance_id="a.b"), grpc.StatusCode.INVALID_ARGUMENT),
            (m.StartWorkflowRequest(workflow_name="steps", instance_id="later"), grpc.StatusCode.INTERNAL),
        ):
            with pytest.raises(grpc.RpcError) as error:
                ask("StartWorkflowBeta1", request, m.StartWorkflowResponse)
            assert error.value.code() is code


def test_the_command(sidecar: SidecarProcess) -> None:
    """Runs, lists, shows, steers, reruns and purges, as a person would."""

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        done = pillion(["workflow", *arguments], home=sidecar.folder / "home", folder=sidecar.folder)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    assert "cli-1/1" in run("run", "steps", "-i", "cli-1", "-x", "2", "--wait").stdout
    run("run", "waits", "-i", "cli-2", "-x", "3600")
    until(sidecar, "cli-2", "RUNNING")
    shown = run("show", "cli-2").stdout
    assert "waits for      event GO (task 0) in 59 min" in shown, shown
    listed = json.loads(run("list", "--json").stdout)
    assert {"cli-1": "COMPLETED", "cli-2": "RUNNING"}.items() <= {
        each["instanceID"]: each["status"] for each in listed
    }.items()
    assert "cli-2" not in run("list", "-s", "completed").stdout
    run("suspend", "cli-2", "-r", "lunch")
    until(sidecar, "cli-2", "SUSPENDED")
    run("raise", "cli-2", "go", "-x", '"now"')
    run("resume", "cli-2")
    assert until(sidecar, "cli-2", "COMPLETED")["properties"]["dapr.workflow.output"] == '"now"'
    history = run("history", "cli-1").stdout
    assert history.count("work") >= 2, history
    again = run("rerun", "cli-1", "-e", "1", "--new-instance-id", "cli-3", "--wait")
    assert "cli-3" in again.stdout
    run("run", "waits", "-i", "cli-4")
    run("terminate", "cli-4", "-o", '"enough"', "--alone")
    until(sidecar, "cli-4", "TERMINATED")
    run("run", "unheard-of", "-i", "cli-5")  # begun by nobody: it has no name but that of its start
    until(sidecar, "cli-5", "UNKNOWN")
    (unborn,) = json.loads(run("list", "--name", "unheard-of", "--json").stdout)
    assert (unborn["instanceID"], unborn["name"], unborn["status"]) == ("cli-5", "unheard-of", "STALLED")
    assert unborn["createdAt"] > "2020"
    assert "unheard-of" in run("show", "cli-5").stdout
    assert "3 workflows" in run("purge", "cli-1", "cli-2", "cli-3").stderr
    missing = pillion(["workflow", "show", "cli-1"], home=sidecar.folder / "home", folder=sidecar.folder)
    assert missing.returncode != 0
    assert "unable to find workflow with the provided instance ID: cli-1" in missing.stderr
