"""Wrapping and unwrapping run under the component's outbound policies and are counted."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from crypto_keys import KEK
from ports import free_ports
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from pathlib import Path

POLICIES = """
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: policies}
spec:
  policies:
    circuitBreakers:
      trips: {maxRequests: 1, timeout: 1h, trip: consecutiveFailures >= 2}
  targets:
    components:
      vault: {outbound: {circuitBreaker: trips}}
"""


def test_a_breaker_opens_for_a_provider(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "mykey").write_bytes(base64.b64encode(KEK))
    resources = {
        "vault.yaml": component("vault", "crypto.dapr.localstorage", path="keys"),
        "policies.yaml": POLICIES,
    }
    [metrics] = free_ports(1)
    arguments = ("--enable-metrics=true", "--metrics-port", str(metrics))
    with SidecarProcess(tmp_path, "shop", resources=resources, arguments=arguments) as sidecar:

        def encrypt(key: str) -> tuple[int, bytes]:
            headers = {"dapr-key-name": key, "dapr-key-wrap-algorithm": "A256KW"}
            reply = sidecar.request("PUT", "/v1.0-alpha1/crypto/vault/encrypt", b"x", headers)
            return reply.status, reply.body

        assert encrypt("mykey")[0] == 200
        for _ in range(2):
            assert b"key none not found" in encrypt("none")[1]
        status, body = encrypt("mykey")
        assert status == 500
        assert b"circuit breaker is open" in body
        sidecar.http_port = metrics
        counted = sidecar.request("GET", "/").body.decode()
    rows = [row for row in counted.splitlines() if row.startswith("dapr_component_crypto_count{")]
    assert any('operation="crypto_op"' in row and 'success="true"' in row and row.endswith(" 1") for row in rows), rows
    assert any('success="false"' in row and row.endswith(" 3") for row in rows), rows
