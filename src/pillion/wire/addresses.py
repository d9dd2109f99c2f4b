"""Host and port as one text: `10.0.0.1:50002`, `[fe80::1]:50002`."""

from __future__ import annotations


def join_host_port(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 host in brackets (RFC 3986 section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def split_host_port(text: str, port: int) -> tuple[str, int]:
    """Return host, without brackets, and port; `port` where the text has none. Raises ValueError."""
    host, colon, last = text.rpartition(":")
    if not colon or text.endswith("]"):
        host, last = text, str(port)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} is no host:port: brackets around an IPv6 address are missing")
    if not host or any(character <= " " or character in "/[]@" for character in host):
        raise ValueError(f"{text!r} has no host")
    if not (last.isascii() and last.isdigit() and 0 < int(last) < 65536):
        raise ValueError(f"{text!r} has no port between 1 and 65535")
    return host, int(last)
