"""`pillion` as a real process, and what it leaves behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

PATIENCE_S = 90.0
ECHO = """
import http.server, os, signal, sys, urllib.request

class App(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer(os.environ["APP_ID"].encode() + b" got " + self.path.encode())

    def do_POST(self):
        self.answer(self.rfile.read(int(self.headers.get("content-length", 0))))

    def answer(self, body):
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass

def last_words(*_):
    url = f"http://127.0.0.1:{os.environ['DAPR_HTTP_PORT']}/v1.0/metadata"
    with urllib.request.urlopen(url, timeout=30) as answer:
        print("last words", answer.status, flush=True)
    os._exit(0)

signal.signal(signal.SIGTERM, last_words)
server = http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["APP_PORT"])), App)
print("serving", flush=True)
server.serve_forever()
"""
"""An application: answers GET with its id and the path, POST with what it got; its last words need its sidecar."""


class Pillion:
    """One `pillion` process. Its lines, of both outputs, are kept; leaving the block ends it and checks for orphans."""

    def __init__(self, *arguments: str, home: Path, folder: Path, stdin: str | None = None) -> None:
        environment = {**os.environ, "PILLION_HOME": str(home), "PYTHONUNBUFFERED": "1", "NO_COLOR": "1"}
        environment["PILLION_TEST_MARK"] = self.mark = f"{os.getpid()}-{id(self)}-{time.monotonic_ns()}"
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pillion.cli.main", *arguments],
            cwd=folder, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, encoding="utf-8",
        )  # fmt: skip
        self.lines: list[str] = []
        self._news = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if stdin is not None:
            assert self.process.stdin is not None
            self.process.stdin.write(stdin)
            self.process.stdin.close()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._news:
                self.lines.append(line.rstrip("\n"))
                self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def until(self, text: str, *, times: int = 1) -> str:
        """Wait for a line with `text` in it - for the last of several - and return it."""

        def found() -> list[str]:
            return [line for line in self.lines if text in line]

        with self._news:
            assert self._news.wait_for(lambda: len(found()) >= times or self._ended, PATIENCE_S), self
            assert len(found()) >= times, self
            return found()[times - 1]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        """Wait for the end and return the exit status."""
        status = self.process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return status

    def descendants(self) -> list[int]:
        """Return all living processes that were started with our environment, wherever they have gone to."""
        wanted = f"PILLION_TEST_MARK={self.mark}".encode()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                dead = (path / "stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
                if not dead and wanted in (path / "environ").read_bytes().split(b"\0"):
                    found.append(int(path.name))
            except OSError:
                continue
        return found

    def until_nothing_is_left(self) -> None:
        """Wait until the last of them has ended."""
        until = time.monotonic() + PATIENCE_S
        for pid in self.descendants():
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            ended, _, _ = select.select([handle], [], [], until - time.monotonic())
            os.close(handle)
            assert ended, f"{pid} is left over from {self}"

    def __enter__(self) -> Pillion:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            self.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()
        self._reader.join(PATIENCE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        left = self.descendants()
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        if kind is None:
            assert not left, f"processes left behind: {left}; {self}"

    def __repr__(self) -> str:
        return "<Pillion {}:\n{}>".format(" ".join(map(str, self.process.args)), "\n".join(self.lines))  # type: ignore[arg-type]


def pillion(arguments: Sequence[str], *, home: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "pillion.cli.main", *arguments],
        cwd=folder, env={**os.environ, "PILLION_HOME": str(home), "NO_COLOR": "1"}, capture_output=True, text=True,
        encoding="utf-8", timeout=PATIENCE_S, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
