"""Listening: TCP on several addresses, and socket files.

Knows: binding, retrying while an address is still taken, stale socket files. Never knows: what is spoken on them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Sequence

    Factory = Callable[[], asyncio.BaseProtocol]

log = logging.getLogger("pillion.net.listen")

BACKLOG = 1024
_FIRST_WAIT_S = 0.1
_LONGEST_WAIT_S = 0.5
_STALE_CHECK_S = 1.0


class CannotListen(Exception):
    """No address could be bound; the text names them and what stood in the way."""


class Doors:
    """What one owner listens on, each place under a name of its own, kept for the owner's successor.

    After `keep_open` a listener that is closed leaves its socket behind: whoever connects waits in the kernel's queue
    until the successor listens under the same name. It listens where the first one did, and its port is the same.
    """

    def __init__(self) -> None:
        self._open: dict[str, Listeners] = {}
        self._kept: dict[str, list[socket.socket]] = {}

    def opened(self, name: str, listeners: Listeners) -> Listeners:
        """Remember what is listened on under `name`; return it."""
        self._open[name] = listeners
        return listeners

    def keep_open(self) -> None:
        """Keep the sockets of all listeners beyond their closing."""
        for name, listeners in self._open.items():
            self._kept[name] = listeners.duplicates()
        self._open.clear()

    async def again(self, name: str, factory: Factory) -> Listeners | None:
        """Listen on what was kept under `name`, None when nothing was."""
        kept = self._kept.pop(name, None)
        if kept is None:
            return None
        loop = asyncio.get_running_loop()
        listeners = Listeners()
        for bound in kept:
            if bound.family == socket.AF_UNIX:
                path = Path(bound.getsockname())
                listeners._servers.append(await loop.create_unix_server(factory, sock=bound, backlog=BACKLOG))
                listeners.paths.append(path)
                listeners._inodes.append(_inode(path))
            else:
                host, port, *_ = bound.getsockname()
                listeners._servers.append(await loop.create_server(factory, sock=bound, backlog=BACKLOG))
                listeners.addresses.append((host, port))
        return self.opened(name, listeners)

    def close(self) -> None:
        """Close what was kept and not listened on again; socket files are left to the next one who comes."""
        for kept in self._kept.values():
            for bound in kept:
                bound.close()
        self._kept.clear()


@dataclass(slots=True)
class Listeners:
    """What is listened on. `addresses` are the bound host and port pairs; `paths` the socket files."""

    addresses: list[tuple[str, int]] = field(default_factory=list)
    paths: list[Path] = field(default_factory=list)
    _servers: list[asyncio.AbstractServer] = field(default_factory=list, repr=False)
    _inodes: list[int] = field(default_factory=list, repr=False)

    @property
    def port(self) -> int:
        """The port all addresses share."""
        return self.addresses[0][1]

    def duplicates(self) -> list[socket.socket]:
        """Return the sockets as further handles, which outlive `close`; socket files stay then."""
        self.paths.clear()
        self._inodes.clear()
        return [
            socket.fromfd(each.fileno(), each.family, socket.SOCK_STREAM)
            for server in self._servers
            for each in getattr(server, "sockets", ())
        ]

    def close(self) -> None:
        """Stop accepting and remove socket files. Connections go on; their server closes them."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        for path, inode in zip(self.paths, self._inodes, strict=True):
            with contextlib.suppress(FileNotFoundError):
                if path.lstat().st_ino == inode:  # not another's that took the place
                    path.unlink()
        self.paths.clear()
        self._inodes.clear()


