"""TLS contexts from PEM texts.

Knows: versions, verification, ALPN. Never knows: where the texts come from, identities (see `pillion.security`).
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HTTP1 = ("http/1.1",)
HTTP2 = ("h2",)
BOTH = ("h2", "http/1.1")


def server_context(
    certificate_pem: str, key_pem: str, *, client_ca_pem: str | None = None, alpn: Sequence[str] = BOTH
) -> ssl.SSLContext:
    """Return a server's context, TLS 1.2 or later. With `client_ca_pem` clients must show a certificate of that CA.

    Raises `ssl.SSLError` for texts that are no certificate chain and its key.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _load_chain(context, certificate_pem, key_pem)
    if client_ca_pem is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(cadata=client_ca_pem)
    context.set_alpn_protocols(list(alpn))
    return context


def unverified_client_context(*, alpn: Sequence[str] = HTTP1) -> ssl.SSLContext:
    """Return a client's context that accepts any certificate, TLS 1.2 or later: for an application on loopback."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(alpn))
    return context


def client_context(
    *,
    ca_pem: str | None = None,
    certificate_pem: str | None = None,
    key_pem: str | None = None,
    check_hostname: bool = True,
    alpn: Sequence[str] = HTTP1,
) -> ssl.SSLContext:
    """Return a client's context that verifies the server against `ca_pem`, or the machine's own CAs when it is None.

    `certificate_pem` and `key_pem` are shown to servers that ask. `check_hostname=False` is for peers that are verified
    by another name than a host's, such as a SPIFFE id: the caller checks it. Raises `ssl.SSLError` for unusable texts.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = check_hostname
    if ca_pem is None:
        context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    else:
        context.load_verify_locations(cadata=ca_pem)
    if certificate_pem is not None and key_pem is not None:
        _load_chain(context, certificate_pem, key_pem)
    elif certificate_pem is not None or key_pem is not None:
        raise ValueError("a client certificate and its key come together")
    context.set_alpn_protocols(list(alpn))
    return context


def _load_chain(context: ssl.SSLContext, certificate_pem: str, key_pem: str) -> None:
    """Load a chain with its key. The library reads files only: this one is private and gone when the call returns."""
    import tempfile  # 3 ms that most processes do without

    with tempfile.TemporaryDirectory() as folder:  # created with mode 0700
        path = Path(folder) / "chain.pem"
        path.write_text(f"{certificate_pem}\n{key_pem}\n", encoding="ascii")
        context.load_cert_chain(path)
