"""Judges: programs in other languages that use their official SDK over a real sidecar.

A judge reads where the sidecar is from DAPR_HTTP_PORT and DAPR_GRPC_PORT, prints `held: <name>` for each thing that
was as it should be, and ends with an error at the first that was not. The sidecar has one component of each block;
the application behind it is ours: it says back what it was asked, and `configure` changes the configuration store, so
that a judge can see a change that another process made.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from apps import Call, HttpApp
from crypto_keys import KEK
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

SDK = Path(__file__).parent / "sdk"
CACHE = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pillion"
BUILD_S = 240.0
JUDGE_S = 240.0
TIMEOUT_S = BUILD_S + JUDGE_S
"""For pytest: the first run of a judge fetches its SDK."""


def programs(*names: str, language: str) -> list[str]:
    """Return where these are, or skip the test with the name of what is missing."""
    found = {name: shutil.which(name) for name in names}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        pytest.skip(f"not installed: {', '.join(missing)}; the {language} SDK cannot be run")
    return [str(path) for path in found.values()]


def built(language: str, sources: Sequence[Path], build: Callable[[Path], None]) -> Path:
    """Return a folder that `build` has filled, made once for each content of `sources`, which it finds there.

    It appears complete or not at all, also when several test processes build it at once.
    """
    key = hashlib.sha256()
    for path in sources:
        data = path.read_bytes()
        key.update(f"{path.name} {len(data)}\n".encode() + data)
    home = CACHE / f"sdk-{language}"
    target = home / key.hexdigest()[:16]
    if target.exists():
        return target
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=home) as made:
        folder = Path(made) / "built"
        folder.mkdir()
        for path in sources:
            shutil.copy(path, folder)
        build(folder)
        with contextlib.suppress(FileExistsError):  # somebody else was as fast
            try:
                folder.rename(target)
            except OSError as error:
                raise (FileExistsError(str(target)) if target.exists() else error) from error
    return target


def tool(command: Sequence[str], folder: Path, env: Mapping[str, str] | None = None) -> None:
    """Run a compiler or a package manager; its words are the error's."""
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **(env or {})}, timeout=BUILD_S, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"


def resources(folder: Path) -> dict[str, str]:
    """Return a component of each block; their data is below `folder`."""
    (folder / "secrets.json").write_text(json.dumps({"password": "s3cret", "db": {"user": "ada"}}))
    (folder / "keys").mkdir()
    (folder / "keys" / "mykey").write_bytes(base64.b64encode(KEK))
    each = (
        component("store", "state.sqlite", connectionString=str(folder / "state.sqlite")),
        component("pubsub", "pubsub.sqlite", connectionString=str(folder / "broker.sqlite")),
        component("vault", "secretstores.local.file", secretsFile=str(folder / "secrets.json")),
        component("settings", "configuration.sqlite", connectionString=str(folder / "settings.sqlite")),
        component("locks", "lock.sqlite", connectionString=str(folder / "locks.sqlite")),
        component("files", "bindings.localstorage", rootPath=str(folder / "files")),
        component("keys", "crypto.dapr.localstorage", path=str(folder / "keys")),
        component("echo", "conversation.echo"),
    )
    return {f"{number}.yaml": text for number, text in enumerate(each)}


def configure(folder: Path, key: str, value: str, version: str) -> None:
    """Set an item of the store `settings`, as an operator would by hand."""
    with contextlib.closing(sqlite3.connect(folder / "settings.sqlite", timeout=60)) as db, db:
        db.execute("REPLACE INTO configuration (key, value, version) VALUES (?, ?, ?)", (key, value, version))


@contextlib.contextmanager
def shop(folder: Path) -> Iterator[SidecarProcess]:
    """A sidecar `shop` with the resources above, and our application behind it."""

    def answer(call: Call) -> tuple[int, Mapping[str, str], bytes]:
        body = json.loads(call.body or b"null")
        if call.path == "/configure":
            configure(folder, body["key"], body["value"], body["version"])
        said = {"path": call.path, "method": call.method, "body": body}
        return 200, {"Content-Type": "application/json"}, json.dumps(said).encode()

    with (
        HttpApp(answer=answer) as app,
        SidecarProcess(folder, "shop", app_port=app.port, resources=resources(folder)) as sidecar,
    ):
        sidecar.wait("/v1.0/healthz")
        yield sidecar


def judged(
    command: Sequence[str], sidecar: SidecarProcess, folder: Path, env: Mapping[str, str] | None = None
) -> set[str]:
    """Run a judge to its end; return what held."""
    where = {"DAPR_HTTP_PORT": str(sidecar.http_port), "DAPR_GRPC_PORT": str(sidecar.grpc_port)}
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **where, **(env or {})}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    with process:
        try:
            said, _ = process.communicate(timeout=JUDGE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
    assert process.returncode == 0, said + sidecar.log()
    return {line.removeprefix("held: ") for line in said.splitlines() if line.startswith("held: ")}
