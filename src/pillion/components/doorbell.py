"""Doorbells: how the processes that share a file on one machine tell each other that it has something new.

Each process binds a datagram socket in the directory `<file>.wake` and rings by sending a few bytes to all others.
Whether a process lives is the kernel's answer to a send: a bound socket takes the bytes or is full, a socket whose
process has gone refuses them. That needs no process ids, so it holds across containers that share the directory.

Knows: sockets and the directory. Never knows: what a ring means. A ring may get lost (a full socket has one waiting
already; a directory that another user may not write), so users look at the file by themselves now and then.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import logging
import os
import socket
import tempfile
import time
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

log = logging.getLogger("pillion.components.doorbell")

MAX_RING = 4096
"""Bytes of one ring."""
_PATH_LIMIT = 100
"""Bytes of a socket's path that every platform takes (sockaddr_un.sun_path: 104 or 108 with the final NUL)."""
_SETTLED_NS = 100_000_000
"""A directory listing is trusted when it was made this long after the directory last changed: file systems note
changes in ticks of some milliseconds, and a second change within one tick would not be seen."""


class Doorbell:
    """The bell of one process (or one event loop). `name` is unique and chosen by the user."""

    def __init__(
        self, path: str, name: str, heard: Callable[[bytes], None], *, unix: bool = hasattr(socket, "AF_UNIX")
    ):
        """`heard` is called on the loop with the bytes of each ring. Without `unix` sockets loopback UDP serves."""
        self.name = name
        self._unix = unix
        self.directory = _directory(path)
        self._heard = heard
        self._socket: socket.socket | None = None
        self._file = os.path.join(self.directory, name + (".sock" if unix else ".port"))
        self._transport: asyncio.DatagramTransport | None = None
        self._others: dict[str, str | tuple[str, int]] = {}
        self._listed = (-1, 0)

    async def open(self) -> None:
        """Bind and listen. Raises OSError when the directory cannot be made or written."""
        loop = asyncio.get_running_loop()
        os.makedirs(self.directory, exist_ok=True)
        if self._unix:
            self._socket = bell = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            bell.setblocking(False)
            try:
                bell.bind(self._file)
            except FileNotFoundError:  # the last one to leave has just removed the directory
                os.makedirs(self.directory, exist_ok=True)
                bell.bind(self._file)
            loop.add_reader(bell, self._read)
            return
        self._transport, _ = await loop.create_datagram_endpoint(lambda: _Ear(self._heard), local_addr=("127.0.0.1", 0))
        port = self._transport.get_extra_info("sockname")[1]
        with open(self._file + ".new", "w", encoding="ascii") as file:  # noqa: ASYNC230 - a few bytes, once
            file.write(str(port))
        os.replace(self._file + ".new", self._file)

    def close(self) -> None:
        """Stop listening and take the bell down; works at any time."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None
        if self._socket is not None:
            self.ring(b"")  # takes down the bells of the dead, so that the last one leaves nothing behind
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None
        with suppress(OSError):
            os.unlink(self._file)
        with suppress(OSError):
            os.rmdir(self.directory)

    def _read(self) -> None:
        if self._socket is None:
            return
        for _ in range(64):  # the loop calls again when there is more
            try:
                data = self._socket.recv(MAX_RING)
            except (BlockingIOError, InterruptedError):
                return
            if data:
                self._heard(data)

    def ring(self, data: bytes) -> list[str]:
        """Ring at every other process; return the names of those found dead, whose bells are taken down."""
        dead = []
        for name, target in list(self._neighbours().items()):
            if self._send(target, data) is False:
                dead.append(name)
                self._remove(name)
        return dead

    def alive(self, name: str) -> bool | None:
        """Tell whether the process with this bell lives; None when there is no such bell here or no telling."""
        if name == self.name:
            return True
        target = self._neighbours().get(name)
        answer = None if target is None else self._send(target, b"")
        if answer is False:
            self._remove(name)
        return answer

    def _send(self, target: str | tuple[str, int], data: bytes) -> bool | None:
        try:
            if self._socket is not None:
                self._socket.sendto(data, target)
                return True
            if self._transport is not None:
                self._transport.sendto(data, target)
            return None
        except (BlockingIOError, InterruptedError):
            return True
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return True
            return False if error.errno == errno.ECONNREFUSED else None

    def _remove(self, name: str) -> None:
        self._others.pop(name, None)
        with suppress(OSError):
            os.unlink(os.path.join(self.directory, name + ".sock"))

    def _neighbours(self) -> dict[str, str | tuple[str, int]]:
        """Return name and address of the other bells, from memory while the directory is as it was."""
        try:
            changed = os.stat(self.directory).st_mtime_ns
        except OSError:
            return {}
        if self._listed[0] == changed and self._listed[1] - changed > _SETTLED_NS:
            return self._others
        self._listed = (changed, time.time_ns())
        self._others = dict(self._list())
        return self._others

    def _list(self) -> Iterable[tuple[str, str | tuple[str, int]]]:
        suffix = ".sock" if self._unix else ".port"
        with suppress(OSError), os.scandir(self.directory) as entries:
            for entry in entries:
                name, dot = os.path.splitext(entry.name)
                if dot != suffix or name == self.name:
                    continue
                if self._unix:
                    yield name, entry.path
                    continue
                with suppress(OSError, ValueError), open(entry.path, encoding="ascii") as file:
                    yield name, ("127.0.0.1", int(file.read(8)))

    def __repr__(self) -> str:
        return f"<Doorbell {self._file}>"


async def hung(path: str, name: str, heard: Callable[[bytes], None]) -> Doorbell | None:
    """Return an open doorbell for the file `path`, or None: then users notice each other later, which is logged."""
    bell = Doorbell(path, name, heard)
    try:
        await bell.open()
    except OSError as error:
        bell.close()
        log.warning("no doorbell beside %s (%s): other processes are noticed with delay", path, error)
        return None
    return bell


class _Ear(asyncio.DatagramProtocol):
    def __init__(self, heard: Callable[[bytes], None]) -> None:
        self._heard = heard

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        if data:
            self._heard(data[:MAX_RING])


def _directory(path: str) -> str:
    """Return the directory of a file's bells: beside it, or in the temporary directory when that path is too long for
    a socket. Everyone who has the file at the same path comes to the same answer.
    """
    real = os.path.realpath(path)
    beside = real + ".wake"
    if len(os.fsencode(beside)) + 24 <= _PATH_LIMIT:
        return beside
    digest = hashlib.sha256(os.fsencode(real)).hexdigest()[:16]
    return os.path.join(tempfile.gettempdir(), f"pillion-wake-{digest}")
