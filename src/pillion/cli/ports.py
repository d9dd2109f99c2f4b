"""Ports: free ones, who has a taken one, and what a process listens on.

Knows: sockets and, on Linux, proc(5). Elsewhere who holds a port is asked of `lsof`, where it is installed.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pillion.cli.port_blocks import PortBlocks, ephemeral_from, hold

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_LISTEN = b"0A"
"""The state in /proc/net/tcp (include/net/tcp_states.h)."""
_LINUX = sys.platform == "linux"
_FIRST = 24_000
"""Where ports that we choose begin: above those most servers are known by."""
_WISHES = 23_000
"""Where the ports begin that stand for wished-for ones, told apart by their last three digits: bound by who got one."""


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that listens on a port."""

    pid: int
    command: str

    def __str__(self) -> str:
        return f"{self.command} (pid {self.pid})"


def has_ipv6() -> bool:
    """Tell whether the loopback address of IPv6 can be used."""
    return _bindable(socket.AF_INET6, "::1", 0)


def is_free(port: int) -> bool:
    """Tell whether the port can be bound on loopback and on all interfaces."""
    tries = [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::1")]
    return all(_bindable(family, host, port) for family, host in tries)


def _bindable(family: socket.AddressFamily, host: str, port: int) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((host, port))
    except OSError as error:
        return port != 0 and error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
    return True


def free(taken: Collection[int], *, wish: int = 0) -> int:
    """Return a port that is free now and not in `taken`: `wish` if it can be had.

    Others come from below the ephemeral range. Either is kept from other runs that choose before the port is listened
    on. Where there is no such port, any that is free now must do.
    """
    if wish and wish not in taken and is_free(wish) and _granted(wish):
        return wish
    port = _blocks().take(taken)
    while port is None or port in taken or not is_free(port):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
    return port


@functools.cache
def _granted(wish: int) -> bool:
    """Whether no other run was given a wished-for port before: it may be about to listen there."""
    return hold(_WISHES + wish % 1000)


@functools.cache
def _blocks() -> PortBlocks:
    return PortBlocks(_FIRST, ephemeral_from())


def listens(port: int, host: str = "127.0.0.1") -> bool:
    """Tell whether somebody accepts connections there now; connects, and closes at once."""
    try:
        with socket.create_connection((host, port), timeout=0.5):
            return True
    except OSError:
        return False


def holder(port: int) -> Holder | None:
    """Return who listens on a port, None when that cannot be found out (another user's process)."""
    if not _LINUX:
        return _holder_by_lsof(port)
    wanted = {f"socket:[{inode}]" for number, inode in _listening() if number == port}
    if wanted:
        for pid in _pids():
            if any(link in wanted for link in _links(pid)):
                return Holder(pid, _command(pid))
    return None


def listened_by(session: int) -> list[int]:
    """Return the ports that processes of a session listen on; nothing where the system does not tell."""
    if not _LINUX:
        return []
    inodes = {f"socket:[{inode}]": number for number, inode in _listening()}
    found = {inodes[link] for pid in _pids() if _session(pid) == session for link in _links(pid) if link in inodes}
    return sorted(found)


def _listening() -> Iterator[tuple[int, int]]:
    """Yield port and inode of every listening TCP socket (proc(5), /proc/net/tcp)."""
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError), open(f"/proc/net/{name}", "rb") as table:
            next(table)
            for line in table:
                columns = line.split()
                if columns[3] == _LISTEN:
                    yield int(columns[1].rpartition(b":")[2], 16), int(columns[9])


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdigit())


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def _links(pid: int) -> Iterator[str]:
    try:
        names = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return
    for name in names:
        with contextlib.suppress(OSError):
            yield os.readlink(f"/proc/{pid}/fd/{name}")


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        text = os.fsdecode(b" ".join(words)).strip()
        return text if len(text) <= 80 else text[:79] + "…"
    return "a process"


def _holder_by_lsof(port: int) -> Holder | None:
    program = shutil.which("lsof")
    if program is None:
        return None
    with contextlib.suppress(OSError, subprocess.SubprocessError, ValueError):
        asked = [program, "-nP", f"-iTCP:{port}", "-sTCP:LISTEN", "-Fpc"]
        lines = subprocess.run(asked, capture_output=True, text=True, timeout=3, check=False).stdout.splitlines()
        said = {line[0]: line[1:] for line in reversed(lines) if line}
        if "p" in said:
            return Holder(int(said["p"]), said.get("c", "a process"))
    return None
