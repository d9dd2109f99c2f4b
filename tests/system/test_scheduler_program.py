"""`pillion-scheduler` as a process: killed, one of three, stopped in order, steered, started wrongly."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from concurrent import futures
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from apps import HttpApp
from job_rig import JOBS, Worker, attached, gone, put
from schedulers import SchedulerProcess
from sidecars import eventually

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from apps import Call
    from servers import PostgresServer
    from sidecars import SidecarProcess


def schedule_while(sidecar: SidecarProcess, names: Sequence[str], strike: Any, at: int) -> list[str]:
    """Put jobs in four lanes; `strike` when `at` of them are acknowledged. Return those that were."""
    acknowledged: list[str] = []
    lock = threading.Lock()

    def one(name: str) -> None:
        reply = sidecar.post_json(JOBS + name, {"dueTime": "1s"})
        with lock:
            if reply.status == 204:
                acknowledged.append(name)
            due = len(acknowledged) == at
        if due:
            strike()

    with futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(one, names))
    return acknowledged


def test_kill_9_of_the_scheduler_loses_nothing(tmp_path: Path) -> None:
    """Under load, in the midst of putting and firing: every job that was acknowledged fires (8.2 invariant 1)."""
    with ExitStack() as stack:
        app, scheduler = stack.enter_context(Worker()), stack.enter_context(SchedulerProcess(tmp_path))
        with attached(tmp_path, scheduler.address, "load", app.port) as sidecar:
            sidecar.wait("/v1.0/healthz")

            def strike() -> None:
                scheduler.kill()
                scheduler.start(ready=False)

            names = [f"n{number}" for number in range(400)]
            acknowledged = schedule_while(sidecar, names, strike, 200)
            assert len(acknowledged) > 300
            app.wait(lambda calls: {f"/job/{name}" for name in acknowledged} <= {call.path for call in calls})
            scheduler.kill()
            scheduler.start()
            put(sidecar, "after", dueTime="0s")
            app.wait_for("after")


def test_three_schedulers_on_one_database(tmp_path: Path, postgres_server: PostgresServer) -> None:
    """Each job fires although one of three is killed; the sidecar hears of the others from any of them."""
    with ExitStack() as stack:
        app = stack.enter_context(Worker())
        store = ["--pillion-store", "postgresql", "--pillion-postgresql-connection-string", postgres_server.url]
        three = [
            stack.enter_context(SchedulerProcess(tmp_path, f"scheduler-{number}", arguments=store))
            for number in range(3)
        ]
        sidecar = stack.enter_context(attached(tmp_path, three[0].address, "trio", app.port))
        addresses = sorted(each.address for each in three)

        def known() -> list[str]:
            told = sidecar.request("GET", "/v1.0/metadata").json().get("scheduler", {})
            return sorted(told.get("connected_addresses", []))

        eventually(lambda: known() == addresses)
        acknowledged = schedule_while(sidecar, [f"t{number}" for number in range(200)], three[1].kill, 100)
        app.wait(lambda calls: {f"/job/{name}" for name in acknowledged} <= {call.path for call in calls})
        eventually(lambda: known() == sorted((three[0].address, three[2].address)), 90)


def test_an_orderly_stop(tmp_path: Path) -> None:
    """SIGTERM: health says so, what is under way is answered and not fired again, the status is 0."""
    go_on, entered = threading.Event(), threading.Event()

    def answer(call: Call) -> tuple[int, Mapping[str, str], bytes]:
        if call.path == "/job/slow":
            entered.set()
            go_on.wait(90)
        return 200, {}, b""

    with ExitStack() as stack:
        app, scheduler = stack.enter_context(HttpApp(answer=answer)), stack.enter_context(SchedulerProcess(tmp_path))
        with attached(tmp_path, scheduler.address, "slow", app.port) as sidecar:
            put(sidecar, "slow", dueTime="0s")
            assert entered.wait(90)
            scheduler.kill(signal.SIGTERM)
            eventually(lambda: not scheduler.healthy())
            go_on.set()
            assert scheduler.process is not None
            assert scheduler.process.wait(90) == 0
            scheduler.start()
            gone(sidecar, "slow")
            assert [call.path for call in app.calls].count("/job/slow") == 1


def test_the_command(tmp_path: Path) -> None:
    """List, get, pause, resume, skip, run-now, backfill, export, delete, import."""
    with ExitStack() as stack:
        app, scheduler = stack.enter_context(Worker()), stack.enter_context(SchedulerProcess(tmp_path))
        shop = stack.enter_context(attached(tmp_path, scheduler.address, "shop", app.port))
        shop.wait("/v1.0/healthz")

        def run(*arguments: str, where: Sequence[str] = ("--address", scheduler.address)) -> str:
            command = [sys.executable, "-m", "pillion.cli.main", "scheduler", *where, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=90, cwd=tmp_path, env=shop.env)
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        put(shop, "steered", schedule="@every 1h", data={"a": 1})
        name = "app/shop/steered"
        assert name in run("list", "--filter", "app")
        assert name in run("list", where=())  # the scheduler of a sidecar that runs here
        assert run("list", "--filter", "workflow").strip() == "There are no such jobs."
        run("pause", name)
        (row,) = json.loads(run("get", name, "--json"))
        assert (row["paused"], row["job"]["schedule"], row["data"]["value"]) == (True, "@every 1h", {"a": 1})
        assert row["key"] == "app||default||shop||steered"
        run("resume", name)
        before = json.loads(run("get", name, "--json"))[0]["next"]
        run("skip", name)
        assert json.loads(run("get", name, "--json"))[0]["next"] > before
        run("run-now", name)
        app.wait_for("steered")
        run("backfill", name, "--since", "0s", "--until", "0s")
        exported = tmp_path / "jobs.json"
        run("export", "-o", str(exported), "--filter", "app")
        run("delete", name)
        assert shop.request("GET", JOBS + "steered").status == 500
        run("import", "-f", str(exported))
        assert shop.request("GET", JOBS + "steered").json()["data"]["value"] == {"a": 1}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--etcd-embed=false"], "use --pillion-store postgresql"),
        (["--etcd-client-endpoints", "a:1"], "there is no external etcd"),
        (["--pillion-store", "postgresql"], "is needed"),
        (["--tls-enabled"], "mutual TLS is not offered"),
        (["--workers", "0"], "--workers"),
        (["--nonsense"], "unknown flag"),
        (["--override-broadcast-host-port", "here"], "is not host:port"),
        (["--etcd-initial-cluster", "here"], "is not id=http://host:port"),
        (["--etcd-initial-cluster", "a=http://x:2380"], "does not name this scheduler"),
        (["--id", "a", "--etcd-initial-cluster", "a=http://x:2380,b=http://y:2380"], "a database that they share"),
        (["--etcd-data-dir", "/dev/null/x"], "--etcd-data-dir"),
        (["--id="], "a scheduler needs a name"),
        (["--log-level", "loud"], "--log-level"),
    ],
)
def test_flags_that_cannot_be_followed(arguments: Sequence[str], text: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pillion.control.scheduler_main", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=90, cwd=tmp_path)
    assert done.returncode in (1, 2)
    assert text in done.stderr + done.stdout
