"""Real sidecars for tests: `pilliond` as a process on free ports, its output kept, ended when the test ends."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any, Self

from ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

START_S = 60.0
STOP_S = 60.0


def eventually(holds: Callable[[], bool], timeout_s: float = START_S) -> None:
    """Wait for another process's state, which has no event for us."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def rewrite(path: Path, text: str) -> None:
    """Replace a file in one piece, as editors do: who watches it sees what was there, or this, but never half of it."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.write_text(text)
    fresh.replace(path)


class Reply:
    """An HTTP answer; header names in lower case."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body

    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<{self.status} {self.body[:200]!r}>"


class SidecarProcess:
    """One `pilliond`. Use as a context manager; `folder` gets its resources and its log."""

    def __init__(
        self,
        folder: Path,
        app_id: str = "app",
        *,
        app_port: int = 0,
        resources: Mapping[str, str] | None = None,
        resources_path: Path | None = None,
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.folder = folder
        self.app_id = app_id
        self.http_port, self.grpc_port, self.internal_port = free_ports(3)
        self.log_path = folder / f"{app_id}-{self.http_port}.log"
        where = resources_path or folder / f"resources-{app_id}"
        where.mkdir(parents=True, exist_ok=True)
        for name, text in (resources or {}).items():
            (where / name).write_text(text)
        self.command = [
            sys.executable, "-m", "pillion.sidecar.main", "--app-id", app_id, "--resources-path", str(where),
            "--dapr-http-port", str(self.http_port), "--dapr-grpc-port", str(self.grpc_port),
            "--dapr-internal-grpc-port", str(self.internal_port), "--dapr-listen-addresses", "127.0.0.1",
            "--enable-metrics=false", *(("--app-port", str(app_port)) if app_port else ()), *arguments,
        ]  # fmt: skip
        self.env = {
            **os.environ, "DAPR_HOST_IP": "127.0.0.1", "PILLION_HOME": str(folder / "home"),
            "PYTHONWARNINGS": "default",
            **(env or {}),
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, ready: bool = True) -> Self:
        """Start; with `ready` wait until it can serve outbound calls."""
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, env=self.env, cwd=self.folder)
        if ready:
            try:
                self.wait("/v1.0/healthz/outbound")
            except BaseException:
                self.__exit__()
                raise
        return self

    def wait(self, path: str, status: int = 204) -> None:
        """Ask for `path` until it answers `status`: there is no event for another process's port."""
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            assert self.process is not None
            if self.process.poll() is not None:
                raise AssertionError(f"pilliond ended with {self.process.returncode}:\n{self.log()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.request("GET", path).status == status:
                    return
            time.sleep(0.02)
        raise AssertionError(f"pilliond did not answer {path} with {status}:\n{self.log()}")

    def request(
        self, method: str, path: str, body: bytes | str | None = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        """One request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=START_S)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            data = answer.read()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, data)
        finally:
            connection.close()

    def post_json(self, path: str, value: object, **headers: str) -> Reply:
        return self.request("POST", path, json.dumps(value), {"Content-Type": "application/json", **headers})

    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    def wait_log(self, text: str, times: int = 1) -> None:
        """Wait until the log says `text` so many times: for what another process tells nowhere else."""
        deadline = time.monotonic() + START_S
        while self.log().count(text) < times:
            assert time.monotonic() < deadline, f"the log does not say {text!r} {times} times:\n{self.log()}"
            time.sleep(0.02)

    def kill(self, number: int = signal.SIGKILL) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """SIGTERM, then wait; SIGKILL and an error when that takes too long."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"pilliond did not stop:\n{self.log()}") from None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def component(name: str, kind: str, **metadata: str) -> str:
    """A Component document."""
    items = "".join(f"\n    - name: {key}\n      value: {json.dumps(value)}" for key, value in metadata.items())
    listed = f"\n  metadata:{items}" if items else ""
    return (
        "apiVersion: dapr.io/v1alpha1\nkind: Component\n"
        f"metadata:\n  name: {name}\nspec:\n  type: {kind}\n  version: v1{listed}\n"
    )


@contextlib.contextmanager
def sidecars(*each: SidecarProcess) -> Iterator[tuple[SidecarProcess, ...]]:
    """Start several, end all."""
    with contextlib.ExitStack() as stack:
        for item in each:
            stack.enter_context(item)
        yield each
