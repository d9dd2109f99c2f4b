"""API allow and deny lists through a real sidecar (spec `http-api.md` 1, `grpc-api.md` 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf import any_pb2

from pillion.wire.messages import rpc
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from pathlib import Path

CONFIGURATION = """
kind: Configuration
spec:
  api:
    allowed:
    - {name: state, version: v1, protocol: HTTP}
    - {name: invoke, version: v1, protocol: http}
    - {name: metadata, version: v1, protocol: grpc}
    denied:
    - {name: DENIED, version: v1, protocol: http}
"""


def _sidecar(folder: Path, denied: str) -> SidecarProcess:
    config = folder / "config.yaml"
    config.write_text(CONFIGURATION.replace("DENIED", denied))
    resources = {"s.yaml": component("s", "state.in-memory")}
    return SidecarProcess(
        folder, resources=resources, arguments=("--config", str(config)), env={"DAPR_API_TOKEN": "secret"}
    )


def test_closed_routes_are_as_if_they_were_not_there(tmp_path: Path) -> None:
    """HTTP: 404 ERR_DIRECT_INVOKE like any unknown path, health stays open. gRPC: UNIMPLEMENTED in form D, before the
    token is asked for; methods of other packages are not concerned.
    """
    with _sidecar(tmp_path, "nothing") as sidecar:
        token = {"dapr-api-token": "secret"}
        assert sidecar.request("POST", "/v1.0/state/s", b'[{"key":"k","value":1}]', token).status == 204
        assert sidecar.request("GET", "/v1.0/state/s/k", headers=token).body == b"1"
        closed = sidecar.request("GET", "/v1.0/metadata", headers=token)
        assert (closed.status, closed.json()["errorCode"]) == (404, "ERR_DIRECT_INVOKE")
        assert sidecar.request("GET", "/v1.0/healthz/outbound").status == 204
        with grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel:
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/dapr.proto.runtime.v1.Dapr/GetState")(b"", timeout=60)
            assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED
            assert caught.value.details() == "Not Implemented"
            packed = dict(caught.value.trailing_metadata())["grpc-status-details-bin"]
            detail = any_pb2.Any.FromString(rpc.Status.FromString(packed).details[0].SerializeToString())
            info = rpc.ErrorInfo.FromString(detail.value)
            assert info.metadata["http.error_message"] == "requested endpoint is not available"
            assert info.metadata["http.code"] == "501"
            channel.unary_unary("/dapr.proto.runtime.v1.Dapr/GetMetadata")(
                b"", metadata=(("dapr-api-token", "secret"),), timeout=60
            )
            with pytest.raises(grpc.RpcError) as caught:
                channel.unary_unary("/shop.Orders/Place")(b"", metadata=(("dapr-api-token", "secret"),), timeout=60)
            assert caught.value.code() == grpc.StatusCode.UNKNOWN


def test_without_service_invocation_unknown_paths_are_plainly_unknown(tmp_path: Path) -> None:
    """404 and 405 without an error code: the fallback that would invoke is closed too."""
    with _sidecar(tmp_path, "invoke") as sidecar:
        token = {"dapr-api-token": "secret", "dapr-app-id": "app"}
        unknown = sidecar.request("GET", "/anything", headers=token)
        assert (unknown.status, unknown.body) == (404, b"404 page not found\n")
        assert sidecar.request("GET", "/v1.0/invoke/app/method/x", headers=token).status == 404
        wrong = sidecar.request("PATCH", "/v1.0/state/s", headers=token)
        assert (wrong.status, wrong.body) == (405, b"")
