"""Keys as people keep them, and the algorithms' published vectors."""

from __future__ import annotations

import base64
import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization
from hypothesis import given
from hypothesis import strategies as st

from crypto_keys import KEK, ec_key, ed_key, pem, rsa_key, rsa_pem
from pillion.components import crypto_algorithms as algorithms
from pillion.errors import ComponentError
from pillion.wire.cryptokeys import (
    KeyFormatError,
    jwk_of,
    parse_key,
    parse_set,
    pem_of,
    public_half,
    serialized,
    spki,
)

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

ENCODING, PRIVATE, PUBLIC = serialization.Encoding, serialization.PrivateFormat, serialization.PublicFormat
PLAIN = serialization.NoEncryption()


def private(key: PrivateKeyTypes, form: serialization.PrivateFormat) -> bytes:
    return key.private_bytes(ENCODING.PEM, form, PLAIN)


@pytest.mark.parametrize(
    ("text", "material"),
    [
        (b"\x00" * 16, b"\x00" * 16),
        (b"{" + b"x" * 31, b"{" + b"x" * 31),
        (base64.b64encode(KEK), KEK),
        (base64.b64encode(KEK) + b"\n", KEK),
        (base64.b64encode(KEK).rstrip(b"="), KEK),
        (base64.urlsafe_b64encode(b"\xff" * 32), b"\xff" * 32),
        (b"A" * 32, b"\x00" * 24),
        (b"AAAA AAAA AAAA A", b"AAAA AAAA AAAA A"),
        (b"AAAAA", b"AAAAA"),
        (b'{"kty":"oct","k":"AAEC"}  ', b"\x00\x01\x02"),
    ],
)
def test_symmetric_keys(text: bytes, material: bytes) -> None:
    """Base64 where that decodes - 32 letters are 24 bytes -, raw otherwise."""
    assert parse_key(text).material == material


def test_pem() -> None:
    rsa, curve, ed = rsa_key(), ec_key(), ed_key()
    for key in (rsa, curve, ed):
        assert spki(public_half(parse_key(pem(key)).material)) == spki(key.public_key())
    assert isinstance(parse_key(private(rsa, PRIVATE.TraditionalOpenSSL)).material, type(rsa))
    assert isinstance(parse_key(private(curve, PRIVATE.TraditionalOpenSSL)).material, type(curve))
    assert parse_key(rsa.public_key().public_bytes(ENCODING.PEM, PUBLIC.PKCS1)).material == rsa.public_key()
    public = pem_of(spki(rsa.public_key())).encode()
    assert public == rsa.public_key().public_bytes(ENCODING.PEM, PUBLIC.SubjectPublicKeyInfo)
    assert parse_key(b"# a comment\n" + public, "application/x-pem-file").material == rsa.public_key()
    assert parse_key(public + pem(rsa)).material == rsa.public_key(), "the first block counts"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        (b"", ""),
        (b"-----BEGIN X-----\n-----END X-----\n", ""),
        (b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n", ""),
        (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", ""),
        (b"-----BEGIN RSA PRIVATE KEY", ""),
        (rsa_pem(), "application/json"),
        (b"AAAA", "application/pkcs8"),
        (b"AAAA", "application/json"),
        (b"[" * 100_000, "application/json"),
        (rsa_key().private_bytes(ENCODING.PEM, PRIVATE.PKCS8, serialization.BestAvailableEncryption(b"x")), ""),
        (b'{"kty":"none"}', ""),
    ],
)
def test_what_is_no_key(text: bytes, hint: str) -> None:
    with pytest.raises(KeyFormatError) as failure:
        parse_key(text, hint)
    assert "AAAA" not in str(failure.value)


@pytest.mark.parametrize("key", [rsa_key(), ec_key(), ed_key()], ids=["rsa", "ec", "ed25519"])
def test_public_jwks(key: Any) -> None:
    text = jwk_of(spki(key.public_key())).encode()
    assert spki(public_half(parse_key(text).material)) == spki(key.public_key())
    assert list(json.loads(text)) == sorted(json.loads(text))
    assert serialized(parse_key(text)) == spki(key.public_key())
    assert serialized(parse_key(pem(key))) == key.private_bytes(ENCODING.DER, PRIVATE.PKCS8, PLAIN)


BAD: list[dict[str, Any]] = [
    {},
    {"kty": ["oct"]},
    {"kty": "oct", "k": ""},
    {"kty": "oct", "k": 5},
    {"kty": "oct", "k": "*"},
    {"kty": "oct", "k": "AAAA", "key_ops": "encrypt"},
    {"kty": "oct", "k": "AAAA", "key_ops": [1]},
    {"kty": "oct", "k": "AAAA", "use": {}},
    {"kty": "oct", "k": "AAAA", "kid": 5},
    {"kty": "EC", "crv": "P-256", "x": "AQ", "y": "AQ"},
    {"kty": "EC", "crv": [], "x": "AQ", "y": "AQ"},
    {"kty": "EC", "crv": "P-257", "x": "AQ", "y": "AQ"},
    {"kty": "OKP", "crv": "X25519", "x": "AQ"},
    {"kty": "OKP", "crv": "Ed25519", "x": "AQ"},
    {"kty": "RSA", "n": "AQ", "e": "AQ"},
    {"kty": "RSA", "n": "", "e": "AQAB"},
    {"kty": "RSA", "n": "_" * 2000, "e": "AQAB"},
    {"kty": "RSA", "n": "_" * 200_000, "e": "AQAB"},
]


