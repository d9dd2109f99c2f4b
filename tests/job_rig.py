"""An application that carries jobs out, and its sidecar: real processes."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from apps import HttpApp
from sidecars import SidecarProcess, eventually

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from apps import Call

JOBS = "/v1.0/jobs/"


class Worker(HttpApp):
    """Answers each job by its name: `fails` so often with 500, `missing` with 404."""

    def __init__(self) -> None:
        self.failing: Counter[str] = Counter()
        super().__init__(answer=self._carry_out)

    def _carry_out(self, call: Call) -> tuple[int, Mapping[str, str], bytes]:
        name = call.path.rpartition("/")[2]
        if name.startswith("missing"):
            return 404, {}, b""
        if self.failing[name] > 0:
            self.failing[name] -= 1
            return 500, {}, b"not now"
        return 200, {}, b""

    def __enter__(self) -> Worker:
        super().__enter__()
        return self

    def times(self, name: str) -> int:
        return sum(call.path == f"/job/{name}" for call in self.calls)

    def wait_for(self, name: str, times: int = 1) -> list[Call]:
        self.wait(lambda _: self.times(name) >= times)
        return [call for call in self.calls if call.path == f"/job/{name}"]


def attached(folder: Path, address: str, app_id: str, app_port: int = 0, *more: str) -> SidecarProcess:
    """A sidecar with a scheduler."""
    return SidecarProcess(
        folder, app_id, app_port=app_port, env={"APP_API_TOKEN": "secret"},
        arguments=["--scheduler-host-address", address, *more],
    )  # fmt: skip


def put(sidecar: SidecarProcess, name: str, status: int = 204, **job: Any) -> Any:
    reply = sidecar.post_json(JOBS + name, job)
    assert reply.status == status, reply
    return reply


def gone(sidecar: SidecarProcess, name: str) -> None:
    """Wait until a job has fired for the last time."""
    eventually(lambda: sidecar.request("GET", JOBS + name).status == 500)
