"""What a workflow costs: CPU of the engine (placement, scheduler and sidecar processes), latency, activities a second.

    python bench/workflows.py [--store sqlite|redis] [--worker sdk|raw] [--workflows 600]
    python bench/workflows.py --inside ...               all of the engine in one process, as `pillion run` has it
    python bench/workflows.py --burst [--sidecars 2]     10,000 workflows of 15 activities
    python bench/workflows.py --long 5000                one instance, so many activities: a long history
    python bench/workflows.py --floor ours|grpcio ...    the messages alone, see `hub_floor.py`

`bench/run` has rows of the first form.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

from measure import Load, Process, free_port, wait_http, wait_port

if TYPE_CHECKING:
    from collections.abc import Callable

    from run import Bench

HERE = Path(__file__).parent
COMPONENT = """\
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {{name: actors}}
spec:
  type: {kind}
  version: v1
  metadata: [{{name: actorStateStore, value: "true"}}, {{name: {name}, value: "{value}"}}]
"""


class Engine:
    """Placement, scheduler and sidecars on one store."""

    def __init__(self, folder: Path, store: str, sidecars: int = 1, *, inside: bool = False) -> None:
        self.processes: list[Process] = []
        self.driven: list[Process] = []
        self.folder, self.store = folder, store
        self.ports: list[int] = []
        self._flags: list[str] = []
        try:
            self._open(sidecars, inside=inside)
        except BaseException:
            self.close()
            raise

    def _open(self, sidecars: int, *, inside: bool) -> None:
        folder, store = self.folder, self.store
        plane = {} if inside else {"placement": "placement_main", "scheduler": "scheduler_main"}
        for name, module in plane.items():
            port, health = free_port(), free_port()
            more = ["--etcd-data-dir", str(folder / "jobs")] if name == "scheduler" else []
            process = self._start(
                "-m", f"pillion.control.{module}", "--port", str(port), "--healthz-port", str(health),
                "--listen-address", "127.0.0.1", "--enable-metrics=false", *more,
            )  # fmt: skip
            wait_http(health, "/healthz", 200, process)
            self._flags += [f"--{name}-host-address", f"127.0.0.1:{port}"]
        if store == "redis":
            redis = free_port()
            self.driven.append(Process(["redis-server", "--port", str(redis), "--save", "", "--dir", str(folder)]))
            text = COMPONENT.format(kind="state.redis", name="redisHost", value=f"127.0.0.1:{redis}")
        else:
            text = COMPONENT.format(kind="state.sqlite", name="connectionString", value=folder / "actors.db")
        (folder / "resources").mkdir()
        (folder / "resources" / "actors.yaml").write_text(text)
        if inside:
            self._run()
            return
        for _ in range(sidecars):
            self.join()

    def _run(self) -> None:
        """Start `pillion run`, which has placement, scheduler and sidecar in one process."""
        http, grpc = free_port(), free_port()
        process = self._start(
            "-m", "pillion.cli.main", "run", "--app-id", "bench", "--dapr-http-port", str(http), "--dapr-grpc-port",
            str(grpc), "--resources-path", str(self.folder / "resources"), home=self.folder,
        )  # fmt: skip
        wait_http(http, "/v1.0/healthz/outbound", 204, process)
        self.ports.append(grpc)

    def _start(self, *command: str, home: Path | None = None) -> Process:
        process = Process([sys.executable, *command], cwd=self.folder, home=home)
        self.processes.append(process)
        return process

    def join(self) -> int:
        """Start another sidecar; return its gRPC port."""
        http, grpc = free_port(), free_port()
        process = self._start(
            "-m", "pillion.sidecar.main", "--app-id", "bench", "--dapr-http-port", str(http), "--dapr-grpc-port",
            str(grpc), "--dapr-internal-grpc-port", str(free_port()), "--enable-metrics=false", "--resources-path",
            str(self.folder / "resources"), "--dapr-listen-addresses", "127.0.0.1", *self._flags,
        )  # fmt: skip
        wait_http(http, "/v1.0/healthz/outbound", 204, process)
        self.ports.append(grpc)
        return grpc

    def cpu_s(self) -> float:
        return sum(process.cpu_s() for process in self.processes)

    def rss_mb(self) -> float:
        return max(process.rss_mb() for process in self.processes)

    def drive(self, worker: str, number: int, activities: int, at_once: int, port: int | None = None) -> dict[str, Any]:
        """Run workflows to their end; return what the driver saw."""
        command = [
            sys.executable, str(HERE / "workflow_driver.py"), worker, str(port or self.ports[0]), str(number),
            str(activities), str(at_once), uuid.uuid4().hex[:8],
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:] + self.processes[-1].text())
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def close(self) -> None:
        for process in reversed([*self.processes, *self.driven]):
            process.end()


class Floor(Engine):
    """The hub that has no engine, in the place of one."""

    def __init__(self, folder: Path, transport: str) -> None:
        self._transport = transport
        super().__init__(folder, "memory")

    def _open(self, sidecars: int, *, inside: bool) -> None:
        port = free_port()
        process = self._start(str(HERE / "hub_floor.py"), self._transport, str(port))
        wait_port(port, process)
        self.ports.append(port)


class Memory:
    """How large the largest process of an engine is while something runs; its text: each tenth of the time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._seen: list[float] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._over.wait(0.1):
            self._seen.append(self._engine.rss_mb())

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def __str__(self) -> str:
        seen = self._seen or [self._engine.rss_mb()]
        tenths = [seen[len(seen) * tenth // 10 : max(len(seen) * (tenth + 1) // 10, 1)] for tenth in range(10)]
        return " ".join(f"{max(tenth):.0f}" for tenth in tenths if tenth)


def row(store: str, worker: str, number: int) -> Callable[[Bench, float], tuple[Load, list[Process]]]:
    """A row of `bench/run`: workflows of 5 activities, 30 at once; one request is one workflow. Without a store: their
    messages alone.
    """

    def run(bench: Bench, seconds: float) -> tuple[Load, list[Process]]:
        key = f"workflows-{store}"
        engine = ENGINES.get(key)
        if engine is None:
            folder = bench.folder / key
            folder.mkdir()
            engine = ENGINES[key] = Engine(folder, store) if store else Floor(folder, "ours")
            bench.processes += engine.driven + engine.processes
        found = engine.drive(worker, max(30, int(number * min(1.0, seconds / 5))), 5, 30)
        return load(found), engine.processes

    return run


ENGINES: dict[str, Engine] = {}
"""Those of the present run, by store."""


def load(found: dict[str, Any]) -> Load:
    times = found["times_ms"]
    return Load(len(times), len(times) / found["seconds"], times[len(times) // 2], times[len(times) * 99 // 100])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=("sqlite", "redis"), default="sqlite")
    parser.add_argument("--worker", choices=("sdk", "raw"), default="raw")
    parser.add_argument("--workflows", type=int, default=600)
    parser.add_argument("--activities", type=int, default=5)
    parser.add_argument("--at-once", type=int, default=30)
    parser.add_argument("--sidecars", type=int, default=1)
    parser.add_argument("--inside", action="store_true", help="placement, scheduler and sidecar in one process")
    parser.add_argument("--burst", action="store_true", help="10,000 workflows of 15 activities, all at once")
    parser.add_argument("--floor", choices=("ours", "grpcio"), help="no engine: the messages on this transport")
    parser.add_argument("--long", type=int, default=0, help="one instance of so many activities")
    given = parser.parse_args()
    if given.burst:
        given.workflows, given.activities, given.at_once = 10_000, 15, 10_000
    if given.long:
        given.workflows, given.activities, given.at_once = 1, given.long, 1
    with tempfile.TemporaryDirectory(prefix="pillion-bench-") as folder:
        if given.floor:
            given.store = f"no engine, {given.floor}"
            engine: Engine = Floor(Path(folder), given.floor)
        else:
            engine = Engine(Path(folder), given.store, given.sidecars, inside=given.inside)
        helpers = [
            subprocess.Popen(
                [sys.executable, str(HERE / "workflow_driver.py"), "raw", str(port), "0", str(given.activities), "0"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
            for port in engine.ports[1:]
        ]  # fmt: skip
        try:
            if not (given.burst or given.long):
                engine.drive(given.worker, 60, given.activities, given.at_once)  # warm
            ran = report(engine, given)
            while helpers:
                ran += json.loads(helpers.pop().communicate()[0])["activities"]
            if ran != given.workflows * given.activities:
                raise RuntimeError(f"{ran} activities ran instead of {given.workflows * given.activities}")
        finally:
            for helper in helpers:
                helper.communicate()
            engine.close()


def report(engine: Engine, given: argparse.Namespace) -> int:
    """Run and print; return how many activities the driver's own worker ran."""
    user = sum(process.user_s() for process in engine.processes)
    before, each = engine.cpu_s(), [process.cpu_s() for process in engine.processes]
    begin = time.perf_counter()
    with Memory(engine) as memory:
        found = engine.drive(given.worker, given.workflows, given.activities, given.at_once)
    spent = engine.cpu_s() - before
    seen = load(found)
    activities = given.workflows * given.activities
    whose = "all in one" if given.inside or given.floor else "placement, scheduler, sidecars"
    parts = [f"{process.cpu_s() - old:.2f}" for process, old in zip(engine.processes, each, strict=True)]
    print(
        f"{given.store}, {given.worker}: {spent / given.workflows * 1000:.2f} ms of engine CPU a workflow, "
        f"p50 {seen.p50_ms:.0f} ms, p99 {seen.p99_ms:.0f} ms, {activities / found['seconds']:,.0f} activities/s, "
        f"{activities / spent:,.0f} for each CPU second; {found['seconds']:.1f} s in all "
        f"({time.perf_counter() - begin:.1f} with the driver's start)\n"
        f"largest process, MB, tenth by tenth: {memory}\n"
        f"CPU of {whose}: {', '.join(parts)} s; "
        f"{sum(process.user_s() for process in engine.processes) - user:.2f} s of it not the kernel's"
    )
    if marks := found.get("marks"):
        print("seconds for each thousand activities:", " ".join(f"{mark:.2f}" for mark in marks))
    return int(found["activities"])


if __name__ == "__main__":
    main()
