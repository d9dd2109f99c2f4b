"""What providers with keys of their own at hand have in common: each only says how a name becomes a key.

Knows: what a key may be used for, which work is too long for the event loop. Never knows: where keys are kept.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from pillion.components import crypto_algorithms as algorithms
from pillion.errors import ComponentError
from pillion.kinds.crypto import PublicKey
from pillion.wire.cryptokeys import Key, KeyFormatError, public_half, spki

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
LONG = 256 << 10
"""Bytes from which an operation goes to a thread: below, the slowest takes under a millisecond."""
THREADS = 2


class KeyedProvider:
    """A `CryptoProvider` over `find`. Work with asymmetric keys and long data runs on a pool of threads."""

    features: frozenset[str] = frozenset()

    def __init__(self, name: str) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix=f"crypto {name}")
        self._closed = False

    async def find(self, name: str) -> Key:
        """Return a key; raises `ComponentError`."""
        raise NotImplementedError

    async def close(self) -> None:
        """Take no more work for the threads; what they have is finished."""
        self._closed = True
        self._pool.shutdown(wait=False)

    async def get_key(self, key: str) -> PublicKey:
        found = await self.find(key)
        try:
            return PublicKey(key, spki(public_half(found.material)))
        except KeyFormatError as error:
            raise ComponentError(str(error)) from error

    async def encrypt(
        self, plaintext: bytes, algorithm: str, key: str, nonce: bytes, associated_data: bytes
    ) -> tuple[bytes, bytes]:
        return await self._seal("encrypt", plaintext, algorithm, key, nonce, associated_data)

    async def decrypt(
        self, ciphertext: bytes, algorithm: str, key: str, nonce: bytes, tag: bytes, associated_data: bytes
    ) -> bytes:
        return await self._unseal("decrypt", ciphertext, algorithm, key, nonce, tag, associated_data)

    async def wrap_key(
        self, plaintext_key: bytes, algorithm: str, key: str, nonce: bytes, associated_data: bytes
    ) -> tuple[bytes, bytes]:
        return await self._seal("wrapKey", plaintext_key, algorithm, key, nonce, associated_data)

    async def unwrap_key(
        self, wrapped_key: bytes, algorithm: str, key: str, nonce: bytes, tag: bytes, associated_data: bytes
    ) -> bytes:
        return await self._unseal("unwrapKey", wrapped_key, algorithm, key, nonce, tag, associated_data)

    async def sign(self, digest: bytes, algorithm: str, key: str) -> bytes:
        found = await self._allowed(key, "sign", algorithm)
        return await self._run(found, len(digest), partial(algorithms.sign, found.material, algorithm, digest))

    async def verify(self, digest: bytes, signature: bytes, algorithm: str, key: str) -> bool:
        found = await self._allowed(key, "verify", algorithm)
        work = partial(algorithms.verify, found.material, algorithm, digest, signature)
        return await self._run(found, len(digest), work)

    async def _seal(
        self, use: str, data: bytes, algorithm: str, key: str, nonce: bytes, associated_data: bytes
    ) -> tuple[bytes, bytes]:
        found = await self._allowed(key, use, algorithm)
        work = partial(algorithms.encrypt, found.material, algorithm, data, nonce, associated_data)
        return await self._run(found, len(data) + len(associated_data), work)

    async def _unseal(
        self, use: str, data: bytes, algorithm: str, key: str, nonce: bytes, tag: bytes, associated_data: bytes
    ) -> bytes:
        found = await self._allowed(key, use, algorithm)
        work = partial(algorithms.decrypt, found.material, algorithm, data, nonce, tag, associated_data)
        return await self._run(found, len(data) + len(associated_data), work)

    async def _allowed(self, name: str, operation: str, algorithm: str) -> Key:
        found = await self.find(name)
        if not found.permits(operation):
            raise ComponentError(f"the key {name} cannot be used for the operation {operation}")
        if not found.permits_algorithm(algorithm):
            raise ComponentError(f"the key {name} cannot be used with the algorithm {algorithm}")
        return found

    async def _run(self, key: Key, size: int, work: Callable[[], T]) -> T:
        if isinstance(key.material, bytes) and size < LONG:
            return work()
        if self._closed:
            raise ComponentError("the component is closed")
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)
