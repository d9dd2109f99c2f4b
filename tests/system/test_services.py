"""Placement and scheduler inside `pillion run`: the first run has them, the next follows, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from cli_processes import Pillion
from pillion import tasks
from pillion.cli import services
from pillion.errors import ComponentError
from ports import free_port
from sidecars import eventually

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
WAIT = [sys.executable, "-c", "import sys; sys.stdin.read()"]
JOBS = """
import http.server, os
class App(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        self.rfile.read(int(self.headers.get("content-length", 0)))
        print("got", self.path, flush=True)
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    do_GET = do_POST
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["APP_PORT"])), App).serve_forever()
"""


def _port(run: Pillion, app_id: str) -> int:
    return int(run.until(f"{app_id}: HTTP").partition("http://127.0.0.1:")[2].partition(",")[0])


def _post(port: int, path: str, document: object) -> int:
    data = json.dumps(document).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return int(answer.status)


def _metadata(port: int) -> dict[str, Any]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/v1.0/metadata", timeout=60) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found


def _runtime(port: int) -> dict[str, str]:
    found: dict[str, str] = _metadata(port)["actorRuntime"]
    return found


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_the_next_run_follows(tmp_path: Path, end: signal.Signals) -> None:
    """Jobs of a second run fire after the first, which had the scheduler, has ended in whatever way."""
    first = Pillion("run", "-a", "first", "--", *WAIT, home=tmp_path, folder=tmp_path)
    with first:
        scheduler = _metadata(_port(first, "first"))["scheduler"]
        assert len(scheduler["connected_addresses"]) == 1, "the one in the same process is told as any other is"
        with Pillion(
            "run", "-a", "second", "-p", "0", "--", *WAIT, home=tmp_path, folder=tmp_path
        ) as idle, Pillion(
            "run", "-a", "third", "-p", str(free_port()), "--", sys.executable, "-c", JOBS,
            home=tmp_path, folder=tmp_path,
        ) as third:  # fmt: skip
            port = _port(third, "third")
            eventually(lambda: _metadata(port).get("scheduler") == scheduler)
            assert _post(port, "/v1.0/jobs/now", {"dueTime": "0s", "data": 1}) == 204
            third.until("got /job/now")
            assert _post(port, "/v1.0/jobs/later", {"schedule": "@every 1s", "data": 1}) == 204
            eventually(lambda: _runtime(port)["placement"] == "placement: connected")
            first.signal(end)
            first.wait()
            first.until_nothing_is_left()
            fired = len([line for line in third.lines if "got /job/later" in line])
            third.until("got /job/later", times=fired + 3)
            assert _post(port, "/v1.0/jobs/again", {"dueTime": "0s"}) == 204
            third.until("got /job/again")
            eventually(lambda: _runtime(port)["placement"] == "placement: connected")
            _port(idle, "second")


def test_services_of_ones_own(tmp_path: Path) -> None:
    """Empty addresses switch actors and jobs off, and nobody serves."""
    with Pillion(
        "run", "-a", "one", "--placement-host-address", "", "--scheduler-host-address", "", "--", *WAIT,
        home=tmp_path, folder=tmp_path,
    ) as run:  # fmt: skip
        assert _runtime(_port(run, "one"))["runtimeStatus"] == "DISABLED"
        assert not (tmp_path / "services.json").exists()


def test_whoever_follows_goes_on_after_what_nobody_expects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a lock whose file cannot be had, nor services that cannot be started, is the end of it."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(services, "RETRY_S", 0.0)

    async def main() -> None:
        made = services.Services(tmp_path)
        free, served = asyncio.Event(), asyncio.Event()
        elections, terms = 0, []

        class Lock:
            async def open(self) -> None:
                pass

            async def elected(self) -> int:
                nonlocal elections
                elections += 1
                await free.wait()
                if elections == 1:
                    raise ComponentError("the disk is full")
                return 7

            async def close(self) -> None:
                pass

        async def serve(term: int) -> None:
            terms.append(term)
            if len(terms) == 1:
                raise RuntimeError("nobody expects this")
            served.set()

        monkeypatch.setattr(made, "_lock", Lock())
        monkeypatch.setattr(made, "_is_free", lambda: False)
        monkeypatch.setattr(made, "_serve", serve)
        await made.open()
        free.set()
        async with asyncio.timeout(90):
            await served.wait()
        await made.close()
        assert (elections, terms) == (2, [7, 7])

    asyncio.run(main())
