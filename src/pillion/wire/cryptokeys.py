"""Keys as people keep them: JWK, PEM, raw bytes, base64 (spec `crypto-conversation-mcp.md` 2).

Knows: those formats (RFC 7517, 7518, 8037, 7468) and what a JWK says about its use. Never knows: where keys come from.
Needs the library `cryptography`; only what works with keys imports this module.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field
from typing import Any

import orjson
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | Ed25519PrivateKey
Public = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | Ed25519PublicKey
Material = bytes | PrivateKey | Public

MOST_RSA_BITS = 8192
"""One private operation with such a key takes 30 ms; the reference has no bound."""
_FAILURES = (ValueError, TypeError, KeyError, UnsupportedAlgorithm, OverflowError)
_CURVES: dict[str, ec.EllipticCurve] = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)
_PRIVATE = (b"RSA PRIVATE KEY", b"EC PRIVATE KEY", b"PRIVATE KEY")
_PUBLIC = (b"RSA PUBLIC KEY", b"PUBLIC KEY")
_USES = {
    "enc": frozenset({"encrypt", "decrypt", "wrapKey", "unwrapKey"}),
    "sig": frozenset({"sign", "verify"}),
}


class KeyFormatError(Exception):
    """The text is no key of the kind it should be. Never quotes the text."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key and what its JWK allows; other formats allow everything."""

    material: Material = field(repr=False)
    kid: str = ""
    operations: tuple[str, ...] = ()
    use: str = ""
    algorithm: str = ""

    def permits(self, operation: str) -> bool:
        """Whether `key_ops` and `use` allow `operation`; absent, they allow all (RFC 7517 4.2 and 4.3)."""
        if self.operations and operation not in self.operations:
            return False
        return operation in _USES[self.use] if self.use in _USES else not self.use

    def permits_algorithm(self, algorithm: str) -> bool:
        return self.algorithm in ("", algorithm)


def parse_key(text: bytes, hint: str = "") -> Key:
    """Read one key. `hint` is a media type, "" to go by the looks of it; raises `KeyFormatError`.

    Symmetric keys are base64 where that decodes, raw otherwise: 32 letters are 24 bytes, as in the reference.
    """
    if not text:
        raise KeyFormatError("key is empty")
    if hint == "application/json":
        return parse_jwk(text)
    if hint in ("application/x-pem-file", "application/pkcs8"):
        return Key(_checked(_pem(text)))
    if text[:1] == b"{" and len(text) not in (16, 24, 32):
        return parse_jwk(text)
    if len(text) > 10 and text.startswith(b"-----"):
        return Key(_checked(_pem(text)))
    return Key(_symmetric(text))


def _symmetric(text: bytes) -> bytes:
    bare = text.replace(b"\r", b"").replace(b"\n", b"").rstrip(b"=")
    if len(bare) % 4 == 1:
        return text
    for letters in (b"+/", b"-_"):
        try:
            return base64.b64decode(bare + b"=" * (-len(bare) % 4), altchars=letters, validate=True)
        except binascii.Error:
            continue
    return text


def _pem(text: bytes) -> Material:
    block = _BLOCK.search(text)
    if block is None:
        raise KeyFormatError("not PEM")
    label, body = block[1], block[0] + b"\n"
    try:
        if label in _PRIVATE:
            return _known(serialization.load_pem_private_key(body, None))
        if label in _PUBLIC:
            return _known(serialization.load_pem_public_key(body))
        if label == b"CERTIFICATE":
            return _known(x509.load_pem_x509_certificate(body).public_key())
    except _FAILURES as error:
        raise KeyFormatError(f"the PEM block {label.decode()} holds no key that can be used") from error
    raise KeyFormatError(f"the PEM block {label.decode()} is no key")


def _known(key: object) -> Material:
    if isinstance(key, (PrivateKey, Public)):
        return key
    raise KeyFormatError("keys are RSA, elliptic curve, Ed25519 or symmetric")


def _checked(material: Material) -> Material:
    if isinstance(material, (rsa.RSAPrivateKey, rsa.RSAPublicKey)) and material.key_size > MOST_RSA_BITS:
        raise KeyFormatError(f"RSA keys have at most {MOST_RSA_BITS} bits")
    return material


def parse_jwk(text: bytes) -> Key:
    """Read one JWK; raises `KeyFormatError`."""
    return _jwk(_document(text))


def parse_set(text: bytes) -> dict[str, Key]:
    """Read a JWK set, or one JWK as a set of one, by `kid`: the first of a name counts, keys without one are checked
    and cannot be asked for. One bad key fails the set. Raises `KeyFormatError`.
    """
    document = _document(text)
    keys = document.get("keys") if "keys" in document else [document]
    if not isinstance(keys, list):
        raise KeyFormatError("the member keys is not a list")
    found: dict[str, Key] = {}
    for number, item in enumerate(keys):
        if not isinstance(item, dict):
            raise KeyFormatError(f"key {number} is not a JSON object")
        try:
            key = _jwk(item)
        except KeyFormatError as error:
            raise KeyFormatError(f"key {number}: {error}") from error
        found.setdefault(key.kid, key)
    found.pop("", None)
    return found


def _document(text: bytes) -> dict[str, Any]:
    try:
        document = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise KeyFormatError("not JSON") from error
    if not isinstance(document, dict):
        raise KeyFormatError("not a JSON object")
    return document


