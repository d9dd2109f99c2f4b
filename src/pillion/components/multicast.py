"""Sockets for multicast DNS: port 5353 shared with other programs, every interface, IPv4 and IPv6.

Knows: group addresses, membership and outgoing interfaces of each platform. Never knows: DNS.

Loopback is joined like any other interface, so two sidecars on a machine without a network hear each other. Interfaces
come and go (VPN, Wi-Fi): they are looked at again with every message that is sent.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from pillion.errors import ComponentError

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger("pillion.components.mdns")

PORT = 5353
GROUP_4 = "224.0.0.251"
GROUP_6 = "ff02::fb"
MAX_DATAGRAM = 9000


class Multicast:
    """`heard(data, source_port)` is called for each datagram, on the loop."""

    def __init__(self, heard: Callable[[bytes, int], None]) -> None:
        self._heard = heard
        self._sockets: list[tuple[socket.socket, set[int]]] = []
        self._transports: list[asyncio.DatagramTransport] = []

    async def open(self) -> None:
        """Bind both families, or the one there is; raises `ComponentError` when there is neither."""
        troubles: list[str] = []
        loop = asyncio.get_running_loop()
        for family in (socket.AF_INET, socket.AF_INET6):
            try:
                bound = _bind(family)
            except OSError as error:
                troubles.append(f"{family.name}: {error.strerror or error}")
                continue
            transport, _ = await loop.create_datagram_endpoint(lambda: _Ear(self._heard), sock=bound)
            self._transports.append(transport)
            self._sockets.append((bound, set()))
        if not self._sockets:
            raise ComponentError(f"mDNS: UDP port {PORT} cannot be used: {'; '.join(troubles)}")
        self._join()

    def close(self) -> None:
        for transport in self._transports:
            transport.close()
        self._transports, self._sockets = [], []

    def send(self, data: bytes) -> bool:
        """Send to the group on every interface; True when at least one took it."""
        self._join()
        sent = False
        for one, joined in self._sockets:
            for index in list(joined):
                try:
                    _send(one, index, data)
                    sent = True
                except OSError as error:
                    if error.errno in (errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL):
                        joined.discard(index)  # the interface has gone; joined again when it is back
                    log.debug("mDNS: sending on interface %d failed: %s", index, error)
        return sent

    def _join(self) -> None:
        try:
            present = {index for index, _ in socket.if_nameindex()}
        except OSError as error:
            log.debug("mDNS: interfaces cannot be listed: %s", error)
            return
        for one, joined in self._sockets:
            joined &= present
            for index in present - joined:
                with suppress(OSError):  # an interface without an address of this family
                    _membership(one, index)
                    joined.add(index)

    def __repr__(self) -> str:
        return f"<Multicast on interfaces {[sorted(joined) for _, joined in self._sockets]}>"


class _Ear(asyncio.DatagramProtocol):
    def __init__(self, heard: Callable[[bytes, int], None]) -> None:
        self._heard = heard

    def datagram_received(self, data: bytes, addr: tuple[str | object, int]) -> None:
        self._heard(data, addr[1])

    def error_received(self, exc: Exception) -> None:
        log.debug("mDNS: %s", exc)


def _bind(family: socket.AddressFamily) -> socket.socket:
    one = socket.socket(family, socket.SOCK_DGRAM)
    try:
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET:
            one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)  # RFC 6762 section 11
            one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_LOOP, 1)
            one.bind(("", PORT))
        else:
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 1)
            one.bind(("::", PORT))
    except BaseException:
        one.close()
        raise
    return one


def _interface_4(index: int) -> bytes:
    """What names an interface to the IPv4 options: `ip_mreqn`'s end on POSIX, `0.x.x.x` on Windows."""
    return struct.pack("!I", index) if os.name == "nt" else socket.inet_aton("0.0.0.0") + struct.pack("@i", index)


def _membership(one: socket.socket, index: int) -> None:
    if one.family == socket.AF_INET:
        request = socket.inet_aton(GROUP_4) + _interface_4(index)
        one.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
    else:
        request = socket.inet_pton(socket.AF_INET6, GROUP_6) + struct.pack("@I", index)
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)


def _send(one: socket.socket, index: int, data: bytes) -> None:
    if one.family == socket.AF_INET:
        head = b"" if os.name == "nt" else socket.inet_aton("0.0.0.0")
        one.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, head + _interface_4(index))
        one.sendto(data, (GROUP_4, PORT))
    else:
        one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, struct.pack("@I", index))
        one.sendto(data, (GROUP_6, PORT, 0, index))
