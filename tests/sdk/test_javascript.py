"""The official JavaScript SDK, over HTTP and over gRPC, against a real sidecar."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from apps import Call, HttpApp
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import Mapping

HERE = Path(__file__).parent / "node"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pillion" / "sdk-node"
INSTALL_S = 240


@pytest.fixture(scope="module")
def judge() -> Path:
    """The folder in which the SDK is installed, once for each version of package.json."""
    npm = shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("Node.js and npm are not installed: the JavaScript SDK cannot be run")
    CACHE.mkdir(parents=True, exist_ok=True)
    wanted = (HERE / "package.json").read_text()
    if not (CACHE / "node_modules").exists() or (CACHE / "package.json").read_text() != wanted:
        (CACHE / "package.json").write_text(wanted)
        command = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--loglevel=error"]
        subprocess.run(command, cwd=CACHE, check=True, timeout=INSTALL_S, capture_output=True)
    shutil.copy(HERE / "judge.mjs", CACHE / "judge.mjs")
    return CACHE


def answer(call: Call) -> tuple[int, Mapping[str, str], bytes]:
    body = json.loads(call.body) if call.body else None
    return 200, {"Content-Type": "application/json"}, json.dumps({"path": call.path, "body": body}).encode()


@pytest.mark.node
@pytest.mark.timeout(INSTALL_S + 60)
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_every_block_the_sdk_has(judge: Path, tmp_path: Path, protocol: str) -> None:
    (tmp_path / "secrets.json").write_text('{"password": "s3cret"}')
    resources = {
        "store.yaml": component("store", "state.sqlite", connectionString=str(tmp_path / "s.db")),
        "pubsub.yaml": component("pubsub", "pubsub.in-memory"),
        "vault.yaml": component("vault", "secretstores.local.file", secretsFile=str(tmp_path / "secrets.json")),
    }
    with (
        HttpApp(answer=answer) as app,
        SidecarProcess(tmp_path, "shop", app_port=app.port, resources=resources) as sidecar,
    ):
        sidecar.wait("/v1.0/healthz")
        port = sidecar.grpc_port if protocol == "grpc" else sidecar.http_port
        done = subprocess.run(
            ["node", "judge.mjs", protocol, str(port)],
            cwd=judge,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr + sidecar.log()
        held = {line.removeprefix("held: ") for line in done.stdout.splitlines() if line.startswith("held: ")}
        assert {"state", "publish", "secrets", "metadata", "health"} <= held
