"""What the benchmark measures with: processes and their CPU, wrk, and a gRPC client of known cost."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pillion.cli.port_blocks import PortBlocks

if TYPE_CHECKING:
    from collections.abc import Sequence

_PORTS = PortBlocks(12_000, 20_000)  # as the tests, and never at the same time the same
TICK = os.sysconf("SC_CLK_TCK")
HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Load:
    """What a driver saw: requests that were answered well, per second, latencies in milliseconds."""

    requests: int
    rate: float
    p50_ms: float
    p99_ms: float
    errors: int = 0


def free_port() -> int:
    """Return a port that nobody uses, and that was not returned before."""
    port = _PORTS.take()
    if port is None:
        raise SystemExit("no port of this machine is free")
    return port


class Process:
    """A child process whose CPU time and memory can be read (Linux)."""

    def __init__(self, command: Sequence[str], *, cwd: Path | None = None, home: Path | None = None) -> None:
        """`home`: where `pillion` keeps its own files."""
        self.log = tempfile.NamedTemporaryFile(suffix=".log")  # noqa: SIM115 - closed by `end`
        environment = None if home is None else {**os.environ, "PILLION_HOME": str(home)}
        self._child = subprocess.Popen(command, stdout=self.log, stderr=self.log, cwd=cwd, env=environment)

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self._child.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / TICK

    def user_s(self) -> float:
        """The part of `cpu_s` that is not the kernel's."""
        return int(Path(f"/proc/{self._child.pid}/stat").read_text().rsplit(")", 1)[1].split()[11]) / TICK

    def rss_mb(self) -> float:
        status = Path(f"/proc/{self._child.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def text(self) -> str:
        return Path(self.log.name).read_text(errors="replace")[-4000:]

    def end(self) -> None:
        self._child.terminate()
        try:
            self._child.wait(15)
        except subprocess.TimeoutExpired:
            self._child.kill()
            self._child.wait()
        self.log.close()


def wait_http(port: int, path: str, status: int, process: Process, timeout_s: float = 20.0) -> float:
    """Ask until the answer is `status`; return the seconds it took."""
    began = time.perf_counter()
    while time.perf_counter() - began < timeout_s:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if get(port, path)[0] == status:
                return time.perf_counter() - began
        time.sleep(0.002)
    raise RuntimeError(f"no {status} from port {port}{path}:\n{process.text()}")


def wait_port(port: int, process: Process, timeout_s: float = 20.0) -> None:
    """Wait until somebody listens."""
    began = time.perf_counter()
    while time.perf_counter() - began < timeout_s:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.002)
    raise RuntimeError(f"nobody listens on port {port}:\n{process.text()}")


def get(
    port: int, path: str, method: str = "GET", body: str | None = None, headers: dict[str, str] | None = None
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def wrk(url: str, *, seconds: float, connections: int = 16, body: str = "", script: str = "") -> Load:
    """Drive `url` with wrk (Debian package `wrk`), POSTing `body` when there is one, or as a Lua `script` says."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency"]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as lua:
        if body:
            script = f"wrk.method='POST'; wrk.body=[==[{body}]==]; wrk.headers['Content-Type']='application/json'\n"
        if script:
            lua.write(script)
            lua.flush()
            command += ["-s", lua.name]
        text = subprocess.run([*command, url], capture_output=True, text=True, check=True).stdout
    found = re.search(r"(\d+) requests in", text)
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    errors = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    socket_errors = re.search(r"Socket errors: (.*)", text)
    if found is None or rate is None or (socket_errors is not None and "timeout" not in socket_errors[1]):
        raise RuntimeError(f"wrk failed:\n{text}")
    failed = int(errors[1]) if errors else 0
    return Load(int(found[1]), float(rate[1]), _latency(text, "50%"), _latency(text, "99%"), failed)


def _latency(text: str, share: str) -> float:
    match = re.search(rf"{share}\s+([\d.]+)(us|ms|s)", text)
    assert match is not None
    return float(match[1]) * {"us": 0.001, "ms": 1.0, "s": 1000.0}[match[2]]


def grpc(
    port: int, method: str, message: bytes, *, seconds: float, calls: int = 16, metadata: dict[str, str] | None = None
) -> Load:
    """Drive one unary method from a process of its own; 2 connections, `calls` at once in all."""
    command = [
        sys.executable, str(HERE / "grpc_load.py"), f"127.0.0.1:{port}", method, "--message", message.hex(),
        "--seconds", str(seconds), "--calls", str(calls), "--json",
        *(f"--metadata={name}={value}" for name, value in (metadata or {}).items()),
    ]  # fmt: skip
    return Load(**json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
