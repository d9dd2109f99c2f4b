"""Actors on several sidecars, real processes: one is killed, one hangs, all are restarted, the store comes and goes."""

from __future__ import annotations

import http.client
import json
import signal
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

import pytest

import planes
from cli_processes import pillion
from ledger import TYPE, Ledgers, Load, host
from ports import free_ports
from sidecars import SidecarProcess, eventually, rewrite

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def placement(tmp_path: Path) -> Iterator[planes.PlaneProcess]:
    with planes.placement(tmp_path, "--metadata-enabled") as found:
        yield found


@pytest.fixture
def plane(tmp_path: Path, placement: planes.PlaneProcess) -> Iterator[list[str]]:
    with planes.scheduler(tmp_path) as scheduler:
        yield list(planes.flags(placement=placement, scheduler=scheduler))


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as found:
        yield found


def hosts(folder: Path, plane: list[str], stack: ExitStack, count: int, fired: list[str]) -> list[Ledgers]:
    """Applications and their sidecars, all of them ready."""
    apps = [stack.enter_context(Ledgers(fired)) for _ in range(count)]
    for app in apps:
        stack.enter_context(host(folder, app, plane))
    for app in apps:
        assert app.sidecar is not None
        app.sidecar.wait("/v1.0/healthz")
    return apps


def caller(folder: Path, plane: list[str], stack: ExitStack) -> SidecarProcess:
    """A sidecar that hosts nothing."""
    found = stack.enter_context(SidecarProcess(folder, "caller", arguments=plane))
    found.wait("/v1.0/healthz")
    return found


def add(sidecar: SidecarProcess, name: str) -> int:
    """Return the new number, 0 for none: the call may have gone to a sidecar that hangs."""
    with suppress(OSError, http.client.HTTPException):
        reply = sidecar.request("PUT", f"/v1.0/actors/{TYPE}/{name}/method/add")
        if reply.status == 200:
            return int(reply.body)
    return 0


def more_than(known: int, sidecar: SidecarProcess) -> int:
    """Add until an answer exceeds what is known, and return it: a call that came while the actor moved may fail."""
    found = 0

    def exceeds() -> bool:
        nonlocal found
        found = add(sidecar, "x")
        return found > known

    eventually(exceeds, 90)
    return found


def active(sidecar: SidecarProcess) -> int:
    found = sidecar.request("GET", "/v1.0/metadata").json()["actorRuntime"].get("activeActors", [])
    return sum(one.get("count", 0) for one in found if one["type"] == TYPE)


def test_a_sidecar_is_killed(tmp_path: Path, plane: list[str], stack: ExitStack) -> None:
    """Its actors live on beside the other one; no turn is run beside another, no write is lost."""
    one, two = (app.sidecar for app in hosts(tmp_path, plane, stack, 2, []))
    front = caller(tmp_path, plane, stack)
    assert one is not None
    assert two is not None
    with Load(lambda: [front]) as load:
        eventually(lambda: all(map(len, load.numbers.values())))
        assert active(one) + active(two) >= len(load.numbers)
        one.kill()
        before = load.total
        eventually(lambda: active(two) >= len(load.numbers), 90)
        eventually(lambda: load.total > before + 50, 90)
    load.check(two)


