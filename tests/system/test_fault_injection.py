"""Faults made up on purpose, through a real `pilliond` (docs/fault-injection.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apps import HttpApp
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from pathlib import Path

RETRY = """apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata:
  name: rules
spec:
  policies:
    timeouts:
      DefaultStatestoreComponentOutboundTimeoutPolicy: 1s
    retries:
      DefaultComponentRetryPolicy: {duration: 5ms, maxRetries: 20}
"""


def injection(targets: str, seed: int = 1) -> str:
    indented = "\n".join("    " + line for line in targets.strip("\n").splitlines())
    return (
        "apiVersion: pillion.dev/v1alpha1\nkind: FaultInjection\nmetadata:\n  name: storm\n"
        f"spec:\n  seed: {seed}\n  targets:\n{indented}\n"
    )


def test_errors_of_applications_and_components(tmp_path: Path) -> None:
    """Made-up answers look like the application's own, made-up failures like the component's; all are in the log."""
    resources = {
        "f.yaml": injection("""
apps:
  app: {error: {message: the stove is cold, httpStatus: 503}}
components:
  store: {error: {message: the cellar is flooded}}
  vault: {error: {percent: 100}}
  bus: {outbound: {error: {}}}
"""),
        "store.yaml": component("store", "state.in-memory"),
        "bus.yaml": component("bus", "pubsub.in-memory"),
        "vault.yaml": component("vault", "secretstores.local.env"),
    }
    with HttpApp() as app, SidecarProcess(tmp_path, app_port=app.port, resources=resources) as sidecar:
        sidecar.wait("/v1.0/healthz")
        reply = sidecar.request("GET", "/v1.0/invoke/app/method/soup")
        assert (reply.status, reply.body) == (503, b"the stove is cold")
        assert reply.headers["x-pillion-fault"] == "error"
        assert app.calls == []
        reply = sidecar.request("GET", "/v1.0/state/store/k")
        assert reply.json()["message"] == "fail to get k from state store store: the cellar is flooded"
        reply = sidecar.request("GET", "/v1.0/secrets/vault/PATH")
        assert reply.json()["message"] == "failed getting secret with key PATH from secret store vault: injected fault"
        assert sidecar.post_json("/v1.0/publish/bus/t", 1).status == 500
        extended = sidecar.request("GET", "/v1.0/metadata").json()["extended"]
        assert extended["pillion.faultInjection"] == "storm"
        log = sidecar.log()
        assert "FAULT INJECTION IS ON: FaultInjection storm" in log
        assert "fault injection: component store outbound: error" in log


def test_policies_see_faults(tmp_path: Path) -> None:
    """Retries outlive errors, timeouts cut short what is lost or held back, and a seed repeats the same faults."""
    faults = injection("components:\n  store:\n    error: {percent: 40}\n    drop: {percent: 20}", seed=11)
    logs = []
    for run in ("one", "two"):
        folder = tmp_path / run
        folder.mkdir()
        resources = {"f.yaml": faults, "r.yaml": RETRY, "store.yaml": component("store", "state.in-memory")}
        with SidecarProcess(folder, resources=resources) as sidecar:
            for number in range(8):
                assert sidecar.post_json("/v1.0/state/store", [{"key": str(number), "value": number}]).status == 204
            log = sidecar.log()
            logs.append(
                [line.split("fault injection: ")[1][:40] for line in log.splitlines() if "injection: comp" in line]
            )
    shorter, longer = sorted(logs, key=len)  # an attempt that was too slow in itself draws once more
    assert longer[: len(shorter)] == shorter
    assert any("error" in line for line in logs[0])
    assert any("call lost" in line for line in logs[0])


def test_messages_are_dropped_and_duplicated(tmp_path: Path) -> None:
    """A dropped message is published in the eyes of its publisher; a duplicated one comes twice."""
    resources = {
        "f.yaml": injection("components:\n  lossy: {outbound: {drop: {}}}\n  twice: {outbound: {duplicate: {}}}"),
        "lossy.yaml": component("lossy", "pubsub.in-memory"),
        "twice.yaml": component("twice", "pubsub.in-memory"),
    }
    wanted = [{"pubsubname": name, "topic": "t", "route": f"/{name}"} for name in ("lossy", "twice")]
    with HttpApp(wanted) as app, SidecarProcess(tmp_path, app_port=app.port, resources=resources) as sidecar:
        sidecar.wait_log("is started", 2)
        assert sidecar.post_json("/v1.0/publish/lossy/t", 1).status == 204
        assert sidecar.post_json("/v1.0/publish/twice/t", 2).status == 204
        calls = app.wait(lambda calls: len(calls) == 2)
        assert [call.json()["data"] for call in calls] == [2, 2]
        assert calls[0].json()["id"] == calls[1].json()["id"]
