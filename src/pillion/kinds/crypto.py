"""Cryptography providers: keys that have names, and what is done with them (spec `components.md` 8).

Nonces are always the caller's and tags travel apart from the ciphertext. Algorithms have the names of RFC 7518 and its
kin, in exact case (spec `crypto-conversation-mcp.md` 2). A provider need not know all of them.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pillion.kinds.component import Component
from pillion.records import record


@record
class PublicKey:
    """The public half of a key: DER of its SubjectPublicKeyInfo (RFC 5280 4.1), and the name it was asked by."""

    name: str
    spki: bytes


@runtime_checkable
class CryptoProvider(Component, Protocol):
    """Every method but `verify` raises `ComponentError` for keys, algorithms and data that it cannot use."""

    features: frozenset[str]

    async def get_key(self, key: str) -> PublicKey:
        """Return the public half of an asymmetric key."""
        ...

    async def encrypt(
        self, plaintext: bytes, algorithm: str, key: str, nonce: bytes, associated_data: bytes
    ) -> tuple[bytes, bytes]:
        """Return the ciphertext and the tag, which is empty for algorithms without one."""
        ...

    async def decrypt(
        self, ciphertext: bytes, algorithm: str, key: str, nonce: bytes, tag: bytes, associated_data: bytes
    ) -> bytes: ...

    async def wrap_key(
        self, plaintext_key: bytes, algorithm: str, key: str, nonce: bytes, associated_data: bytes
    ) -> tuple[bytes, bytes]:
        """Encrypt a key, given as raw bytes; return the wrapped key and the tag."""
        ...

    async def unwrap_key(
        self, wrapped_key: bytes, algorithm: str, key: str, nonce: bytes, tag: bytes, associated_data: bytes
    ) -> bytes: ...

    async def sign(self, digest: bytes, algorithm: str, key: str) -> bytes:
        """Sign a digest that the caller has made; for EdDSA, the message itself."""
        ...

    async def verify(self, digest: bytes, signature: bytes, algorithm: str, key: str) -> bool:
        """Return whether the signature is right; raises `ComponentError` when that cannot be told."""
        ...