def test_a_sidecar_hangs(tmp_path: Path, plane: list[str], placement: planes.PlaneProcess, stack: ExitStack) -> None:
    """The call that waits for it goes to the new owner; what it was doing when its actor moved is
    not written when it comes back.
    """
    apps = hosts(tmp_path, plane, stack, 2, [])
    front = caller(tmp_path, plane, stack)

    def hold() -> None:
        with suppress(OSError, http.client.HTTPException):
            front.request("PUT", f"/v1.0/actors/{TYPE}/x/method/hold")

    held = threading.Thread(target=hold)
    held.start()
    eventually(lambda: any(app.held.is_set() for app in apps))
    stuck, well = sorted(apps, key=lambda app: not app.held.is_set())
    assert stuck.sidecar is not None
    assert well.sidecar is not None
    missed = stuck.sidecar.internal_port
    stuck.sidecar.kill(signal.SIGSTOP)
    try:
        eventually(lambda: b":%d" % missed not in placement.ask("/placement/state")[1])
        eventually(well.held.is_set)
        well.release.set()
        held.join()
        known = more_than(1, well.sidecar)
    finally:
        stuck.sidecar.kill(signal.SIGCONT)
    stuck.release.set()
    eventually(lambda: bool(stuck.late))
    assert stuck.late[0] != 204
    assert well.sidecar.request("GET", f"/v1.0/actors/{TYPE}/x/state/number").json() >= known
    eventually(lambda: stuck.sidecar.request("GET", "/v1.0/healthz").status == 204)  # type: ignore[union-attr]
    more_than(known, front)


def test_every_sidecar_is_restarted(tmp_path: Path, plane: list[str], stack: ExitStack) -> None:
    """One after the other, in order, under load: nobody is refused."""
    apps = hosts(tmp_path, plane, stack, 3, [])
    front = caller(tmp_path, plane, stack)
    with Load(lambda: [front]) as load:
        eventually(lambda: all(map(len, load.numbers.values())))
        for app in apps:
            assert app.sidecar is not None
            assert app.sidecar.stop() == 0
            stack.enter_context(host(tmp_path, app, plane))
            app.sidecar.wait("/v1.0/healthz")
            before = load.total
            eventually(lambda known=before: load.total > known + 20)  # type: ignore[misc]
    assert load.failures == []
    load.check(front_of(apps))
    for name, numbers in load.numbers.items():
        assert len(numbers) == max(numbers), f"{name}: a turn nobody heard of"


def front_of(apps: list[Ledgers]) -> SidecarProcess:
    assert apps[0].sidecar is not None
    return apps[0].sidecar


def test_no_reminder_is_lost(tmp_path: Path, plane: list[str], stack: ExitStack) -> None:
    """Each fires, wherever its actor lives by then, though the sidecar that was asked for it is killed."""
    fired: list[str] = []
    one, two = (app.sidecar for app in hosts(tmp_path, plane, stack, 2, fired))
    assert one is not None
    assert two is not None
    names = [f"a{number}" for number in range(12)]
    for name in names:
        once = one.post_json(f"/v1.0/actors/{TYPE}/{name}/reminders/once", {"dueTime": "3s"})
        often = one.post_json(f"/v1.0/actors/{TYPE}/{name}/reminders/often", {"dueTime": "1s", "period": "1s"})
        assert (once.status, often.status) == (204, 204)
    eventually(lambda: {f"{name}/often" for name in names} <= set(fired))
    one.kill()
    eventually(lambda: {f"{name}/once" for name in names} <= set(fired), 90)
    known = len(fired)
    eventually(lambda: {f"{name}/often" for name in names} <= set(fired[known:]), 90)
    for name in names:
        path = f"/v1.0/actors/{TYPE}/{name}/reminders/once"
        eventually(lambda path=path: two.request("GET", path).status == 404)  # type: ignore[misc]


def test_the_store_comes_and_goes(tmp_path: Path, plane: list[str], stack: ExitStack) -> None:
    """Without an actor state store nothing is hosted; with one again, everything is as it was (1.1)."""
    (app,) = hosts(tmp_path, [*plane, "--hot-reload-reconcile-interval", "200ms"], stack, 1, [])
    sidecar = front_of([app])
    assert add(sidecar, "x") == 1
    path = tmp_path / "resources-ledger" / "store.yaml"
    text = path.read_text()
    path.unlink()
    eventually(lambda: "activeActors" not in sidecar.request("GET", "/v1.0/metadata").json()["actorRuntime"])
    refused = sidecar.request("GET", f"/v1.0/actors/{TYPE}/x/state/number")
    assert (refused.status, refused.json()["errorCode"]) == (500, "ERR_ACTOR_RUNTIME_NOT_FOUND")
    rewrite(path, text)
    eventually(lambda: add(sidecar, "x") == 2)
    assert [call.method for call in app.calls].count("DELETE") >= 1
    rewrite(path, text.replace("actorStateStore", "other"))
    eventually(lambda: "activeActors" not in sidecar.request("GET", "/v1.0/metadata").json()["actorRuntime"])


