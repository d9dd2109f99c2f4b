"""What a run is made of: its folder, its run file with free ports, its secrets, the board's language.

The run file is `dapr.yaml` with other ports and, for other stores and brokers, other folders of resources. Everything
else stays as it is written there.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

from tower import servers, show

HERE = Path(__file__).resolve().parent.parent
BOARD = HERE / "board"
INSTALL_S = 600
NODE = (18, 0)
STAND_IN = ["python3", "standin.py"]


@dataclass(frozen=True, slots=True)
class Scene:
    """A run that is ready to be started. `port` is that of the tower's sidecar, `ports` are those of applications."""

    folder: Path
    run_file: Path
    port: int
    ports: tuple[int, ...]
    environment: dict[str, str]


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
    port, ports = servers.free_port(), []
    for app in plan["apps"]:
        app["appDirPath"] = str(HERE / app["appDirPath"])
        if "appPort" in app:
            ports.append(servers.free_port())
            app["appPort"] = ports[-1]
        if "daprHTTPPort" in app:
            app["daprHTTPPort"] = port
        if app["appID"] == "board" and not node:
            app |= {"command": STAND_IN, "appDirPath": str(HERE)}
    run_file = folder / "dapr.yaml"
    run_file.write_text(yaml.safe_dump(plan, sort_keys=False), "utf-8")
    hidden = folder / "secrets.json"
    hidden.touch(0o600)
    hidden.write_text(json.dumps(secret), "utf-8")
    return Scene(folder, run_file, port, tuple(ports), {"PILLION_HOME": str(folder / "home")})


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
