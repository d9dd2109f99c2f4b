"""What tests ask a sidecar about workflows, over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecars import Reply, SidecarProcess, eventually

if TYPE_CHECKING:
    from pathlib import Path

API = "/v1.0/workflows/dapr"
OWN = "/v1.0-pillion/workflows"


def start(sidecar: SidecarProcess, name: str, given: object = None, instance_id: str = "") -> str:
    query = f"?instanceID={instance_id}" if instance_id else ""
    reply = sidecar.post_json(f"{API}/{name}/start{query}", given)
    assert reply.status == 202, reply
    found: str = reply.json()["instanceID"]
    return found


def state(sidecar: SidecarProcess, instance_id: str) -> dict[str, Any]:
    reply = sidecar.request("GET", f"{API}/{instance_id}")
    assert reply.status == 200, reply
    found: dict[str, Any] = reply.json()
    return found


def until(sidecar: SidecarProcess, instance_id: str, status: str) -> dict[str, Any]:
    """Wait until the instance has this status; return how it stands then."""
    eventually(lambda: state(sidecar, instance_id)["runtimeStatus"] == status, 90)
    return state(sidecar, instance_id)


def output(sidecar: SidecarProcess, instance_id: str) -> str:
    """Wait until the instance completes; return its output, JSON text."""
    found: str = until(sidecar, instance_id, "COMPLETED")["properties"]["dapr.workflow.output"]
    return found


def post(sidecar: SidecarProcess, tail: str, body: str = "") -> Reply:
    return sidecar.request("POST", f"{API}/{tail}", body)


def waits(sidecar: SidecarProcess, instance_id: str) -> list[dict[str, Any]]:
    """What the instance waits for."""
    reply = sidecar.request("GET", f"{OWN}/{instance_id}")
    assert reply.status == 200, reply
    found: list[dict[str, Any]] = reply.json()["waiting"]
    return found


def history(sidecar: SidecarProcess, instance_id: str) -> list[dict[str, Any]]:
    reply = sidecar.request("GET", f"{OWN}/{instance_id}/history")
    assert reply.status == 200, reply
    found: list[dict[str, Any]] = reply.json()["events"]
    return found


def noted(ledger: Path) -> list[str]:
    return ledger.read_text().splitlines() if ledger.exists() else []
