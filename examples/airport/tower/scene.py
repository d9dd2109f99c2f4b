"""What a run is made of: its folder, its run file with free ports, its secrets, the board's language.

The run file is `dapr.yaml` with other ports and, for other stores and brokers, other folders of resources. Everything
else stays as it is written there. A second run file has second instances of some applications, and no other.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tower import servers, show

HERE = Path(__file__).resolve().parent.parent
BOARD = HERE / "board"
INSTALL_S = 600
NODE = (18, 0)
STAND_IN = ["python3", "standin.py"]
DOUBLED = ("fleet", "rebook")
"""What runs twice: those who host actors and workflows."""


@dataclass(frozen=True, slots=True)
class Scene:
    """A run that is ready to be started.

    `port` is that of the tower's sidecar, `ports` and `second_ports` are those of applications; `sidecars` has the
    ports of the sidecars of what runs twice, by name, the first instance's first. `started` is when it was made, by the
    monotonic clock.
    """

    folder: Path
    run_file: Path
    second_file: Path
    port: int
    ports: tuple[int, ...]
    second_ports: tuple[int, ...]
    sidecars: dict[str, tuple[int, int]]
    environment: dict[str, str]
    started: float = field(default_factory=time.monotonic)


def keys() -> dict[str, str]:
    """Return new secrets by name."""
    return {name: secrets.token_hex(24) for name in ("signing-key", "redis-password", "postgresql")}


def write(
    folder: Path, *, store: str, broker: str, node: bool, environment: dict[str, str], secret: dict[str, str]
) -> Scene:
    """Write everything a run needs into its folder; `environment` is for the applications."""
    plan = yaml.safe_load((HERE / "dapr.yaml").read_text("utf-8"))
    places = ("common", f"state-{store}", f"broker-{broker}")
    plan["common"] |= {
        "resourcesPaths": [str(HERE / "resources" / place) for place in places],
        "appLogDestination": "console",
        "daprdLogDestination": "console",
        "env": {"PYTHONUNBUFFERED": "1", **environment},
    }
    ports: list[int] = []
    second_ports: list[int] = []
    first = {app["appID"]: _settled(app, ports) for app in plan["apps"]}
    second = {name: _settled(first[name], second_ports) for name in DOUBLED}
    if not node:
        first["board"] |= {"command": STAND_IN, "appDirPath": str(HERE)}
    files = []
    for file, apps in (("dapr.yaml", first), ("second.yaml", second)):
        files.append(folder / file)
        files[-1].write_text(yaml.safe_dump(plan | {"apps": list(apps.values())}, sort_keys=False), "utf-8")
    hidden = folder / "secrets.json"
    hidden.touch(0o600)
    hidden.write_text(json.dumps(secret), "utf-8")
    sidecars = {name: (first[name]["daprHTTPPort"], second[name]["daprHTTPPort"]) for name in DOUBLED}
    return Scene(
        folder, *files, first["tower"]["daprHTTPPort"], tuple(ports), tuple(second_ports), sidecars,
        {"PILLION_HOME": str(folder / "home")},
    )  # fmt: skip


def _settled(app: dict[str, Any], ports: list[int]) -> dict[str, Any]:
    """Return an application of a run file with free ports; that of the application joins the `ports`."""
    settled = app | {"appDirPath": str(HERE / app["appDirPath"])}
    if "appPort" in app:
        ports.append(servers.free_port())
        settled["appPort"] = ports[-1]
    if "daprHTTPPort" in app or app["appID"] in DOUBLED:
        settled["daprHTTPPort"] = servers.free_port()
    return settled


def node_missing() -> str:
    """Make the board's JavaScript ready; return why that is not possible, "" when it is."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        return f"{'Node.js' if node is None else 'npm'} is not installed"
    said = subprocess.run([node, "--version"], capture_output=True, text=True).stdout.strip()
    numbers = said.removeprefix("v").split(".")
    if not numbers[0].isdigit() or int(numbers[0]) < NODE[0]:
        return f"Node.js is {said or 'broken'}; the SDK needs {NODE[0]}"
    stamp = BOARD / "node_modules" / ".package-lock.json"
    if stamp.is_file() and stamp.stat().st_mtime >= (BOARD / "package.json").stat().st_mtime:
        return ""
    show.step("npm install, for the board")
    install = [npm, "install", "--no-audit", "--no-fund", "--loglevel=error"]
    done = subprocess.run(install, cwd=BOARD, capture_output=True, text=True, timeout=INSTALL_S)
    if done.returncode:
        return f"npm install failed: {done.stderr.strip()[-300:]}"
    os.utime(stamp)
    return ""
