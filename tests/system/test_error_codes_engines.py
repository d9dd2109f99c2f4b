"""Error codes of actors and workflows that other tests do not meet, provoked through a real sidecar (docs/errors.md).

The sidecar has a placement service, no scheduler, and a store of actors that fails. Codes of gRPC, which tells none in
its details here, are seen by their counter.
"""

from __future__ import annotations

import http.client
import json
from typing import TYPE_CHECKING

import grpc
import pytest

import planes
from apps import Call, HttpApp
from pillion.wire.messages import runtime as m
from refusals import CountingSidecar, refused, told
from sidecars import START_S, component, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ILL = """
from pillion.components.memory import MemoryState
from pillion.errors import ComponentError


class Ill(MemoryState):
    async def fail(self, *_, **__):
        raise ComponentError("it is ill")

    get = bulk_get = set = delete = transact = transact_versions = keys_like = fail
"""
ACTOR = "/v1.0/actors/Mirror/1"
API, OWN = "/v1.0/workflows/dapr/w", "/v1.0-pillion/workflows"
INVALID, INTERNAL = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL
NO_SCHEDULER = "scheduler clients are disabled"


class Mirrors(HttpApp):
    """Hosts actors whose method calls itself, in the same chain, as often as it may."""

    sidecar_port = 0

    def reply(self, call: Call) -> tuple[int, Mapping[str, str], bytes]:
        if call.path == "/dapr/config":
            reentrancy = {"enabled": True, "maxStackDepth": 3}
            return 200, {}, json.dumps({"entities": ["Mirror"], "reentrancy": reentrancy}).encode()
        if not call.path.startswith("/actors/Mirror/1/method/look"):
            return 200, {}, b""
        connection = http.client.HTTPConnection("127.0.0.1", self.sidecar_port, timeout=START_S)
        try:
            chain = {"Dapr-Reentrancy-Id": call.headers["dapr-reentrancy-id"]}
            connection.request("PUT", f"{ACTOR}/method/look", headers=chain)
            return 200, {"Content-Type": "application/json"}, connection.getresponse().read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CountingSidecar]:
    folder = tmp_path_factory.mktemp("ill")
    (folder / "resources").mkdir()
    (folder / "resources" / "ill.py").write_text(ILL)
    resources = {
        "ill.yaml": component("ill", "state.python", **{"pillion.file": "ill.py", "actorStateStore": "true"}),
    }
    with planes.placement(folder) as placement, Mirrors() as app:
        running = CountingSidecar(
            folder, app_port=app.port, resources=resources, resources_path=folder / "resources",
            arguments=planes.flags(placement=placement),
        )  # fmt: skip
        app.sidecar_port = running.http_port
        with running:
            eventually(lambda: running.request("PUT", f"{ACTOR}/method/hello").status == 200)
            yield running


def test_a_chain_of_calls_that_is_too_long(sidecar: CountingSidecar) -> None:
    """The innermost call is refused; what it hears is handed on by every caller above."""
    answer = sidecar.request("PUT", f"{ACTOR}/method/look").json()
    assert answer == {"errorCode": "ERR_ACTOR_STACK_DEPTH", "message": "maximum stack depth exceeded"}


def test_an_actor_that_nobody_hosts(sidecar: CountingSidecar) -> None:
    text = "did not find address for actor 'Nobody||1'"
    request = m.InvokeActorRequest(actor_type="Nobody", actor_id="1", method="m")
    code, said, reason = refused(sidecar, "InvokeActor", request)
    assert (code, reason) == (grpc.StatusCode.FAILED_PRECONDITION, "")
    assert said == f"failed to lookup actor: api error: code = FailedPrecondition desc = {text}"
    assert "ERR_ACTOR_NO_ADDRESS" in sidecar.counted()


def test_reminders_that_nobody_keeps(sidecar: CountingSidecar) -> None:
    """Without a scheduler."""
    path = f"{ACTOR}/reminders/r"
    text = f"error creating actor reminder: {NO_SCHEDULER}"
    assert told(sidecar.post_json(path, {"dueTime": "1h"})) == (500, "ERR_ACTOR_REMINDER_CREATE", text)
    creation = m.RegisterActorReminderRequest(actor_type="Mirror", actor_id="1", name="r", due_time="1h")
    assert refused(sidecar, "RegisterActorReminder", creation) == (INTERNAL, text, "")
    text = f"error getting actor reminder: {NO_SCHEDULER}"
    assert told(sidecar.request("GET", path)) == (500, "ERR_ACTOR_REMINDER_GET", text)
    get = m.GetActorReminderRequest(actor_type="Mirror", actor_id="1", name="r")
    assert refused(sidecar, "GetActorReminder", get) == (INTERNAL, text, "")
    text = f"error deleting actor reminder: {NO_SCHEDULER}"
    assert told(sidecar.request("DELETE", path)) == (500, "ERR_ACTOR_REMINDER_DELETE", text)
    deletion = m.UnregisterActorReminderRequest(actor_type="Mirror", actor_id="1", name="r")
    assert refused(sidecar, "UnregisterActorReminder", deletion) == (INTERNAL, text, "")


@pytest.fixture(scope="module")
def worker(sidecar: CountingSidecar) -> Iterator[None]:
    """Somebody who would take work: without one, whoever asks for a workflow waits."""
    with grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel:
        work = channel.unary_stream("/TaskHubSidecarService/GetWorkItems")(b"")
        yield
        work.cancel()


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(
    ("verb", "path", "code", "text"),
    [
        ("GET", API, "ERR_GET_WORKFLOW", "error while getting workflow info on instance 'w': "),
        ("POST", f"{API}/terminate", "ERR_TERMINATE_WORKFLOW", "error terminating workflow 'w': "),
        ("GET", OWN, "ERR_LIST_WORKFLOWS", "error listing workflows: "),
        ("POST", f"{OWN}/w/rerun?eventID=0", "ERR_RERUN_WORKFLOW", "error rerunning workflow 'w': "),
        ("POST", f"{OWN}/w/retry", "ERR_WORKFLOW_TURN", "error mending the turn of workflow 'w': "),
        ("POST", f"{OWN}/w/activities/0/retry", "ERR_WORKFLOW_ACTIVITY", "error mending activity 0 of workflow 'w': "),
        ("POST", f"{OWN}/w/activities/0/skip", "ERR_WORKFLOW_ACTIVITY", "error mending activity 0 of workflow 'w': "),
    ],
)
def test_workflows_whose_store_fails(sidecar: CountingSidecar, verb: str, path: str, code: str, text: str) -> None:
    """Each operation by its own code, and the reason."""
    status, found, said = told(sidecar.request(verb, path))
    assert (status, found) == (500, code)
    assert said.startswith(text)
    assert "it is ill" in said


def test_workflows_without_a_name(sidecar: CountingSidecar) -> None:
    """Names can be empty over gRPC alone: a path without them is another path."""
    found = refused(sidecar, "StartWorkflowBeta1", m.StartWorkflowRequest(instance_id="w"))
    assert found == (INVALID, "workflow name is not configured", "")
    found = refused(sidecar, "GetWorkflowBeta1", m.GetWorkflowRequest())
    assert found == (INVALID, "no instance ID was provided", "")
    found = refused(sidecar, "RaiseEventWorkflowBeta1", m.RaiseEventWorkflowRequest(instance_id="w"))
    assert found == (INVALID, "missing workflow event name", "")
    names = {"ERR_WORKFLOW_NAME_MISSING", "ERR_INSTANCE_ID_PROVIDED_MISSING", "ERR_WORKFLOW_EVENT_NAME_MISSING"}
    assert names <= sidecar.counted()