def test_an_application_becomes_unwell(tmp_path: Path, plane: list[str], stack: ExitStack) -> None:
    """Its actors are put to rest while it is, and are back when it is well again."""
    probes = ("--enable-app-health-check", "--app-health-probe-interval", "1", "--app-health-threshold", "1")

    class Ailing(Ledgers):
        well = True

        def reply(self, call):  # type: ignore[no-untyped-def]
            if call.path == "/healthz":
                return (200 if self.well else 500), {}, b""
            return super().reply(call)

    app = stack.enter_context(Ailing())
    sidecar = stack.enter_context(host(tmp_path, app, plane, *probes))
    sidecar.wait("/v1.0/healthz")
    eventually(lambda: add(sidecar, "x") == 1)
    app.well = False
    eventually(lambda: "activeActors" not in sidecar.request("GET", "/v1.0/metadata").json()["actorRuntime"])
    app.well = True
    eventually(lambda: add(sidecar, "x") == 2)
    assert json.loads(sidecar.request("GET", f"/v1.0/actors/{TYPE}/x/state/number").body) == 2


def test_what_is_counted(tmp_path: Path, plane: list[str], stack: ExitStack) -> None:
    (port,) = free_ports(1)
    app = stack.enter_context(Ledgers())
    more = ("--enable-metrics=true", "--metrics-port", str(port), "--metrics-listen-address", "127.0.0.1")
    sidecar = stack.enter_context(host(tmp_path, app, plane, *more))
    sidecar.wait("/v1.0/healthz")
    assert add(sidecar, "x") == 1
    assert sidecar.post_json(f"/v1.0/actors/{TYPE}/x/timers/t", {"dueTime": "0s"}).status == 204
    assert sidecar.post_json(f"/v1.0/actors/{TYPE}/x/reminders/r", {"dueTime": "0s"}).status == 204
    labels = f'app_id="ledger",actor_type="{TYPE}"'
    wanted = (
        f'dapr_runtime_actor_timers_fired_total{{{labels},success="true"}} 1',
        f'dapr_runtime_actor_reminders_fired_total{{{labels},success="true"}} 1',
        'dapr_runtime_actor_table_operation_recv_total{app_id="ledger",actor_type="",operation="unlock"}',
        'operation="transaction",success="true"',
    )

    def scraped() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    eventually(lambda: all(text in scraped() for text in wanted))


def test_the_command(tmp_path: Path, plane: list[str], stack: ExitStack) -> None:
    """`pillion actors list`: every replica, or those of an application, of a type; as a table and as JSON."""
    apps = hosts(tmp_path, plane, stack, 2, [])
    known = [app.sidecar for app in apps if app.sidecar is not None]
    assert all(add(known[0], name) for name in "abcdefgh")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return pillion(["actors", "list", *arguments], home=tmp_path / "home", folder=tmp_path)

    rows = json.loads(run("--json", "--app-id", "ledger", "--type", TYPE).stdout)
    assert {(row["appId"], row["type"], row["status"], row["placement"]) for row in rows} == {
        ("ledger", TYPE, "RUNNING", "placement: connected")
    }
    assert {row["httpPort"]: row["active"] for row in rows} == {each.http_port: active(each) for each in known}
    table = run().stdout
    assert all(str(each.http_port) in table for each in known)
    assert run("--type", "nobody").stdout.strip() == "No actors are hosted here."
    refused = run("--app-id", "ledgers")
    assert refused.returncode == 1
    assert "did you mean ledger?" in refused.stdout + refused.stderr
