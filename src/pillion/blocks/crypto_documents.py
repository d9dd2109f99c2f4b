"""Documents on their way: a stream of plaintext or ciphertext in, the other out, one key of a provider around it.

Knows: when a document's beginning is settled, how much work the event loop bears at once. Never knows: requests.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from typing import TYPE_CHECKING, Any, Protocol

from pillion.errors import ComponentError, MissingExtra
from pillion.records import record
from pillion.wire import encscheme
from pillion.wire.encscheme import Cipher, Decryptor, Encryptor, HeaderReader, Manifest, SchemeError, Wrap

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Iterator

    from pillion.kinds.crypto import CryptoProvider

log = logging.getLogger("pillion.blocks.crypto")

SLICE = 1 << 20
"""Bytes that are encrypted or decrypted before the event loop is asked for others: 0.2 to 0.4 ms of work.
The library holds the interpreter meanwhile, so that threads would not help.
"""


class Timed(Protocol):
    """Awaits the wrapping or unwrapping of a file key, and counts it."""

    def __call__(self, work: Awaitable[Any]) -> Awaitable[Any]: ...


@record
class Wanted:
    """What a caller wants of a new document."""

    key: str
    algorithm: str
    cipher: str = ""
    decryption_key: str = ""
    omit_key: bool = False


async def encrypted(
    provider: CryptoProvider, wanted: Wanted, source: AsyncIterator[bytes], timed: Timed
) -> AsyncGenerator[bytes, None]:
    """Return the document made of `source`, whose header is settled. Raises `SchemeError`; iterating does too."""
    wrap, cipher = Wrap.named(wanted.algorithm), Cipher.named(wanted.cipher)
    file_key, prefix = secrets.token_bytes(encscheme.KEY), secrets.token_bytes(encscheme.PREFIX)
    try:
        wrapped, _ = await timed(provider.wrap_key(file_key, wrap.algorithm, wanted.key, b"", b""))
    except ComponentError as error:
        raise SchemeError(f"failed to wrap the file key: {error}") from error
    name = "" if wanted.omit_key else wanted.decryption_key or wanted.key
    machine = _made(Encryptor, Manifest(name, wrap, wrapped, cipher, prefix), file_key)
    return _through(machine, machine.header, b"", source)


async def decrypted(
    provider: CryptoProvider, key: str, source: AsyncIterator[bytes], timed: Timed
) -> AsyncGenerator[bytes, None]:
    """Return the plaintext of the document in `source`, whose header is checked; `key` overrides the document's.

    Raises `SchemeError`; iterating does too. A key that cannot be unwrapped looks like a forged header.
    """
    reader = HeaderReader()
    async for piece in source:
        if (header := reader.feed(piece)) is not None:
            break
    else:
        reader.finish()
        raise AssertionError("a header that is not whole has been refused")
    manifest = header.manifest
    name = key or manifest.key
    if not name:
        raise SchemeError("document's manifest does not contain a key name, and no key name was provided")
    try:
        file_key = await timed(provider.unwrap_key(manifest.wrapped, manifest.wrap.algorithm, name, b"", b"", b""))
    except ComponentError as error:
        log.info("the file key of a document could not be unwrapped with %s: %s", name, error)
        file_key = b""
    machine = _made(Decryptor, header, file_key if len(file_key) == encscheme.KEY else bytes(encscheme.KEY))
    return _through(machine, b"", header.rest, source)


def _made(kind: Any, *values: Any) -> Any:
    try:
        return kind(*values)
    except ModuleNotFoundError as error:
        raise ComponentError(str(MissingExtra("encryption", "crypto"))) from error


async def _through(
    machine: Encryptor | Decryptor, first: bytes, rest: bytes, source: AsyncIterator[bytes]
) -> AsyncGenerator[bytes, None]:
    """Yield the output of `machine`: `first` as it is, then what becomes of `rest` and `source`."""
    if first:
        yield first
    for part in _slices(rest):
        if done := machine.feed(part):
            yield done
    async for piece in source:
        for number, part in enumerate(_slices(piece)):
            if number:
                await asyncio.sleep(0)  # others have their turn
            if done := machine.feed(part):
                yield done
    if done := machine.finish():
        yield done


def _slices(data: bytes) -> Iterator[bytes]:
    if len(data) <= SLICE:
        yield data
        return
    for at in range(0, len(data), SLICE):
        yield data[at : at + SLICE]
