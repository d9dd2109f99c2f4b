"""The contract of cryptography providers as a test class: subclass it, say how to make one, let pytest collect it.

    class TestMyVault(CryptoKit):
        @contextlib.asynccontextmanager
        async def provider(self):
            yield MyVault(MyVault.Settings(...), Context("mine"))      # not yet opened

The provider holds the keys that `symmetric`, `rsa`, `ec` and `ed25519` name; "" says that it has none of that kind.
Needs nothing of pytest but its collecting of classes and functions.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.testing.lifecycle import closes_at_any_time

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Mapping
    from contextlib import AbstractAsyncContextManager

    from pillion.kinds.crypto import CryptoProvider

CIPHERS = {"A256CBC": 16, "A256GCM": 12, "A128CBC-HS256": 16, "C20P": 12, "XC20P": 24, "C20PKW": 12, "XC20PKW": 24}
DIGESTS = {"256": hashlib.sha256, "384": hashlib.sha384, "512": hashlib.sha512}


class CryptoKit:
    """What every provider must do with the keys it has."""

    symmetric: str = "symmetric"
    """A key of 32 bytes."""
    rsa: str = "rsa"
    """A private key of 2048 bits or more."""
    ec: str = "ec"
    """A private key of P-256."""
    ed25519: str = "ed25519"
    """A private key."""
    ciphers: Mapping[str, int] = CIPHERS
    """Algorithms of `encrypt` for a symmetric key of 32 bytes, and the length of their nonces."""
    wraps: tuple[str, ...] = ("A256KW",)
    rsa_ciphers: tuple[str, ...] = ("RSA1_5", "RSA-OAEP", "RSA-OAEP-256", "RSA-OAEP-384", "RSA-OAEP-512")

    def provider(self) -> AbstractAsyncContextManager[CryptoProvider]:
        """Return a context manager that gives a provider not yet opened; the kit opens and closes it."""
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[CryptoProvider]:
        async with self.provider() as provider:
            try:
                await provider.open()
                yield provider
            finally:
                await provider.close()

    def test_symmetric_round_trips(self) -> None:
        """What is encrypted is decrypted, of any length; nothing that was changed is, where there is a tag."""

        async def run() -> None:
            async with self.opened() as provider:
                for algorithm, size in self.ciphers.items() if self.symmetric else ():
                    nonce = os.urandom(size)
                    for plain in (b"", b"x", b"sixteen bytes ok", os.urandom(300_000)):
                        sealed, tag = await provider.encrypt(plain, algorithm, self.symmetric, nonce, b"with")
                        opened = await provider.decrypt(sealed, algorithm, self.symmetric, nonce, tag, b"with")
                        assert opened == plain, algorithm
                    if tag:
                        for wrong, other in (
                            (changed(tag), b"with"),
                            (tag, b"other"),
                            (tag[1:], b"with"),
                            (b"", b"with"),
                        ):
                            await refused(provider.decrypt(sealed, algorithm, self.symmetric, nonce, wrong, other))

        asyncio.run(run())

    def test_wrapping(self) -> None:
        """Keys are wrapped and unwrapped as raw bytes; ragged ones are errors, never a crash."""

        async def run() -> None:
            async with self.opened() as provider:
                for algorithm in self.wraps if self.symmetric else ():
                    key = os.urandom(32)
                    wrapped, tag = await provider.wrap_key(key, algorithm, self.symmetric, b"", b"")
                    assert wrapped != key
                    assert await provider.unwrap_key(wrapped, algorithm, self.symmetric, b"", tag, b"") == key
                    for wrong in (b"", b"short", wrapped[:-1], wrapped[:-8], bytes(len(wrapped))):
                        await refused(provider.unwrap_key(wrong, algorithm, self.symmetric, b"", tag, b""))
                    await refused(provider.wrap_key(b"odd length", algorithm, self.symmetric, b"", b""))

        asyncio.run(run())

    def test_rsa(self) -> None:
        """RSA encrypts and wraps with each padding; data longer than the key can carry is an error."""

        async def run() -> None:
            async with self.opened() as provider:
                for algorithm in self.rsa_ciphers if self.rsa else ():
                    sealed, tag = await provider.encrypt(b"secret", algorithm, self.rsa, b"", b"")
                    assert tag == b""
                    assert await provider.decrypt(sealed, algorithm, self.rsa, b"", b"", b"") == b"secret"
                    wrapped, _ = await provider.wrap_key(bytes(32), algorithm, self.rsa, b"", b"")
                    assert await provider.unwrap_key(wrapped, algorithm, self.rsa, b"", b"", b"") == bytes(32)
                    await refused(provider.encrypt(bytes(2000), algorithm, self.rsa, b"", b""))

        asyncio.run(run())

    def test_signatures(self) -> None:
        """A signature of a digest is verified; of another digest, or changed, it is not - without an error."""

        async def run() -> None:
            async with self.opened() as provider:
                rows = [(f"{family}{bits}", self.rsa, bits) for family in ("RS", "PS") for bits in DIGESTS]
                rows += [("ES256", self.ec, "256"), ("EdDSA", self.ed25519, "512")]
                for algorithm, key, bits in rows:
                    if not key:
                        continue
                    digest, other = (DIGESTS[bits](text).digest() for text in (b"this", b"that"))
                    signature = await provider.sign(digest, algorithm, key)
                    assert await provider.verify(digest, signature, algorithm, key) is True, algorithm
                    assert await provider.verify(other, signature, algorithm, key) is False
                    assert await provider.verify(digest, changed(signature), algorithm, key) is False
                    assert await provider.verify(digest, b"", algorithm, key) is False

        asyncio.run(run())

    def test_public_keys(self) -> None:
        """The public half of an asymmetric key can be had, under the name it was asked by; of no other."""

        async def run() -> None:
            async with self.opened() as provider:
                for key in (self.rsa, self.ec, self.ed25519):
                    if key:
                        found = await provider.get_key(key)
                        assert found.name == key
                        assert found.spki[:1] == b"\x30", "a DER sequence"
                if self.symmetric:
                    await refused(provider.get_key(self.symmetric))
                await refused(provider.get_key("there is no such key"))

        asyncio.run(run())

    def test_what_cannot_be(self) -> None:
        """Unknown keys and algorithms, keys of the wrong kind and nonces of the wrong length are errors."""

        async def run() -> None:
            async with self.opened() as provider:
                await refused(provider.encrypt(b"x", "A256GCM", "there is no such key", bytes(12), b""))
                for key in filter(None, (self.symmetric, self.rsa)):
                    for algorithm in ("", "a256gcm", "HS256", "A256CBC-NOPAD", "A256GCMKW", "ECDH-ES"):
                        await refused(provider.encrypt(b"x" * 16, algorithm, key, bytes(12), b""))
                        await refused(provider.wrap_key(bytes(32), algorithm, key, bytes(12), b""))
                        await refused(provider.sign(bytes(32), algorithm, key))
                if self.symmetric:
                    for size in (0, 11, 13, 16):
                        await refused(provider.encrypt(b"x", "A256GCM", self.symmetric, bytes(size), b""))
                    await refused(provider.encrypt(b"x", "A128GCM", self.symmetric, bytes(12), b""))
                    await refused(provider.encrypt(b"x", "RSA-OAEP", self.symmetric, b"", b""))
                    await refused(provider.sign(bytes(32), "RS256", self.symmetric))
                    await refused(provider.verify(bytes(32), b"x", "RS256", self.symmetric))
                if self.rsa:
                    await refused(provider.encrypt(b"x", "A256GCM", self.rsa, bytes(12), b""))
                    await refused(provider.sign(bytes(31), "RS256", self.rsa))
                    await refused(provider.sign(bytes(32), "ES256", self.rsa))

        asyncio.run(run())

    def test_many_at_once(self) -> None:
        """Operations do not mix."""

        async def run() -> None:
            async with self.opened() as provider:

                async def one(number: int) -> None:
                    plain = b"%d" % number * 20_000
                    key, algorithm, nonce = self.symmetric, "A256GCM", os.urandom(12)
                    sealed, tag = await provider.encrypt(plain, algorithm, key, nonce, b"")
                    assert await provider.decrypt(sealed, algorithm, key, nonce, tag, b"") == plain

                if self.symmetric:
                    await asyncio.gather(*(one(number) for number in range(20)))

        asyncio.run(run())

    def test_close_works_at_any_time(self) -> None:
        """`close` without `open`, and twice after it; `ping` answers in between."""
        asyncio.run(closes_at_any_time(self.provider))


def changed(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1])


async def refused(work: Awaitable[object]) -> None:
    """Assert that `work` ends with a `ComponentError` that says something."""
    said = ""
    with suppress(ComponentError):
        try:
            result = await work
        except ComponentError as error:
            said = str(error)
            raise
        raise AssertionError(f"was not refused: {result!r}")
    assert said
