"""Real schedulers for tests: `pillion-scheduler` with its metrics, ended when the test ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planes import HOST, PlaneProcess
from ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class SchedulerProcess(PlaneProcess):
    """One `pillion-scheduler`. `folder` gets its data and its log."""

    def __init__(self, folder: Path, name: str = "scheduler-0", *, arguments: Sequence[str] = ()) -> None:
        [self.metrics_port] = free_ports(1)
        super().__init__(
            folder, "scheduler_main", "--id", name, "--enable-metrics=true", "--metrics-port", str(self.metrics_port),
            "--metrics-listen-address", HOST, "--etcd-data-dir", str(folder / "data"), *arguments,
        )  # fmt: skip

    def metrics(self) -> str:
        return self.ask("/", self.metrics_port)[1].decode()
