"""Host and port as one text: `10.0.0.1:50002`, `[fe80::1]:50002`."""

from __future__ import annotations


def join_host_port(host: str, port: int) -> str:
    """Return `host:port`, an IPv6 host in brackets (RFC 3986 section 3.2.2)."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
