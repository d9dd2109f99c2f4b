"""Access control at the called side (spec `runtime.md` 3.6), through real sidecars. Without mTLS a caller has no
identity, and the global default decides.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from apps import HttpApp
from pillion.wire.messages import common
from pillion.wire.messages import runtime as m
from sidecars import SidecarProcess, sidecars

if TYPE_CHECKING:
    from pathlib import Path

CONFIGURATION = """
apiVersion: dapr.io/v1alpha1
kind: Configuration
metadata: {name: rules}
spec:
  nameResolution:
    component: sqlite
    configuration: {connectionString: "FOLDER/names.db"}
  accessControl:
    defaultAction: ACTION
    policies:
    - appId: caller
      namespace: default
      trustDomain: public
      defaultAction: allow
      operations:
      - {name: /x/*/y, httpVerb: [GET], action: deny}
"""


def _pair(folder: Path, action: str, port: int) -> tuple[SidecarProcess, SidecarProcess]:
    config = folder / "config.yaml"
    config.write_text(CONFIGURATION.replace("ACTION", action).replace("FOLDER", str(folder)))
    plain = folder / "plain.yaml"
    plain.write_text(CONFIGURATION.split("  accessControl")[0].replace("FOLDER", str(folder)))
    return (
        SidecarProcess(folder, "caller", arguments=("--config", str(plain))),
        SidecarProcess(folder, "callee", app_port=port, arguments=("--config", str(config))),
    )


def test_the_global_default_decides_on_a_caller_without_identity(tmp_path: Path) -> None:
    """`deny`: 403 ERR_DIRECT_INVOKE over HTTP, INTERNAL that quotes PermissionDenied over gRPC; the application itself
    is never asked, but may be called by its own sidecar. A rule that matches no call is told at start.
    """
    with HttpApp() as app, sidecars(*_pair(tmp_path, "deny", app.port)) as (caller, callee):
        answer = caller.request("POST", "/v1.0/invoke/callee/method/a/b", b"x")
        assert answer.status == 403
        assert answer.json()["errorCode"] == "ERR_DIRECT_INVOKE"
        assert "code = PermissionDenied desc = access control policy has denied access" in answer.json()["message"]
        assert "the default action (deny) decides every call" in callee.log()
        with grpc.insecure_channel(f"127.0.0.1:{caller.grpc_port}") as channel:
            invoke = channel.unary_unary(
                "/dapr.proto.runtime.v1.Dapr/InvokeService",
                request_serializer=m.InvokeServiceRequest.SerializeToString,
                response_deserializer=common.InvokeResponse.FromString,
            )
            message = common.InvokeRequest(
                method="a", http_extension=common.HTTPExtension(verb=common.HTTPExtension.GET)
            )
            with pytest.raises(grpc.RpcError) as caught:
                invoke(m.InvokeServiceRequest(id="callee", message=message), timeout=60)
            assert caught.value.code() == grpc.StatusCode.INTERNAL
            assert "PermissionDenied" in caught.value.details()
            proxied = channel.unary_unary("/shop.Orders/Place")
            with pytest.raises(grpc.RpcError) as caught:
                proxied(b"", metadata=(("dapr-app-id", "callee"),), timeout=60)
            assert caught.value.code() == grpc.StatusCode.PERMISSION_DENIED
        assert app.calls == []
        assert callee.request("GET", "/v1.0/invoke/callee/method/own").status == 200
        assert [call.path for call in app.calls] == ["/own"]
        assert "'/x/*/y' matches no call" in callee.log()


def test_allowed_calls_pass(tmp_path: Path) -> None:
    """The same rules with `allow`."""
    with HttpApp() as app, sidecars(*_pair(tmp_path, "allow", app.port)) as (caller, _):
        assert caller.request("GET", "/v1.0/invoke/callee/method/a").status == 200
        assert [call.path for call in app.calls] == ["/a"]
