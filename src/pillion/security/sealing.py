"""Encryption at rest: one value to its stored form and back (spec `runtime.md` 7.2, `crypto-conversation-mcp.md` 3).

    base64(nonce + ciphertext + tag) || name of the key

AES in Galois/Counter Mode (NIST SP 800-38D) with nonces of 12 bytes and no additional data: the reference reads what is
written here, and the other way round. Values can therefore be swapped between keys of a store by whoever can write to
it. Knows: bytes. Never knows: stores, secrets, where nonces come from.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from functools import cached_property

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from pillion.errors import ComponentError

SEPARATOR = b"||"
NONCE = 12
"""Bytes of a nonce. Random ones are good for 2^32 values under one key (NIST SP 800-38D, 8.3)."""
TAG = 16
SIZES = (16, 24, 32)


class SealError(ComponentError):
    """A stored value cannot be opened."""


@dataclass(frozen=True)
class Key:
    """A key and the name that values carry: the name of the secret it came from."""

    name: str
    secret: bytes = field(repr=False)

    @classmethod
    def from_hex(cls, name: str, text: str) -> Key:
        """Read 16, 24 or 32 bytes in hexadecimal. Raises ValueError."""
        if not name or SEPARATOR.decode() in name:
            raise ValueError(f"failed to extract encryption key: the secret's name {name!r} cannot be kept with values")
        secret = bytes.fromhex(text) if text.isascii() and not any(map(str.isspace, text)) else None
        if secret is None:
            raise ValueError("non-hexadecimal character found")
        if len(secret) not in SIZES:
            raise ValueError(f"failed to extract encryption key: the key has {len(secret)} bytes, not 16, 24 or 32")
        return cls(name, secret)

    @cached_property
    def cipher(self) -> AESGCM:
        return AESGCM(self.secret)


class Sealing:
    """Seals with the primary key; opens with whichever key a value names."""

    def __init__(self, primary: Key, secondary: Key | None = None) -> None:
        self._primary = primary
        self._keys = {key.name.encode(): key for key in (secondary, primary) if key is not None}
        self._tail = SEPARATOR + primary.name.encode()

    def seal(self, value: bytes, nonce: bytes) -> bytes:
        """Return the stored form. `nonce` is 12 bytes that were never used with this key."""
        return base64.b64encode(nonce + self._primary.cipher.encrypt(nonce, value, None)) + self._tail

    def open(self, stored: bytes) -> bytes:
        """Return the value; nothing stands for nothing. Raises `SealError`."""
        if not stored:
            return b""
        text, separator, name = stored.rpartition(SEPARATOR)
        if not separator:
            raise SealError("encryption key name not found on record")
        key = self._keys.get(name)
        if key is None:
            raise SealError(f"the value was encrypted with the key {name.decode(errors='replace')!r}, which is neither")
        try:
            data = binascii.a2b_base64(text, strict_mode=True)
        except binascii.Error as error:
            raise SealError("the value is not base64") from error
        if len(data) < NONCE + TAG:
            raise SealError("the value is too short to be encrypted")
        try:
            return key.cipher.decrypt(data[:NONCE], data[NONCE:], None)
        except InvalidTag as error:
            raise SealError("the value was changed, or encrypted with another key of this name") from error

    def __repr__(self) -> str:
        return f"<Sealing with {self._primary.name}, opens {sorted(name.decode() for name in self._keys)}>"
