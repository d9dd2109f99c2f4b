"""`pillion run -f`: several applications and their sidecars in one process."""

from __future__ import annotations

import json
import signal
import sys
import urllib.request
from typing import TYPE_CHECKING

import pytest

from cli_processes import ECHO, Pillion, pillion
from ports import free_port

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")


def project(folder: Path, *apps: str, head: str = "name: shop\n") -> None:
    (folder / "dapr.yaml").write_text(f"version: 1\n{head}apps:\n" + "".join(apps))


def app(name: str, script: str, *more: str) -> str:
    command = json.dumps(["sh", "-c", script])
    return f"- appID: {name}\n  appDirPath: .\n  command: {command}\n" + "".join(f"  {line}\n" for line in more)


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        body: bytes = answer.read()
        return body


def listed(home: Path) -> dict[str, dict[str, object]]:
    rows = json.loads(pillion(["list", "--json"], home=home, folder=home).stdout)
    return {row["appId"]: row for row in rows}


def test_applications_share_a_process_and_find_each_other(tmp_path: Path) -> None:
    """One process with two sidecars; lines have prefixes; log files have none and no colours; labels are set."""
    home = tmp_path / "home"
    (tmp_path / "echo.py").write_text(ECHO)
    script = f"printf '\\033[31mred\\033[0m\\n'; exec {sys.executable} echo.py"
    project(tmp_path, *(app(name, script, f"appPort: {free_port()}") for name in ("one", "two")))
    with Pillion("run", "-f", ".", home=home, folder=tmp_path) as run:
        run.until("== APP - one == serving")
        run.until("== APP - two == serving")
        rows = listed(home)
        assert rows["one"]["daprdPid"] == rows["two"]["daprdPid"] == run.process.pid
        assert rows["one"]["runTemplateName"] == "shop"
        assert rows["one"]["runTemplatePath"] == str(tmp_path / "dapr.yaml")
        port = rows["one"]["httpPort"]
        assert fetch(f"http://127.0.0.1:{port}/v1.0/invoke/two/method/x") == b"two got /x"
        run.until("== APP - one == \x1b[31mred\x1b[0m")

        shown = pillion(["logs", "one", "--only", "app"], home=home, folder=tmp_path)
        assert shown.stdout == "red\nserving\n"
        with Pillion("logs", "-a", "one", "-f", "--only", "app", home=home, folder=tmp_path) as following:
            following.until("serving")
            stopped = pillion(["stop", "-f", "."], home=home, folder=tmp_path)
            assert stopped.returncode == 0, stopped
            assert following.wait() == 0
            following.until("last words 200")
        assert run.wait() == 0
        run.until("== APP - two == last words 200")
    names = sorted(path.name.rsplit("_", 1)[0] for path in (tmp_path / ".dapr" / "logs").iterdir())
    assert names == ["one_app", "one_daprd", "two_app", "two_daprd"]
    after = pillion(["logs", "one", "--only", "app"], home=home, folder=tmp_path)
    assert after.stdout == "red\nserving\nlast words 200\n"


def test_the_others_go_on(tmp_path: Path) -> None:
    """An application that dies ends its own sidecar; the run goes on and fails in the end."""
    project(tmp_path, app("short", "read x || exit 4"), app("long", "echo app-runs; sleep 600"))
    with Pillion("run", "-f", ".", home=tmp_path / "home", folder=tmp_path) as run:
        run.until("short ended with status 4")  # read fails: applications of a run file have no input
        run.until("== APP - long == app-runs")
        stopped = pillion(["stop", "long"], home=tmp_path / "home", folder=tmp_path)
        assert stopped.returncode == 0
        assert run.wait() == 1


def test_one_of_several_is_stopped(tmp_path: Path) -> None:
    """Also one whose sidecar runs without an application; the rest stays."""
    bare = "- appID: bare\n  appDirPath: .\n"
    project(tmp_path, app("a", "sleep 600"), app("b", "sleep 600"), bare)
    home = tmp_path / "home"
    with Pillion("run", "-f", ".", home=home, folder=tmp_path) as run:
        run.until("bare: HTTP")
        run.until("b: HTTP")
        assert pillion(["stop", "bare"], home=home, folder=tmp_path).returncode == 0
        assert list(listed(home)) == ["a", "b"]
        assert pillion(["stop", "-a", "a"], home=home, folder=tmp_path).returncode == 0
        assert list(listed(home)) == ["b"]
        run.signal(signal.SIGTERM)
        assert run.wait() == 0


def test_a_start_that_fails_stops_all(tmp_path: Path) -> None:
    """The third command does not exist: the first two are ended, the status is 1."""
    missing = '- appID: c\n  appDirPath: .\n  command: ["no-such-command"]\n'
    project(tmp_path, app("a", "sleep 600"), app("b", "sleep 600"), missing)
    with Pillion("run", "-f", "dapr.yaml", home=tmp_path / "home", folder=tmp_path) as run:
        assert run.wait() == 1
        run.until("c: command not found: no-such-command")
        assert run.descendants() == []


def test_standard_input_and_mistakes(tmp_path: Path) -> None:
    """A run file from standard input; a mistake in a file names its line."""
    text = "version: 1\napps:\n" + app("piped", "echo from a pipe")
    with Pillion("run", "-f", "-", home=tmp_path / "home", folder=tmp_path, stdin=text) as run:
        assert run.wait() == 0
        run.until("== APP - piped == from a pipe")
    project(tmp_path, app("a", "true", "appPort: many"))
    found = pillion(["run", "-f", "."], home=tmp_path / "home", folder=tmp_path)
    assert found.returncode == 1
    assert "dapr.yaml:7: apps[0].appPort: expected a whole number" in found.stderr
    assert "Traceback" not in found.stderr
