"""Ports for servers that will listen a little later: from blocks, each of which belongs to one process.

A port that was free a moment ago can be lost in two ways: to an outgoing connection, for which the system takes one of
its ephemeral range, and to another program that looks for a free one at the same time. So these lie below that range,
and who has bound the first port of a block has the others until it ends. That bound port is the whole lock: nothing
has to be cleared away, and processes that cannot take each other's ports (other hosts, other network namespaces) do
not see it. Only programs that choose their ports here keep to the blocks.

Knows: sockets and where the ephemeral range begins. Never knows: what a port is for.
"""

from __future__ import annotations

import contextlib
import errno
import random
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

SIZE = 50
"""Ports of a block. The first serves as its lock, and is not handed out."""
_IANA_DYNAMIC = 49152
"""Where dynamic ports begin (RFC 6335, section 6), and the ephemeral range of systems that keep to it, as macOS."""


def ephemeral_from(path: Path = Path("/proc/sys/net/ipv4/ip_local_port_range")) -> int:
    """Return the first port that the system uses for outgoing connections; Linux tells (ip(7)), others are believed."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int(path.read_text("ascii").split()[0])
    return _IANA_DYNAMIC


class PortBlocks:
    """Ports from `first` to `end` (not included). What has been claimed is kept until the process ends. Threads share
    one of these.
    """

    def __init__(self, first: int, end: int) -> None:
        self._free = list(range(first, end - SIZE + 1, SIZE))
        random.Random().shuffle(self._free)  # own seed: a program that seeds the common one is to differ all the same
        self._ours: list[int] = []
        self._next = 0
        self._lock = threading.Lock()

    def take(self, taken: Collection[int] = ()) -> int | None:
        """Return a port that nobody uses and that is not in `taken`, None when there is none.

        Each one is returned once, as long as there are blocks; then those of our own blocks come round again.
        """
        with self._lock:
            for again in (False, True):
                if again:
                    self._next = 0
                while self._next < len(self._ours) or self._claim():
                    port = self._ours[self._next]
                    self._next += 1
                    if port not in taken and is_unused(port):
                        return port
        return None

    def _claim(self) -> bool:
        """Make the next free block ours."""
        while self._free:
            first = self._free.pop()
            if hold(first):
                self._ours += range(first + 1, first + SIZE)
                return True
        return False

    def __repr__(self) -> str:
        return f"<PortBlocks {self._next} of {len(self._ours)} given, {len(self._free)} blocks to try>"


def hold(port: int) -> bool:
    """Bind a port that is a lock until this process ends; False when another socket has it."""
    try:
        with socket.socket() as lock:
            lock.bind(("127.0.0.1", port))
            lock.detach()  # open until the process ends, whoever forgets it
    except OSError:
        return False
    return True


def is_unused(port: int) -> bool:
    """Tell whether no socket at all has the port, not even one that is only bound or has yet to time out."""
    return _bindable(socket.AF_INET, "0.0.0.0", port) and _bindable(socket.AF_INET6, "::", port)


def _bindable(family: socket.AddressFamily, host: str, port: int) -> bool:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((host, port))
    except OSError as error:
        return error.errno in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
    return True
