"""Where this sidecar can be reached: the host's address and the stable internal port (spec `runtime.md` 1.2, 1.3).

Knows: which address is the better one to tell others. The functions without an underscore that touch sockets say so.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
import struct
import sys
from typing import TYPE_CHECKING

from pillion.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pillion.sidecar.environment import Environment

_FIRST_PORT, _PORTS = 47300, 18235
_PROBES = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))
"""Documentation addresses (RFC 5737, RFC 3849): connecting a UDP socket sends nothing, it only asks for a route."""
_DUMMY = ipaddress.ip_network("192.0.0.0/29")
"""Source addresses of IPv6-only hosts that translate (RFC 7335): nobody else can reach them."""
_CARRIER = ipaddress.ip_network("100.64.0.0/10")
_UNIQUE_LOCAL = ipaddress.ip_network("fc00::/7")

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def stable_port(app_id: str, folder: str, user: int, host: str) -> int:
    """Return the port a sidecar keeps over restarts: derived from who and where it is, 47300 to 65534."""
    digest = hashlib.sha256(f"{app_id}|{folder}|{user}|{host}".encode()).digest()
    return _FIRST_PORT + (digest[0] + digest[1] * 256) % _PORTS


def internal_port(app_id: str, wanted: int = 0) -> int:
    """Return `wanted`, else the stable port if it can be bound now, else one that is free now. Binds and lets go."""
    if wanted:
        return wanted
    user = os.getuid() if hasattr(os, "getuid") else -1
    port = stable_port(app_id, os.getcwd(), user, socket.gethostname())
    try:
        return _bindable(port)
    except OSError:
        return _bindable(0)


def _bindable(port: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", port))
        number: int = probe.getsockname()[1]
        return number


def host_address(environment: Environment) -> str:
    """Return this host's address, without brackets. Raises `ConfigError` when there is none. Asks the kernel."""
    if environment.host_ip:
        return environment.host_ip
    for family, target in _PROBES:
        address = _source(family, target)
        if address is not None and address not in _DUMMY and not address.is_unspecified:
            return str(address)
    best = preferred(_interfaces())
    if best is None:
        raise ConfigError(
            "could not determine host IP address", mend="set DAPR_HOST_IP to the address others can reach"
        )
    return str(best)


def _source(family: socket.AddressFamily, target: str) -> Address | None:
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 80))
            return ipaddress.ip_address(probe.getsockname()[0].partition("%")[0])
    except OSError:
        return None


def preferred(addresses: Iterable[Address]) -> Address | None:
    """Return the address most likely to be reachable: public IPv4, global IPv6, private IPv4, unique local IPv6,
    link-local; loopback and the like never. The first of equals wins.
    """
    ranked = [(rank, order, a) for order, a in enumerate(addresses) if (rank := _rank(a)) is not None]
    return min(ranked)[2] if ranked else None


def _rank(address: Address) -> int | None:
    if address.is_loopback or address.is_unspecified or address.is_multicast or address in _DUMMY:
        return None
    if address.is_link_local:
        return 4
    if address.version == 4:
        return 2 if address.is_private or address in _CARRIER else 0
    return 3 if address in _UNIQUE_LOCAL else 1


def _interfaces() -> list[Address]:
    """All addresses of the interfaces where the platform tells (Linux), else those of the host's own name."""
    return [*_linux_ipv4(), *_linux_ipv6()] if sys.platform == "linux" else _of_own_name()


def _of_own_name() -> list[Address]:
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        return []
    return [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]


def _linux_ipv4() -> list[Address]:
    import fcntl

    found: list[Address] = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        for _, name in socket.if_nameindex():
            try:
                answer = fcntl.ioctl(control, 0x8915, struct.pack("256s", name.encode()[:15]))  # SIOCGIFADDR
            except OSError:
                continue
            found.append(ipaddress.IPv4Address(answer[20:24]))
    return found


def _linux_ipv6() -> list[Address]:
    try:
        with open("/proc/net/if_inet6", encoding="ascii") as table:
            return [ipaddress.IPv6Address(bytes.fromhex(line.split()[0])) for line in table if line.strip()]
    except OSError:
        return []
