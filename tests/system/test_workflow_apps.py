"""Workflows between applications: activities and children elsewhere, access policies and their reload; limits,
retention, instances that are run again, replicas."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

import workflow_processes as processes
from sidecars import eventually, rewrite
from workflow_client import OWN, noted, output, start, state, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from sidecars import SidecarProcess

POLICY = """
apiVersion: dapr.io/v1alpha1
kind: WorkflowAccessPolicy
metadata: {{name: guard}}
scopes: [back]
spec:
  rules:
  - callers: [{{appID: {caller}}}]
    workflows: [{{name: "st*", operations: [schedule]}}]
    activities: [{{name: work}}]
"""


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[str]]:
    with processes.plane(tmp_path_factory.mktemp("planes")) as found:
        yield found


def names(folder: Path) -> str:
    """A configuration by which sidecars find each other in a file."""
    path = folder / "names.yaml"
    path.write_text(
        "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: names}\nspec:\n  nameResolution:\n"
        f"    component: sqlite\n    configuration: {{connectionString: {folder / 'names.db'}}}\n  features:\n"
        "  - {name: HotReload, enabled: true}\n"
    )
    return str(path)


def test_two_applications(tmp_path: Path, flags: Sequence[str]) -> None:
    """3.9, 3.10: activities and children of another application, before it is there, allowed, and denied."""
    ledger = tmp_path / "ledger"
    arguments = ["--config", names(tmp_path)]
    with ExitStack() as stack:
        front = stack.enter_context(processes.sidecar(tmp_path, flags, "front", arguments=arguments))
        stack.enter_context(processes.worker(front, ledger))
        early = start(front, "one", ["work", "early", "back"])
        back = stack.enter_context(processes.sidecar(tmp_path, flags, "back", arguments=arguments))
        stack.enter_context(processes.worker(back, ledger))
        assert output(front, early) == '"early"'
        assert (
            output(front, start(front, "child", ["steps", "back"], "family")) == '["family-child/0", "family-child/1"]'
        )
        assert state(back, "family-child")["runtimeStatus"] == "COMPLETED"
        assert front.request("GET", "/v1.0/workflows/dapr/family-child").status == 404

        policy = back.folder / "resources-back" / "policy.yaml"
        rewrite(policy, POLICY.format(caller="somebody-else"))
        back.wait_log("WorkflowAccessPolicies changed")
        told = back.request("GET", "/v1.0/metadata").json()
        assert (told["workflows"], told["workflowAccessPolicies"]) == ({"connectedWorkers": 1}, [{"name": "guard"}])
        assert "workflowAccessPolicies" not in front.request("GET", "/v1.0/metadata").json()
        denied = '"WorkflowAccessPolicyDenied: access denied by workflow access policy"'
        eventually(lambda: output(front, start(front, "one", ["work", "x", "back"])) == denied)
        assert output(front, start(front, "child", ["steps", "back"])) == denied
        assert output(back, start(back, "steps", 1)).endswith('/0"]')  # the application itself may do all
        assert output(back, start(back, "one", ["work", "own"])) == '"own"'

        rewrite(policy, POLICY.format(caller="front"))
        eventually(lambda: output(front, start(front, "one", ["work", "x", "back"])) == '"x"')
        assert output(front, start(front, "child", ["steps", "back"])).endswith('/1"]')
        assert output(front, start(front, "one", ["slow", 0, "back"])) == denied
        assert output(front, start(front, "child", ["waits", "back"])) == denied
        policy.unlink()
        eventually(lambda: output(front, start(front, "one", ["slow", 0, "back"])) == '"slept"')


def configured(folder: Path, flags: Sequence[str], app_id: str, workflow: object) -> SidecarProcess:
    path = folder / f"{app_id}.yaml"
    document = {
        "apiVersion": "dapr.io/v1alpha1", "kind": "Configuration", "metadata": {"name": app_id},
        "spec": {"workflow": workflow},
    }  # fmt: skip
    path.write_text(json.dumps(document))
    return processes.sidecar(folder, flags, app_id, arguments=["--config", str(path)])


def test_limits(tmp_path: Path, flags: Sequence[str]) -> None:
    """3.11: no more activities at once than allowed, of a name and in all; all of them run."""
    limits = {
        "maxConcurrentActivityInvocations": 3,
        "activityConcurrencyLimits": [{"name": "alone", "maxConcurrent": 1}],
    }
    ledger = tmp_path / "ledger"
    with configured(tmp_path, flags, "limited", limits) as sidecar, processes.worker(sidecar, ledger):
        slow = [start(sidecar, "one", ["alone", 0.05]) for _ in range(5)]
        quick = [start(sidecar, "steps", 3) for _ in range(5)]
        assert {output(sidecar, each) for each in slow} == {'"slept"'}
        for each in quick:
            output(sidecar, each)
        turns = [line for line in noted(ledger) if line.startswith("alone")]
        assert turns == ["alone begins", "alone ends"] * 5


def test_retention(tmp_path: Path, flags: Sequence[str]) -> None:
    """3.9: what ended is deleted when its time is over; a rule for one ending beats that for all."""
    policy = {"stateRetentionPolicy": {"anyTerminal": "1h", "completed": "1s", "failed": "0s"}}
    with configured(tmp_path, flags, "forgetful", policy) as sidecar, processes.worker(sidecar):
        done, failed = start(sidecar, "steps", 1), start(sidecar, "fails", "x")
        ended = start(sidecar, "waits")
        until(sidecar, ended, "RUNNING")
        sidecar.request("POST", f"/v1.0/workflows/dapr/{ended}/terminate")
        until(sidecar, ended, "TERMINATED")
        for each in (failed, done):
            eventually(lambda each=each: sidecar.request("GET", f"/v1.0/workflows/dapr/{each}").status == 404)  # type: ignore[misc]
        assert state(sidecar, ended)["runtimeStatus"] == "TERMINATED"


def test_again(tmp_path: Path, flags: Sequence[str]) -> None:
    """3.9: from one of its activities, with another input, and what cannot be."""
    ledger = tmp_path / "ledger"
    with processes.sidecar(tmp_path, flags, "again") as sidecar, processes.worker(sidecar, ledger):
        output(sidecar, start(sidecar, "steps", 3, "first"))

        def rerun(query: str, source: str = "first") -> tuple[int, str]:
            reply = sidecar.request("POST", f"{OWN}/{source}/rerun?{query}")
            return reply.status, reply.body.decode()

        assert rerun("eventID=1&newID=second")[0] == 202
        assert len(json.loads(output(sidecar, "second"))) == 3
        ran = [line.split("/")[1] for line in noted(ledger)]
        assert sorted(ran) == ["0", "1", "1", "2", "2"]
        assert rerun("eventID=2&newID=third&input=%22other%22")[0] == 202
        assert json.loads(output(sidecar, "third"))[2] == "other"
        for query, source, text in (
            ("eventID=1&newID=second", "first", "already been created"),
            ("eventID=1&newID=first", "first", "ID of its own"),
            ("eventID=77&newID=x", "first", "77"),
            ("eventID=x", "first", "eventID must be the number"),
            ("eventID=1", "nobody", "nobody"),
        ):
            status, body = rerun(query, source)
            assert status >= 400, body
            assert text in body, body


def test_shared_by_replicas(tmp_path: Path, flags: Sequence[str]) -> None:
    """Three sidecars of one application share its instances: each can be asked about all of them."""
    ledger = tmp_path / "ledger"
    with ExitStack() as stack:
        replicas = []
        for number in range(3):
            folder = tmp_path / str(number)
            folder.mkdir()
            one = stack.enter_context(processes.sidecar(folder, flags, "replicated", store=processes.sqlite(tmp_path)))
            stack.enter_context(processes.worker(one, ledger))
            replicas.append(one)
        ids = [start(replicas[number % 3], "everything", None, f"r{number}") for number in range(30)]
        for number, each in enumerate(ids):
            reply = replicas[(number + 1) % 3].request(
                "POST", f"/v1.0/workflows/dapr/{each}/raiseEvent/go", str(number)
            )
            assert reply.status == 202, reply
        for number, each in enumerate(ids):
            found = json.loads(output(replicas[(number + 2) % 3], each))
            fan, child = [f"{each}/fan{one}" for one in range(3)], [f"{each}-child/{one}" for one in range(2)]
            assert found == [f"{each}/first", fan, child, number]
        assert len(noted(ledger)) == 30 * 6
        owners = {replicas[0].request("GET", f"{OWN}/{each}").json()["owner"] for each in ids}
        assert len(owners) == 3
