"""Servers that the chosen components need: Redis and PostgreSQL, on free ports, with their data in the run's folder.

Knows: how to start, ask and end them. Never knows: who uses them.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

START_S = 30.0
STOP_S = 20.0
_PORTS = iter(random.sample(range(20_000, 23_000), 3_000))


class NoServer(Exception):
    """A server is not installed or does not start; the text says what to do."""


def free_port() -> int:
    """Return a port of this machine that was free a moment ago, another one each time.

    From below those that systems and `pillion run` hand out by themselves: what is killed and started again finds its
    port still free.
    """
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise NoServer("no port of this machine is free")


@contextlib.contextmanager
def redis(folder: Path, password: str) -> Iterator[str]:
    """A Redis server that keeps what it acknowledged; yields its address."""
    port = free_port()
    program = _program("redis-server", "redis-server")
    folder.mkdir()
    settings = folder / "redis.conf"
    settings.write_text(f'bind 127.0.0.1\nport {port}\ndir {folder}\nrequirepass {password}\nsave ""\nappendonly yes\n')
    settings.chmod(0o600)
    with _running([program, str(settings)], folder):
        _until(lambda: _listens(port), folder)
        yield f"127.0.0.1:{port}"


@contextlib.contextmanager
def postgresql(folder: Path, password: str) -> Iterator[str]:
    """A PostgreSQL server; yields its connection string. It refuses root: then it runs as `postgres` or `nobody`."""
    port = free_port()
    user = _account() if os.geteuid() == 0 else None
    folder.mkdir()
    if user:
        shutil.chown(folder, user)
        _open_way(folder)
    secret = folder / "password"
    secret.write_text(password)
    secret.chmod(0o600)
    if user:
        shutil.chown(secret, user)
    programs = [_program(name, "postgresql", "/usr/lib/postgresql/*/bin") for name in ("initdb", "postgres", "psql")]
    make = [programs[0], "-D", "data", "-U", "airport", "--pwfile", str(secret), "-E", "UTF8", "--locale", "C"]
    made = subprocess.run(
        [*make, "--auth", "scram-sha-256", "--no-sync"], cwd=folder, user=user, capture_output=True, text=True
    )
    if made.returncode:
        raise NoServer(f"initdb failed: {made.stderr.strip()[-500:]}")
    settings = ("listen_addresses=127.0.0.1", "unix_socket_directories=")
    flags = [part for setting in settings for part in ("-c", setting)]
    where = f"host=127.0.0.1 port={port} user=airport dbname=postgres"
    with _running([programs[1], "-D", str(folder / "data"), "-p", str(port), *flags], folder, user, signal.SIGINT):
        ask = [programs[2], where, "-Atc", "SELECT 1"]
        known = os.environ | {"PGPASSWORD": password}
        _until(lambda: subprocess.run(ask, env=known, capture_output=True).returncode == 0, folder)
        yield f"{where} password={password}"


@contextlib.contextmanager
def _running(
    command: Sequence[str], folder: Path, user: str | None = None, end: int = signal.SIGTERM
) -> Iterator[None]:
    """A process with its log in the folder, ended in the end; a session of its own, so that Ctrl-C is not for it."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder, user=user, start_new_session=True
        )
    try:
        yield
    finally:
        process.send_signal(end)
        try:
            process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until(answers: Callable[[], bool], folder: Path) -> None:
    """Ask until a server answers: there is no event for that."""
    deadline = time.monotonic() + START_S
    while not answers():
        if time.monotonic() > deadline:
            raise NoServer(f"does not start: {(folder / 'log').read_text(errors='replace')[-500:]}")
        time.sleep(0.05)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _program(name: str, package: str, also_in: str = "") -> str:
    for folder in sorted(Path("/").glob(also_in.lstrip("/")), reverse=True) if also_in else ():
        if os.access(folder / name, os.X_OK):
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        raise NoServer(f"{name} is not installed: install the package {package}")
    return found


def _account() -> str:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise NoServer("PostgreSQL refuses to run as root, and there is no account 'postgres' or 'nobody'")


def _open_way(folder: Path) -> None:
    """Let another account through the run's folder, which is ours alone; not into it."""
    folder.parent.chmod(0o711)
