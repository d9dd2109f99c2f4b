"""The encrypted document `dapr.io/enc/v1`: a header of three lines, then sealed segments of 64 KiB.

Machines of bytes to bytes, both ways; keys, random numbers and the wrapping of the file key are the caller's.
Knows: the format (spec `crypto-conversation-mcp.md` 1). Never knows: components, sockets. The ciphers come from
the library `cryptography`, imported when the first document is made or read: a sidecar without documents does without.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from enum import IntEnum
from typing import Protocol

import orjson

from pillion.records import record
from pillion.wire.gojson import escaped

SCHEME = b"dapr.io/enc/v1"
SEGMENT = 65536
"""Bytes of plaintext in every segment but the last, which has 1 to that many."""
TAG = 16
KEY = 32
"""Bytes of the file key and of what is derived from it."""
PREFIX = 7
"""Bytes of the nonce that are the document's; the segment's number and the last-segment flag follow."""
MOST_HEADER = 65536
MOST_SEGMENTS = 1 << 32


class SchemeError(ValueError):
    """The document, or what is asked for one, is not of the scheme. The text is shown to callers."""


class Wrap(IntEnum):
    """How the file key is wrapped: `kw` of the manifest."""

    A256KW = 1
    A128CBC_NOPAD = 2
    A192CBC_NOPAD = 3
    A256CBC_NOPAD = 4
    RSA_OAEP_256 = 5

    @property
    def algorithm(self) -> str:
        """The name under which providers know it."""
        return self.name.replace("_", "-")

    @classmethod
    def named(cls, name: str) -> Wrap:
        """Return the one that a request means, in any case; raises `SchemeError`."""
        wanted = name.upper()
        wanted = {"AES": "A256KW", "RSA": "RSA-OAEP-256"}.get(wanted, wanted)
        found = next((each for each in cls if each.algorithm == wanted), None)
        if found is None:
            raise SchemeError(f"option Algorithm is not valid: algorithm {wanted} is not supported")
        return found


class Cipher(IntEnum):
    """What seals the segments: `cph` of the manifest."""

    AES_GCM = 1
    CHACHA20_POLY1305 = 2

    @classmethod
    def named(cls, name: str) -> Cipher:
        """Return the one that a request means, in any case, AES-GCM for none; raises `SchemeError`."""
        wanted = name.upper() or "AES-GCM"
        found = next((each for each in cls if each.name.replace("_", "-") == wanted), None)
        if found is None:
            raise SchemeError(f"option Cipher is not valid: cipher {wanted} is not supported")
        return found


@record
class Manifest:
    """The second line. `key` is the name for decryption, "" for none; `wrapped` the wrapped file key."""

    key: str
    wrap: Wrap
    wrapped: bytes
    cipher: Cipher
    prefix: bytes

    def render(self) -> bytes:
        """Return the line, without its end, byte for byte as the reference writes it."""
        fields: dict[str, object] = {"k": self.key} if self.key else {}
        fields |= {
            "kw": int(self.wrap), "wfk": base64.b64encode(self.wrapped).decode(),
            "cph": int(self.cipher), "np": base64.b64encode(self.prefix).decode(),
        }  # fmt: skip
        return escaped(orjson.dumps(fields))

    @classmethod
    def parse(cls, line: bytes) -> Manifest:
        """Read the line: names in any case, unknown ones ignored. Raises `SchemeError`."""
        try:
            document = orjson.loads(line)
            fields = {name.lower(): value for name, value in document.items()}
            key = fields.get("k")
            found = cls(
                "" if key is None else key,
                Wrap(_integer(fields["kw"])),
                base64.b64decode(fields["wfk"], validate=True),
                Cipher(_integer(fields["cph"])),
                base64.b64decode(fields["np"], validate=True),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise SchemeError("invalid header: invalid manifest") from error
        if not isinstance(found.key, str) or not found.wrapped or len(found.prefix) != PREFIX:
            raise SchemeError("invalid header: invalid manifest")
        return found


def _integer(value: object) -> int:
    if type(value) is not int:
        raise TypeError("not an integer")
    return value


@record
class Header:
    """A header as it was read. `signed` is what its code covers: the raw bytes of the first two lines."""

    manifest: Manifest
    signed: bytes
    code: bytes
    """The third line: base64 of the authentication code, not checked yet."""
    rest: bytes
    """What arrived behind the header."""


class HeaderReader:
    """Takes a document from its beginning until its header is whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._lines: list[bytes] = []
        self._start = 0
        self._searched = 0

    def feed(self, data: bytes) -> Header | None:
        """Return the header once its three lines are there. Raises `SchemeError`."""
        buffer = self._buffer
        buffer += data
        while len(self._lines) < 3:
            end = buffer.find(b"\n", self._searched, MOST_HEADER)
            if end < 0:
                self._searched = min(len(buffer), MOST_HEADER)
                if len(buffer) >= MOST_HEADER:
                    self.finish()
                return None
            self._line(bytes(buffer[self._start : end]))
            self._start = self._searched = end + 1
        scheme, manifest, code = self._lines
        signed = b"%b\n%b\n" % (scheme, manifest)
        return Header(Manifest.parse(manifest), signed, code, bytes(buffer[self._start :]))

    def _line(self, line: bytes) -> None:
        if not line:
            raise SchemeError("invalid header: invalid format")
        if not self._lines and line != SCHEME:
            raise SchemeError("invalid header: unsupported scheme")
        self._lines.append(line)

    def finish(self) -> None:
        """The document ends, or its header has become too long: raises what is missing."""
        missing = ("scheme name", "manifest", "message authentication code")[len(self._lines)]
        raise SchemeError(f"invalid header: {missing} not found")

    def __repr__(self) -> str:
        return f"<HeaderReader: {len(self._lines)} of 3 lines, {len(self._buffer)} bytes>"


