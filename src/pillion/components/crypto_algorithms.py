"""The algorithms of local keys: a key, a name and bytes in, bytes out (spec `crypto-conversation-mcp.md` 2).

Knows: RFC 3394, 7518, 8017, 8032, 8439 and XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha). Never knows: names of keys,
what a key may be used for. Only this module and `pillion.wire` import the library `cryptography`.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hashes, keywrap
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.padding import PKCS7

from pillion.errors import ComponentError
from pillion.wire.cryptokeys import KeyFormatError, public_half

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.wire.cryptokeys import Material

Sealed = tuple[bytes, bytes]
"""A ciphertext and its tag."""

UNSUPPORTED = "unsupported algorithm"
MISMATCH = "key type mismatch"
NONCE = "invalid nonce"
TAG = "invalid tag"
FAILED = "decryption failed"


@dataclass(frozen=True, slots=True)
class Symmetric:
    """One symmetric algorithm. Sizes in bytes; a `nonce` of 0 means that what the caller gives is not looked at."""

    key: int
    nonce: int
    tag: int
    seal: Callable[[bytes, bytes, bytes, bytes], Sealed]
    """Key, plaintext, nonce, associated data."""
    open: Callable[[bytes, bytes, bytes, bytes, bytes], bytes]
    """Key, ciphertext, nonce, tag, associated data."""


def encrypt(material: Material, algorithm: str, plaintext: bytes, nonce: bytes, associated: bytes) -> Sealed:
    """Encrypt, or wrap; raises `ComponentError`."""
    if (row := SYMMETRIC.get(algorithm)) is not None:
        key = _symmetric(row, material, nonce)
        try:
            return row.seal(key, plaintext, nonce, associated)
        except (ValueError, OverflowError) as error:
            raise ComponentError(f"the data cannot be encrypted with {algorithm}") from error
    scheme, public = _rsa_padding(algorithm, associated), _public(material)
    if not isinstance(public, rsa.RSAPublicKey):
        raise ComponentError(MISMATCH)
    try:
        return public.encrypt(plaintext, scheme), b""
    except ValueError as error:
        raise ComponentError(f"the data is too long for {algorithm} with this key") from error


def decrypt(
    material: Material, algorithm: str, ciphertext: bytes, nonce: bytes, tag: bytes, associated: bytes
) -> bytes:
    """Decrypt, or unwrap; raises `ComponentError`."""
    if (row := SYMMETRIC.get(algorithm)) is not None:
        key = _symmetric(row, material, nonce)
        if row.tag and len(tag) != row.tag:
            raise ComponentError(TAG)
        try:
            return row.open(key, ciphertext, nonce, tag, associated)
        except (ValueError, InvalidTag, keywrap.InvalidUnwrap) as error:
            raise ComponentError(FAILED) from error
    scheme = _rsa_padding(algorithm, associated)
    if not isinstance(material, rsa.RSAPrivateKey):
        raise ComponentError(MISMATCH)
    try:
        return material.decrypt(ciphertext, scheme)
    except ValueError as error:
        raise ComponentError(FAILED) from error


def sign(material: Material, algorithm: str, digest: bytes) -> bytes:
    """Sign `digest`; raises `ComponentError`."""
    family = _family(algorithm)
    try:
        if family == "EdDSA" and isinstance(material, Ed25519PrivateKey):
            return material.sign(digest)
        if family == "ES" and isinstance(material, ec.EllipticCurvePrivateKey):
            return material.sign(digest, ec.ECDSA(Prehashed(_hash_of_length(digest))))
        if family in ("RS", "PS") and isinstance(material, rsa.RSAPrivateKey):
            given = _hash_of_name(algorithm, digest)
            return material.sign(digest, _signature_padding(family, given, verify=False), Prehashed(given))
    except ValueError as error:
        raise ComponentError(f"the digest cannot be signed with {algorithm} and this key") from error
    raise ComponentError(MISMATCH)


def verify(material: Material, algorithm: str, digest: bytes, signature: bytes) -> bool:
    """Return whether `signature` is one of `digest`; raises `ComponentError` when that cannot be told."""
    family, public = _family(algorithm), _public(material)
    try:
        if family == "EdDSA" and isinstance(public, Ed25519PublicKey):
            public.verify(signature, digest)
        elif family == "ES" and isinstance(public, ec.EllipticCurvePublicKey):
            public.verify(signature, digest, ec.ECDSA(Prehashed(_hash_of_length(digest))))
        elif family in ("RS", "PS") and isinstance(public, rsa.RSAPublicKey):
            given = _hash_of_name(algorithm, digest)
            public.verify(signature, digest, _signature_padding(family, given, verify=True), Prehashed(given))
        else:
            raise ComponentError(MISMATCH)
    except InvalidSignature:
        return False
    return True


def _symmetric(row: Symmetric, material: Material, nonce: bytes) -> bytes:
    if not isinstance(material, bytes) or len(material) != row.key:
        raise ComponentError(MISMATCH)
    if row.nonce and len(nonce) != row.nonce:
        raise ComponentError(NONCE)
    return material


def _public(material: Material) -> object:
    try:
        return public_half(material)
    except KeyFormatError as error:
        raise ComponentError(MISMATCH) from error


# -- RSA and signatures

_HASHES: dict[str, type[hashes.HashAlgorithm]] = {
    "256": hashes.SHA256, "384": hashes.SHA384, "512": hashes.SHA512,
}  # fmt: skip
_BY_LENGTH: dict[int, hashes.HashAlgorithm] = {
    20: hashes.SHA1(), 28: hashes.SHA224(), 32: hashes.SHA256(), 48: hashes.SHA384(), 64: hashes.SHA512(),
}  # fmt: skip
_FAMILIES = {f"{family}{bits}": family for family in ("RS", "PS", "ES") for bits in _HASHES} | {"EdDSA": "EdDSA"}
_OAEP: dict[str, type[hashes.HashAlgorithm]] = {
    "RSA-OAEP": hashes.SHA1, **{f"RSA-OAEP-{bits}": made for bits, made in _HASHES.items()},
}  # fmt: skip


def _rsa_padding(algorithm: str, label: bytes) -> padding.AsymmetricPadding:
    if algorithm == "RSA1_5":
        return padding.PKCS1v15()
    made = _OAEP.get(algorithm)
    if made is None:
        raise ComponentError(UNSUPPORTED)
    return padding.OAEP(padding.MGF1(made()), made(), label or None)


def _family(algorithm: str) -> str:
    family = _FAMILIES.get(algorithm)
    if family is None:
        raise ComponentError(UNSUPPORTED)
    return family


def _hash_of_name(algorithm: str, digest: bytes) -> hashes.HashAlgorithm:
    made = _HASHES[algorithm[2:]]()
    if len(digest) != made.digest_size:
        raise ComponentError(f"the digest for {algorithm} has {made.digest_size} bytes")
    return made


def _hash_of_length(digest: bytes) -> hashes.HashAlgorithm:
    """ECDSA looks at the number that a digest is, not at what made it: any of a known length will do."""
    found = _BY_LENGTH.get(len(digest))
    if found is None:
        raise ComponentError("a digest has 20, 28, 32, 48 or 64 bytes")
    return found


def _signature_padding(family: str, given: hashes.HashAlgorithm, *, verify: bool) -> padding.AsymmetricPadding:
    if family == "RS":
        return padding.PKCS1v15()
    return padding.PSS(padding.MGF1(given), padding.PSS.AUTO if verify else padding.PSS.MAX_LENGTH)


# -- symmetric algorithms


def _cbc_seal(key: bytes, plaintext: bytes, nonce: bytes, associated: bytes) -> Sealed:
    padder = PKCS7(128).padder()
    machine = Cipher(algorithms.AES(key), modes.CBC(nonce)).encryptor()
    return machine.update(padder.update(plaintext) + padder.finalize()) + machine.finalize(), b""


def _cbc_open(key: bytes, ciphertext: bytes, nonce: bytes, tag: bytes, associated: bytes) -> bytes:
    machine = Cipher(algorithms.AES(key), modes.CBC(nonce)).decryptor()
    unpadder = PKCS7(128).unpadder()
    return unpadder.update(machine.update(ciphertext) + machine.finalize()) + unpadder.finalize()


def _cbc_hmac(digest: str, half: int) -> Symmetric:
    """RFC 7518 5.2: the first half of the key is the MAC's; the code covers AAD, IV, ciphertext and the AAD's bits."""

    def code(key: bytes, ciphertext: bytes, nonce: bytes, associated: bytes) -> bytes:
        length = struct.pack(">Q", 8 * len(associated))
        made = hmac.new(key[:half], associated, getattr(hashlib, digest))
        for part in (nonce, ciphertext, length):
            made.update(part)
        return made.digest()[:half]

    def seal(key: bytes, plaintext: bytes, nonce: bytes, associated: bytes) -> Sealed:
        ciphertext, _ = _cbc_seal(key[half:], plaintext, nonce, b"")
        return ciphertext, code(key, ciphertext, nonce, associated)

    def open_(key: bytes, ciphertext: bytes, nonce: bytes, tag: bytes, associated: bytes) -> bytes:
        if not hmac.compare_digest(tag, code(key, ciphertext, nonce, associated)):
            raise InvalidTag
        return _cbc_open(key[half:], ciphertext, nonce, b"", b"")

    return Symmetric(2 * half, 16, half, seal, open_)


def _gcm_seal(key: bytes, plaintext: bytes, nonce: bytes, associated: bytes) -> Sealed:
    return _apart(AESGCM(key).encrypt(nonce, plaintext, associated))


def _gcm_open(key: bytes, ciphertext: bytes, nonce: bytes, tag: bytes, associated: bytes) -> bytes:
    return AESGCM(key).decrypt(nonce, ciphertext + tag, associated)


def _chacha_seal(key: bytes, plaintext: bytes, nonce: bytes, associated: bytes) -> Sealed:
    return _apart(ChaCha20Poly1305(key).encrypt(nonce, plaintext, associated))


def _chacha_open(key: bytes, ciphertext: bytes, nonce: bytes, tag: bytes, associated: bytes) -> bytes:
    return ChaCha20Poly1305(key).decrypt(nonce, ciphertext + tag, associated)


def _xchacha_seal(key: bytes, plaintext: bytes, nonce: bytes, associated: bytes) -> Sealed:
    return _chacha_seal(hchacha20(key, nonce[:16]), plaintext, bytes(4) + nonce[16:], associated)


def _xchacha_open(key: bytes, ciphertext: bytes, nonce: bytes, tag: bytes, associated: bytes) -> bytes:
    return _chacha_open(hchacha20(key, nonce[:16]), ciphertext, bytes(4) + nonce[16:], tag, associated)


def _wrap(key: bytes, plaintext: bytes, nonce: bytes, associated: bytes) -> Sealed:
    return keywrap.aes_key_wrap(key, plaintext), b""


def _unwrap(key: bytes, ciphertext: bytes, nonce: bytes, tag: bytes, associated: bytes) -> bytes:
    return keywrap.aes_key_unwrap(key, ciphertext)


def _apart(sealed: bytes) -> Sealed:
    return sealed[:-16], sealed[-16:]


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """The subkey for an extended nonce (draft-irtf-cfrg-xchacha-03 2.2): `key` 32 bytes, `nonce` 16 bytes."""
    state = [*struct.unpack("<4I", b"expand 32-byte k"), *struct.unpack("<8I", key), *struct.unpack("<4I", nonce)]
    for _ in range(10):
        for column in range(4):
            _quarter(state, column, column + 4, column + 8, column + 12)
        for column in range(4):
            _quarter(state, column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    return struct.pack("<8I", *state[:4], *state[12:])


def _quarter(state: list[int], a: int, b: int, c: int, d: int) -> None:
    for left, right, moved, bits in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
        state[left] = (state[left] + state[right]) & 0xFFFFFFFF
        mixed = state[moved] ^ state[left]
        state[moved] = (mixed << bits | mixed >> 32 - bits) & 0xFFFFFFFF


_BITS = (128, 192, 256)
_XCHACHA = Symmetric(32, 24, 16, _xchacha_seal, _xchacha_open)
_CHACHA = Symmetric(32, 12, 16, _chacha_seal, _chacha_open)
SYMMETRIC: dict[str, Symmetric] = {
    **{f"A{bits}CBC": Symmetric(bits // 8, 16, 0, _cbc_seal, _cbc_open) for bits in _BITS},
    **{f"A{bits}GCM": Symmetric(bits // 8, 12, 16, _gcm_seal, _gcm_open) for bits in _BITS},
    **{f"A{bits}KW": Symmetric(bits // 8, 0, 0, _wrap, _unwrap) for bits in _BITS},
    "A128CBC-HS256": _cbc_hmac("sha256", 16),
    "A192CBC-HS384": _cbc_hmac("sha384", 24),
    "A256CBC-HS512": _cbc_hmac("sha512", 32),
    "C20P": _CHACHA, "C20PKW": _CHACHA, "XC20P": _XCHACHA, "XC20PKW": _XCHACHA,
}  # fmt: skip