def _jwk(document: dict[str, Any]) -> Key:
    operations = document.get("key_ops", [])
    if not isinstance(operations, list):
        raise KeyFormatError("key_ops is not a list")
    texts = [document.get(name, "") for name in ("kid", "use", "alg")]
    if not all(isinstance(text, str) for text in (*operations, *texts)):
        raise KeyFormatError("kid, use, alg and the members of key_ops are texts")
    kid, use, algorithm = texts
    kind = document.get("kty")
    make = {"oct": _oct, "RSA": _rsa, "EC": _ec, "OKP": _okp}.get(kind) if isinstance(kind, str) else None
    if make is None:
        raise KeyFormatError("kty is not one of oct, RSA, EC, OKP")
    try:
        material = make(document)
    except _FAILURES as error:
        raise KeyFormatError(f"the members of the {kind} key do not make a key") from error
    return Key(_checked(material), kid, tuple(operations), use, algorithm)


def _octets(document: dict[str, Any], name: str) -> bytes:
    """A base64url member (RFC 7515 2); raises ValueError and KeyError."""
    text = document[name]
    if not isinstance(text, str):
        raise ValueError(f"{name} is not a text")
    bare = text.rstrip("=")
    return base64.b64decode(bare + "=" * (-len(bare) % 4), altchars=b"-_", validate=True)


def _number(document: dict[str, Any], name: str) -> int:
    data = _octets(document, name)
    if not data or len(data) > 2 * MOST_RSA_BITS // 8:
        raise ValueError(f"{name} is out of range")
    return int.from_bytes(data, "big")


def _oct(document: dict[str, Any]) -> Material:
    key = _octets(document, "k")
    if not key:
        raise ValueError("k is empty")
    return key


def _rsa(document: dict[str, Any]) -> Material:
    public = rsa.RSAPublicNumbers(_number(document, "e"), _number(document, "n"))
    if public.n.bit_length() > MOST_RSA_BITS:
        raise KeyFormatError(f"RSA keys have at most {MOST_RSA_BITS} bits")
    if "d" not in document:
        return public.public_key()
    if "oth" in document:
        raise ValueError("more than two primes")
    d = _number(document, "d")
    if "p" in document:
        p, q = _number(document, "p"), _number(document, "q")
    else:
        p, q = rsa.rsa_recover_prime_factors(public.n, public.e, d)
    derived = rsa.rsa_crt_dmp1(d, p), rsa.rsa_crt_dmq1(d, q), rsa.rsa_crt_iqmp(p, q)
    return rsa.RSAPrivateNumbers(p, q, d, *derived, public).private_key()


def _ec(document: dict[str, Any]) -> Material:
    x, y = _number(document, "x"), _number(document, "y")
    public = ec.EllipticCurvePublicNumbers(x, y, _CURVES[document["crv"]])
    if "d" not in document:
        return public.public_key()
    return ec.EllipticCurvePrivateNumbers(_number(document, "d"), public).private_key()


def _okp(document: dict[str, Any]) -> Material:
    if document["crv"] != "Ed25519":
        raise ValueError("the curve is not Ed25519")
    public = Ed25519PublicKey.from_public_bytes(_octets(document, "x"))
    if "d" not in document:
        return public
    private = Ed25519PrivateKey.from_private_bytes(_octets(document, "d"))
    if private.public_key() != public:
        raise ValueError("x and d are not of one key")
    return private


def public_half(material: Material) -> Public:
    """Return the public half of an asymmetric key; raises `KeyFormatError` for a symmetric one."""
    if isinstance(material, bytes):
        raise KeyFormatError("a symmetric key has no public part")
    return material.public_key() if isinstance(material, PrivateKey) else material


def spki(key: Public) -> bytes:
    """Return DER of the SubjectPublicKeyInfo."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def serialized(key: Key) -> bytes:
    """Return what is wrapped of a key: raw bytes, PKCS #8 DER of a private key, PKIX DER of a public one."""
    material = key.material
    if isinstance(material, bytes):
        return material
    if isinstance(material, PrivateKey):
        return material.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    return spki(material)


def pem_of(public: bytes) -> str:
    """Return the PEM form of a SubjectPublicKeyInfo."""
    text = base64.b64encode(public).decode()
    lines = [text[at : at + 64] for at in range(0, len(text), 64)]
    return "\n".join(("-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----", ""))


def jwk_of(public: bytes) -> str:
    """Return the JWK of a SubjectPublicKeyInfo; raises `KeyFormatError`."""
    try:
        key = _known(serialization.load_der_public_key(public))
    except _FAILURES as error:
        raise KeyFormatError("not a public key") from error
    members: dict[str, str]
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        members = {"kty": "RSA", "n": _url(_minimal(numbers.n)), "e": _url(_minimal(numbers.e))}
    elif isinstance(key, ec.EllipticCurvePublicKey):
        name = next((name for name, curve in _CURVES.items() if curve.name == key.curve.name), "")
        if not name:
            raise KeyFormatError(f"the curve {key.curve.name} has no name in a JWK")
        size, point = -(-key.curve.key_size // 8), key.public_numbers()
        x, y = point.x.to_bytes(size, "big"), point.y.to_bytes(size, "big")
        members = {"kty": "EC", "crv": name, "x": _url(x), "y": _url(y)}
    else:
        assert isinstance(key, Ed25519PublicKey)
        members = {"kty": "OKP", "crv": "Ed25519", "x": _url(key.public_bytes_raw())}
    return orjson.dumps(members, option=orjson.OPT_SORT_KEYS).decode()


def _minimal(number: int) -> bytes:
    return number.to_bytes(-(-number.bit_length() // 8), "big")


def _url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
