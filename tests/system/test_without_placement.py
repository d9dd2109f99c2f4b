"""A sidecar without a placement service: actors and workflows are refused for the right reason, in the contract's order
(spec `grpc-api.md` 2 gate A), unless `spec.api` closes them: then they are not there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from pillion.wire.messages import runtime as m
from sidecars import SidecarProcess

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from google.protobuf.message import Message

DAPR = "/dapr.proto.runtime.v1.Dapr/"
OWN = "dapr.internal.default.app.workflow"
RESERVED = f'actor type "{OWN}" is reserved for the Dapr workflow runtime; direct actor API access is not permitted'
OF_ACTORS = {
    "GetActorState": m.GetActorStateRequest,
    "ExecuteActorStateTransaction": m.ExecuteActorStateTransactionRequest,
    "RegisterActorTimer": m.RegisterActorTimerRequest,
    "UnregisterActorTimer": m.UnregisterActorTimerRequest,
    "RegisterActorReminder": m.RegisterActorReminderRequest,
    "UnregisterActorReminder": m.UnregisterActorReminderRequest,
    "UnregisterActorRemindersByType": m.UnregisterActorRemindersByTypeRequest,
    "ListActorReminders": m.ListActorRemindersRequest,
    "GetActorReminder": m.GetActorReminderRequest,
}
NO_PLACEMENT = (grpc.StatusCode.UNAVAILABLE, "placement service is not configured")
CLOSED = (grpc.StatusCode.UNIMPLEMENTED, "Not Implemented")
RULES = """
kind: Configuration
spec:
  api:
    denied:
    - {name: actors, version: v1, protocol: grpc}
    - {name: workflows, version: v1beta1, protocol: grpc}
    - {name: actors, version: v1, protocol: http}
    - {name: workflows, version: v1, protocol: http}
"""


@pytest.fixture(scope="module")
def open_sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SidecarProcess]:
    with SidecarProcess(tmp_path_factory.mktemp("open")) as sidecar:
        yield sidecar


def refusal(sidecar: SidecarProcess, method: str, request: Message) -> tuple[grpc.StatusCode, str]:
    with (
        grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary(method)(request.SerializeToString(), timeout=60)
    return caught.value.code(), caught.value.details()


@pytest.mark.parametrize("method", OF_ACTORS)
def test_types_of_the_sidecar_itself_come_first(open_sidecar: SidecarProcess, method: str) -> None:
    """PERMISSION_DENIED for `dapr.internal.` types, then UNAVAILABLE for all others."""
    kind = OF_ACTORS[method]
    denied = (grpc.StatusCode.PERMISSION_DENIED, RESERVED)
    assert refusal(open_sidecar, DAPR + method, kind(actor_type=OWN)) == denied
    assert refusal(open_sidecar, DAPR + method, kind(actor_type="Cart")) == NO_PLACEMENT


def test_invoking_and_workflows_miss_the_placement_service(open_sidecar: SidecarProcess) -> None:
    """Any type may be invoked, so the missing service is what is wrong; workflows and workers hear the same."""
    assert refusal(open_sidecar, DAPR + "InvokeActor", m.InvokeActorRequest(actor_type=OWN, method="m")) == NO_PLACEMENT
    assert refusal(open_sidecar, DAPR + "StartWorkflowBeta1", m.StartWorkflowRequest()) == NO_PLACEMENT
    assert refusal(open_sidecar, "/TaskHubSidecarService/StartInstance", m.StartWorkflowRequest()) == NO_PLACEMENT
    with (
        grpc.insecure_channel(f"127.0.0.1:{open_sidecar.grpc_port}") as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        list(channel.stream_stream(DAPR + "SubscribeActorEventsAlpha1")(iter([b""]), timeout=60))
    assert (caught.value.code(), caught.value.details()) == NO_PLACEMENT


def test_what_is_denied_is_not_there(tmp_path: Path) -> None:
    """Over gRPC UNIMPLEMENTED, over HTTP 404 as for unknown paths; what the rules leave open says what is missing."""
    (tmp_path / "rules.yaml").write_text(RULES)
    with SidecarProcess(tmp_path, arguments=["--config", "rules.yaml"]) as sidecar:
        assert refusal(sidecar, DAPR + "GetActorState", m.GetActorStateRequest(actor_type=OWN)) == CLOSED
        assert refusal(sidecar, DAPR + "InvokeActor", m.InvokeActorRequest(actor_type=OWN)) == CLOSED
        assert refusal(sidecar, DAPR + "StartWorkflowBeta1", m.StartWorkflowRequest()) == CLOSED
        assert refusal(sidecar, DAPR + "StartWorkflowAlpha1", m.StartWorkflowRequest()) == NO_PLACEMENT
        for path, expected in {
            "/v1.0/actors/Cart/1/state/k": (404, "ERR_DIRECT_INVOKE"),
            "/v1.0/actors/dapr.internal.x/1/state/k": (404, "ERR_DIRECT_INVOKE"),
            "/v1.0/workflows/dapr/1": (404, "ERR_DIRECT_INVOKE"),
            "/v1.0-beta1/workflows/dapr/1": (400, "ERR_ACTOR_NO_PLACEMENT"),
        }.items():
            reply = sidecar.request("GET", path)
            assert (reply.status, reply.json()["errorCode"]) == expected, path