class _Aead(Protocol):
    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes: ...


class _Segments:
    """Cuts a stream into pieces of `size`, holding one back until it is known whether it is the last."""

    def __init__(self, manifest: Manifest, file_key: bytes, size: int) -> None:
        self._prefix = manifest.prefix
        self._aead = _aead(manifest.cipher, derive(file_key, salt=manifest.prefix, info=b"payload"))
        self._size = size
        self._buffer = bytearray()
        self.number = 0
        """The segment that comes next."""

    def feed(self, data: bytes) -> bytes:
        """Take the next bytes of the input and return those of the output that are settled. Raises `SchemeError`."""
        buffer, size = self._buffer, self._size
        buffer += data
        if len(buffer) <= size:
            return b""
        pieces, start = [], 0
        with memoryview(buffer) as view:
            while len(buffer) - start > size:
                pieces.append(self._next(bytes(view[start : start + size]), last=False))
                start += size
        del buffer[:start]
        return b"".join(pieces)

    def finish(self) -> bytes:
        """The input has ended: return the rest of the output. Raises `SchemeError`."""
        last, self._buffer = bytes(self._buffer), bytearray()
        return self._next(last, last=True) if last else b""

    def _next(self, piece: bytes, *, last: bool) -> bytes:
        if self.number >= MOST_SEGMENTS:
            raise SchemeError("input stream is too large")
        nonce = self._prefix + self.number.to_bytes(4, "big") + (b"\x01" if last else b"\x00")
        done = self._transform(nonce, piece)
        self.number += 1
        return done

    def _transform(self, nonce: bytes, piece: bytes) -> bytes:
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.number} segments, {len(self._buffer)} bytes wait>"


class Encryptor(_Segments):
    """Plaintext in, a document out. `file_key` is 32 random bytes of this document's own. Raises `SchemeError`."""

    def __init__(self, manifest: Manifest, file_key: bytes) -> None:
        super().__init__(manifest, file_key, SEGMENT)
        signed = b"%b\n%b\n" % (SCHEME, manifest.render())
        self.header = signed + base64.b64encode(_code(file_key, signed)) + b"\n"
        """The header; it goes before what `feed` and `finish` return."""
        if len(self.header) > MOST_HEADER:
            raise SchemeError("failed to sign header: header is too long")

    def _transform(self, nonce: bytes, piece: bytes) -> bytes:
        return self._aead.encrypt(nonce, piece, None)


class Decryptor(_Segments):
    """What follows a header in - `header.rest` first -, plaintext out."""

    def __init__(self, header: Header, file_key: bytes) -> None:
        """Check the header's code under `file_key`; 32 zero bytes stand for a key that could not be unwrapped, so that
        a caller cannot tell a wrong key from a forged header. Raises `SchemeError`.
        """
        try:
            base64.b64decode(header.code, validate=True)
        except binascii.Error as error:
            raise SchemeError(f"failed to decode header's signature: {error}") from error
        # In base64 form, so that no other spelling of the same code passes.
        if not hmac.compare_digest(header.code, base64.b64encode(_code(file_key, header.signed))):
            raise SchemeError("failed to validate the document's signature")
        super().__init__(header.manifest, file_key, SEGMENT + TAG)

    def _transform(self, nonce: bytes, piece: bytes) -> bytes:
        from cryptography.exceptions import InvalidTag

        try:
            return self._aead.decrypt(nonce, piece, None)
        except InvalidTag as error:
            raise SchemeError(f"error processing segment {self.number}: failed to decrypt segment") from error


def derive(key: bytes, *, salt: bytes, info: bytes) -> bytes:
    """HKDF-SHA-256 with 32 bytes of output (RFC 5869): one block of the expansion. An empty salt is 32 zero bytes."""
    secret = hmac.digest(salt or bytes(32), key, hashlib.sha256)
    return hmac.digest(secret, info + b"\x01", hashlib.sha256)


def _code(file_key: bytes, signed: bytes) -> bytes:
    return hmac.digest(derive(file_key, salt=b"", info=b"header"), signed, hashlib.sha256)


def _aead(cipher: Cipher, key: bytes) -> _Aead:
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

    return AESGCM(key) if cipher is Cipher.AES_GCM else ChaCha20Poly1305(key)
