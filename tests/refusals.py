"""How a real sidecar refuses, over both protocols, and which codes it counts."""

from __future__ import annotations

import http.client
import re
from typing import TYPE_CHECKING, NamedTuple

import grpc
import pytest

from pillion.wire.messages import rpc
from ports import free_port
from sidecars import START_S, Reply, SidecarProcess

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from google.protobuf.message import Message

DAPR = "/dapr.proto.runtime.v1.Dapr/"
_COUNTED = re.compile(r'dapr_error_code_total{[^}]*error_code="(\w+)"')
CONFIGURATION = "kind: Configuration\nspec:\n  metric: {enabled: true, recordErrorCodes: true}\n"


class Refused(NamedTuple):
    """A gRPC status; `reason` is that of its `ErrorInfo`, "" where it has none."""

    code: grpc.StatusCode
    text: str
    reason: str


class CountingSidecar(SidecarProcess):
    """A sidecar that counts the codes of its errors."""

    def __init__(
        self, folder: Path, *, app_port: int = 0, resources: Mapping[str, str] | None = None,
        resources_path: Path | None = None, arguments: Sequence[str] = (),
    ) -> None:  # fmt: skip
        (folder / "counting.yaml").write_text(CONFIGURATION)
        self._metrics_port = free_port()
        more = [
            "--config", "counting.yaml", "--enable-metrics=true", "--metrics-port", str(self._metrics_port),
            "--metrics-listen-address", "127.0.0.1", *arguments,
        ]  # fmt: skip
        super().__init__(folder, app_port=app_port, resources=resources, resources_path=resources_path, arguments=more)

    def counted(self) -> set[str]:
        """The codes of the errors so far: over gRPC they are nowhere else to be seen."""
        connection = http.client.HTTPConnection("127.0.0.1", self._metrics_port, timeout=START_S)
        try:
            connection.request("GET", "/")
            return set(_COUNTED.findall(connection.getresponse().read().decode()))
        finally:
            connection.close()


def refused(sidecar: SidecarProcess, method: str, request: Message) -> Refused:
    """Call a unary method that fails; a bare name is one of the Dapr service."""
    full = method if method.startswith("/") else DAPR + method
    with (
        grpc.insecure_channel(f"127.0.0.1:{sidecar.grpc_port}") as channel,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.unary_unary(full)(request.SerializeToString(), timeout=START_S)
    error = caught.value
    packed = dict(error.trailing_metadata() or ()).get("grpc-status-details-bin", b"")
    info = rpc.ErrorInfo()
    found = [info.reason for detail in rpc.Status.FromString(packed).details if detail.Unpack(info)]
    return Refused(error.code(), error.details(), found[0] if found else "")


def told(reply: Reply) -> tuple[int, str, str]:
    """Status, code and text of an HTTP answer."""
    document = reply.json()
    return reply.status, document["errorCode"], document["message"]


def reasons(reply: Reply) -> list[str]:
    """The reasons in the details of an HTTP answer."""
    return [detail["reason"] for detail in reply.json()["details"] if "reason" in detail]