async def tcp(
    factory: Factory,
    addresses: Sequence[str],
    port: int,
    *,
    tls: ssl.SSLContext | None = None,
    retry_s: float = 10.0,
    backlog: int = BACKLOG,
) -> Listeners:
    """Listen on `port` of each address; `""` is every interface, IPv6 and IPv4.

    Binding is tried for `retry_s` seconds. An address that cannot be bound is left out with a warning;
    `CannotListen` is raised when none can. With port 0 the first address gets a free port and the others the same.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + retry_s
    listeners = Listeners()
    failures: list[str] = []
    try:
        for address in addresses:
            try:
                bound = await _bind(address, port, deadline)
            except OSError as error:
                failures.append(f"{address or '*'}:{port}: {error.strerror or error}")
                log.warning("cannot listen on %s", failures[-1])
                continue
            try:
                server = await loop.create_server(factory, sock=bound, ssl=tls, backlog=backlog)
            except BaseException:
                bound.close()
                raise
            name = bound.getsockname()
            port = name[1]
            listeners.addresses.append((name[0], port))
            listeners._servers.append(server)
    except BaseException:
        listeners.close()
        raise
    if not listeners.addresses:
        raise CannotListen("could not listen on any endpoint: " + "; ".join(failures))
    return listeners


async def _bind(address: str, port: int, deadline: float) -> socket.socket:
    """Return a bound socket; waits 100 to 500 ms between attempts while somebody else has the address."""
    loop = asyncio.get_running_loop()
    wait_s = _FIRST_WAIT_S
    while True:
        try:
            if not address:
                return _bind_everywhere(port)
            return await _bind_one(address, port)
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EADDRNOTAVAIL) or loop.time() + wait_s > deadline:
                raise
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 1.5, _LONGEST_WAIT_S)


def _bind_everywhere(port: int) -> socket.socket:
    """Bind all interfaces with one socket for both IP versions, or for IPv4 where there is no IPv6."""
    if socket.has_dualstack_ipv6():
        try:
            return _bound(socket.AF_INET6, ("::", port))
        except OSError as error:
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
    return _bound(socket.AF_INET, ("0.0.0.0", port))


async def _bind_one(address: str, port: int) -> socket.socket:
    found = await asyncio.get_running_loop().getaddrinfo(
        address.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    # A name such as `localhost` means its IPv4 address where it has both: that is what clients try first.
    family, _, _, _, target = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    return _bound(family, target)


def _bound(family: int, target: tuple[Any, ...]) -> socket.socket:
    bound = socket.socket(family, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        if os.name == "posix":  # elsewhere the option lets two processes share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(target[0] != "::"))
        bound.bind(target)
    except BaseException:
        bound.close()
        raise
    return bound


async def unix(factory: Factory, path: Path, *, mode: int = 0o660, backlog: int = BACKLOG) -> Listeners:
    """Listen on a socket file with permissions `mode`. A file that a dead process left behind is replaced.

    Raises `CannotListen` when a living process listens there, or something that is no socket is in the way.
    """
    loop = asyncio.get_running_loop()
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        bound.setblocking(False)
        if _is_socket(path):
            await _remove_stale(path)
        inode = _bind_path(bound, path, mode)
        server = await loop.create_unix_server(factory, sock=bound, backlog=backlog)
    except BaseException:
        bound.close()
        raise
    return Listeners(paths=[path], _servers=[server], _inodes=[inode])


def _inode(path: Path) -> int:
    return path.lstat().st_ino


def _is_socket(path: Path) -> bool:
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(found.st_mode):
        raise CannotListen(f"cannot listen on {path}: a file that is no socket is in the way")
    return True


async def _remove_stale(path: Path) -> None:
    """Remove a socket file unless somebody answers on it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            async with asyncio.timeout(_STALE_CHECK_S):
                await asyncio.get_running_loop().sock_connect(probe, str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            os.unlink(path)
            return
        except OSError as error:
            raise CannotListen(f"cannot listen on {path}: {error.strerror or error}") from error
    raise CannotListen(f"cannot listen on {path}: another process listens there")


def _bind_path(bound: socket.socket, path: Path, mode: int) -> int:
    """Bind and set the permissions, before `listen` lets anybody in; return the inode, by which the file is known."""
    try:
        bound.bind(str(path))
        path.chmod(mode)
        return _inode(path)
    except OSError as error:
        raise CannotListen(f"cannot listen on {path}: {error.strerror or error}") from error