@pytest.mark.parametrize("document", BAD, ids=str)
def test_what_is_no_jwk(document: dict[str, Any]) -> None:
    with pytest.raises(KeyFormatError):
        parse_set(json.dumps(document).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_key_or_an_error(data: bytes) -> None:
    for hint in ("", "application/json", "application/x-pem-file"):
        with suppress(KeyFormatError):
            parse_key(data, hint)


@given(
    st.dictionaries(
        st.sampled_from(["kty", "n", "e", "d", "p", "q", "x", "y", "crv", "k", "kid", "use", "key_ops", "alg", "oth"]),
        st.sampled_from(["oct", "RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", "", "AQ", 1, None, [], {}]),
    )
)
def test_any_document_is_a_set_or_an_error(document: dict[str, Any]) -> None:
    with suppress(KeyFormatError):
        parse_set(json.dumps(document).encode())


def test_uses() -> None:
    key = parse_set(b'{"kty":"oct","k":"AAAA","kid":"a","use":"sig","key_ops":["sign","encrypt"],"alg":"HS256"}')["a"]
    assert [operation for operation in ("sign", "verify", "encrypt", "wrapKey") if key.permits(operation)] == ["sign"]
    assert key.permits_algorithm("HS256")
    assert not key.permits_algorithm("HS384")


def test_a128cbc_hs256() -> None:
    """The specification's vector, and RFC 7518 B.1."""
    sealed, tag = algorithms.encrypt(KEK, "A128CBC-HS256", b"abc", bytes(range(16)), b"hdr")
    assert (sealed.hex(), tag.hex()) == ("23bedad1252bea36db34471499fca400", "90c709eedb689b48a4509f36914b17e5")
    plain = (
        b"A cipher system must not be required to be secret, and it must be able to fall into the hands of the enemy "
        b"without inconvenience"
    )
    nonce = bytes.fromhex("1af38c2dc2b96ffdd86694092341bc04")
    _, tag = algorithms.encrypt(KEK, "A128CBC-HS256", plain, nonce, b"The second principle of Auguste Kerckhoffs")
    assert tag.hex() == "652c3fa36b0a7c5b3219fab3a30bc1c4"


def test_a256kw() -> None:
    """RFC 3394 4.6."""
    key, data = KEK, bytes.fromhex("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f")
    wrapped, _ = algorithms.encrypt(key, "A256KW", data, b"", b"")
    assert wrapped.hex() == "28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21"


def test_xchacha20() -> None:
    """draft-irtf-cfrg-xchacha-03 2.2.1 and A.3.1."""
    subkey = algorithms.hchacha20(KEK, bytes.fromhex("000000090000004a0000000031415927"))
    assert subkey.hex() == "82413b4227b27bfed30e42508a877d73a0f9e4d58a74a853c12ec41326d3ecdc"
    plain = (
        b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen "
        b"would be it."
    )
    key, nonce = bytes(range(0x80, 0xA0)), bytes(range(0x40, 0x58))
    _, tag = algorithms.encrypt(key, "XC20P", plain, nonce, bytes.fromhex("50515253c0c1c2c3c4c5c6c7"))
    assert tag.hex() == "c0875924c1c7987947deafd8780acf49"


@pytest.mark.parametrize("algorithm", sorted(algorithms.SYMMETRIC))
def test_every_symmetric_algorithm(algorithm: str) -> None:
    row = algorithms.SYMMETRIC[algorithm]
    key, nonce = bytes(range(row.key)), bytes(row.nonce)
    sealed, tag = algorithms.encrypt(key, algorithm, bytes(32), nonce, b"aad")
    assert len(tag) == row.tag
    assert algorithms.decrypt(key, algorithm, sealed, nonce, tag, b"aad") == bytes(32)
    if row.tag:
        for wrong in (b"", tag[:-1], tag + b"x"):
            with pytest.raises(ComponentError, match=r"^invalid tag$"):
                algorithms.decrypt(key, algorithm, sealed, nonce, wrong, b"aad")
        with pytest.raises(ComponentError, match=r"^decryption failed$"):
            algorithms.decrypt(key, algorithm, sealed, nonce, bytes(row.tag), b"aad")
    if row.nonce:
        with pytest.raises(ComponentError, match=r"^invalid nonce$"):
            algorithms.encrypt(key, algorithm, b"", nonce + b"x", b"")
    for other in (key[1:], rsa_key(), ec_key().public_key()):
        with pytest.raises(ComponentError, match=r"^key type mismatch$"):
            algorithms.encrypt(other, algorithm, b"", nonce, b"")


def test_oaep_labels_are_the_associated_data() -> None:
    for algorithm in ("RSA-OAEP", "RSA-OAEP-256", "RSA-OAEP-384", "RSA-OAEP-512"):
        sealed, _ = algorithms.encrypt(rsa_key(), algorithm, b"x", b"", b"label")
        assert algorithms.decrypt(rsa_key(), algorithm, sealed, b"", b"", b"label") == b"x"
        with pytest.raises(ComponentError, match=r"^decryption failed$"):
            algorithms.decrypt(rsa_key(), algorithm, sealed, b"", b"", b"")


def test_curves_and_digests_need_not_match() -> None:
    for size in (20, 28, 32, 48, 64):
        signature = algorithms.sign(ec_key(), "ES512", bytes(size))
        assert algorithms.verify(ec_key(), "ES256", bytes(size), signature)
    with pytest.raises(ComponentError, match=re.escape("a digest has 20, 28, 32, 48 or 64 bytes")):
        algorithms.sign(ec_key(), "ES256", b"short")
