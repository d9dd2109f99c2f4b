"""The encrypted document `dapr.io/enc/v1`: the specification's vectors, round trips, tampering, bounds."""

from __future__ import annotations

import base64
import hashlib
import re
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.keywrap import aes_key_wrap
from hypothesis import given, settings
from hypothesis import strategies as st

from pillion.wire.encscheme import (
    MOST_HEADER,
    SEGMENT,
    TAG,
    Cipher,
    Decryptor,
    Encryptor,
    HeaderReader,
    Manifest,
    SchemeError,
    Wrap,
    derive,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

KEK = bytes(range(32))
FILE_KEY = bytes(range(0x40, 0x60))
PREFIX = bytes(range(0xA0, 0xA7))
WRAPPED = aes_key_wrap(KEK, FILE_KEY)


def manifest(cipher: Cipher = Cipher.AES_GCM, key: str = "mykey") -> Manifest:
    return Manifest(key, Wrap.A256KW, WRAPPED, cipher, PREFIX)


def encrypt(pieces: Iterable[bytes], of: Manifest | None = None) -> bytes:
    machine = Encryptor(of or manifest(), FILE_KEY)
    return machine.header + b"".join([machine.feed(piece) for piece in pieces]) + machine.finish()


def decrypt(pieces: Iterable[bytes], file_key: bytes = FILE_KEY) -> bytes:
    reader, out = HeaderReader(), b""
    machine: Decryptor | None = None
    for piece in pieces:
        if machine is not None:
            out += machine.feed(piece)
        elif (header := reader.feed(piece)) is not None:
            machine = Decryptor(header, file_key)
            out += machine.feed(header.rest)
    if machine is None:
        reader.finish()
        raise AssertionError("finish raises")
    return out + machine.finish()


def long(size: int) -> bytes:
    return bytes(n % 251 for n in range(size))


DOCUMENT = encrypt([b"abc"])


def test_the_keys_of_the_vectors() -> None:
    assert WRAPPED.hex() == "bd2a276ae8c7464c7e8b396674ac6e0e9558c84c6009b3fa413cf06a67a200823e4d720df2419fa9"
    header, payload = derive(FILE_KEY, salt=b"", info=b"header"), derive(FILE_KEY, salt=PREFIX, info=b"payload")
    assert header.hex() == "6ad6001189c58522c70d39c90ebfa86f2686d2ec41758df967b8d3a1f5c5ebf2"
    assert payload.hex() == "b90a4e357890993b6d153d2e9dd250c80b05a4fe70e9020c8f91a454b38f14c0"


def test_the_short_vectors() -> None:
    one = (
        b'dapr.io/enc/v1\n{"k":"mykey","kw":1,"wfk":"vSonaujHRkx+izlmdKxuDpVYyExgCbP6QTzwameiAII+TXIN8kGfqQ==",'
        b'"cph":1,"np":"oKGio6Slpg=="}\n4UI9jTlXpt9bqReDcTwqpqnuOfexvCAnyy6rhjMtNrI=\n'
    )
    assert one + bytes.fromhex("82144db0aefd0423c018a569920c84a4ec1bfa") == DOCUMENT
    two = encrypt([b"abc"], manifest(Cipher.CHACHA20_POLY1305))
    assert two.split(b"\n", 2)[2] == b"wRDozj6brMamvQHCbrqrtvXWR96x1lA2VH9jMiG3V5A=\n" + bytes.fromhex(
        "11e5dedcd6fb452484566a1c692d9dacd9e42e"
    )
    without = encrypt([], manifest(key="")).split(b"\n")
    assert without[1].startswith(b'{"kw":1,')
    assert without[2] == b"PSv04NrG/SbEDNdevcSNUsGMv9Y1kUZI/6BsJix6VP0="


@pytest.mark.parametrize(
    ("plain", "size", "cipher", "digest"),
    [
        (b"", 174, 1, "3a97b7d8d7f168b067f1444e0d43da847f903061cde5f6a3484c5e6d64f037d2"),
        (b"abc", 193, 1, "adfddebcf61e88716f58cdff7422934654031e342f778278dfdb939a4feee2af"),
        (long(65536), 65726, 1, "4e93cf8c47a943c2af633026a96d8b1022b6bfa5b7e5048d97c79055eb734380"),
        (long(65537), 65743, 1, "9313521185161f0cc6f0d81b8f33762a07e18b5c136debf76fcb4c8e779ea359"),
        (long(65537), 65743, 2, "923a54c767201c441c68716443391e7f4836b306cffa8cb8d47a049bd0a2f3b3"),
    ],
)
def test_the_digests_of_whole_documents(plain: bytes, size: int, cipher: int, digest: str) -> None:
    document = encrypt([plain], manifest(Cipher(cipher)))
    assert len(document) == size
    assert hashlib.sha256(document).hexdigest() == digest
    assert decrypt([document]) == plain


SIZES = st.sampled_from([0, 1, 65535, 65536, 65537, 131072, 131073]) | st.integers(0, 200_000)


@settings(max_examples=40, deadline=None)
@given(
    size=SIZES,
    cuts=st.lists(st.integers(0, 210_000), max_size=8),
    key=st.text(max_size=50),
    cipher=st.sampled_from(Cipher),
)
def test_round_trips_however_the_stream_is_cut(size: int, cuts: list[int], key: str, cipher: Cipher) -> None:
    plain = long(size)
    of = manifest(cipher, key)
    document = encrypt(cut(plain, cuts), of)
    assert document == encrypt([plain], of)
    assert len(document) == len(Encryptor(of, FILE_KEY).header) + size + TAG * -(-size // SEGMENT)
    assert decrypt(cut(document, cuts)) == plain
    header = HeaderReader().feed(document)
    assert header is not None
    assert header.manifest == of


def cut(data: bytes, at: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(place, len(data)) for place in at), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


def test_byte_by_byte() -> None:
    assert decrypt([bytes([one]) for one in DOCUMENT]) == b"abc"


@pytest.mark.parametrize("bit", range(8))
def test_every_flipped_bit_is_noticed(bit: int) -> None:
    for place in range(len(DOCUMENT)):
        changed = bytearray(DOCUMENT)
        changed[place] ^= 1 << bit
        with pytest.raises(SchemeError):
            decrypt([bytes(changed)])


@given(st.binary(max_size=300))
def test_other_bytes_are_no_document(data: bytes) -> None:
    with pytest.raises(SchemeError):
        decrypt([data])


@given(st.binary(max_size=300))
def test_other_bytes_are_no_manifest(data: bytes) -> None:
    with pytest.raises(SchemeError, match=r"invalid (header: (invalid (manifest|format))|header)|failed to"):
        decrypt([b"dapr.io/enc/v1\n" + data + b"\nAAAA\n"])


def test_segments_cannot_be_reordered_dropped_or_cut() -> None:
    document = encrypt([long(3 * SEGMENT)])
    start, full = 174, SEGMENT + TAG
    header, body = document[:start], document[start:]
    one, two, three = body[:full], body[full : 2 * full], body[2 * full :]
    for forged in (two + one + three, one + three, one + two, body[:-1], body + b"x", one + two + two, two + three):
        with pytest.raises(SchemeError, match=r"error processing segment [0-3]: failed to decrypt segment"):
            decrypt([header + forged])
    assert decrypt([header]) == b"", "a cut behind the header is a valid empty document"


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (b"", "scheme name not found"),
        (b"dapr.io/enc/v1", "scheme name not found"),
        (b"dapr.io/enc/v2\n", "unsupported scheme"),
        (b"\n", "invalid format"),
        (b"dapr.io/enc/v1\n", "manifest not found"),
        (b"dapr.io/enc/v1\n\n", "invalid format"),
        (b"dapr.io/enc/v1\n{}", "manifest not found"),
        (b"dapr.io/enc/v1\n{}\n", "message authentication code not found"),
        (b"dapr.io/enc/v1\n{}\n\n", "invalid format"),
        (b"dapr.io/enc/v1\n{}\nAAAA\n", "invalid manifest"),
        (b"dapr.io/enc/v1\n" + b"x" * MOST_HEADER + b"\nAAAA\n", "manifest not found"),
        (b"x" * MOST_HEADER, "scheme name not found"),
        (b"dapr.io/enc/v1\n{}\n" + b"A" * MOST_HEADER, "message authentication code not found"),
    ],
)
def test_what_is_no_header(document: bytes, text: str) -> None:
    with pytest.raises(SchemeError, match=rf"^invalid header: {text}$"):
        decrypt([document])


@pytest.mark.parametrize(
    ("pattern", "instead"),
    [
        (b'"kw":1', b'"kw":6'),
        (b'"kw":1', b'"kw":true'),
        (b'"kw":1', b'"kw":1.0'),
        (b'"kw":1,', b""),
        (b'"cph":1', b'"cph":0'),
        (b'"np":"[^"]*"', b'"np":"AAAA"'),
        (b'"np":"[^"]*"', b'"np":7'),
        (b'"wfk":"[^"]*"', b'"wfk":""'),
        (b'"wfk":"[^"]*"', b'"wfk":"*"'),
        (b'"k":"mykey"', b'"k":5'),
        (b"}\n", b"}x\n"),
    ],
)
def test_what_is_no_manifest(pattern: bytes, instead: bytes) -> None:
    with pytest.raises(SchemeError, match=r"^invalid header: invalid manifest$"):
        decrypt([re.sub(pattern, instead, DOCUMENT, count=1)])


def test_manifests_are_read_leniently_but_signed_as_they_are() -> None:
    """Names in any case and unknown members are fine; the code covers the raw bytes."""
    line = manifest().render().replace(b'"kw"', b'"KW"').replace(b"}", b', "extra": [1] }')
    assert Manifest.parse(line) == manifest()
    with pytest.raises(SchemeError, match=r"^failed to validate the document's signature$"):
        decrypt([DOCUMENT.replace(b'"kw":1', b'"kw": 1')])


def test_codes() -> None:
    head, _, rest = DOCUMENT.partition(b"\n4UI9")
    with pytest.raises(SchemeError, match=r"^failed to decode header's signature: "):
        decrypt([head + b"\n*UI9" + rest])
    for code in (b"AAAA", base64.b64encode(bytes(32))):
        with pytest.raises(SchemeError, match=r"^failed to validate the document's signature$"):
            decrypt([head + b"\n" + code + b"\n"])
    with pytest.raises(SchemeError, match=r"^failed to validate"):
        decrypt([DOCUMENT], bytes(32))


def test_names_are_escaped_as_the_reference_does() -> None:
    line = manifest(key="<&>\u2028ü").render()
    assert line.startswith('{"k":"\\u003c\\u0026\\u003e\\u2028ü",'.encode())
    assert Manifest.parse(line).key == "<&>\u2028ü"


def test_a_name_that_makes_the_header_too_long() -> None:
    with pytest.raises(SchemeError, match=r"^failed to sign header: header is too long$"):
        Encryptor(manifest(key="k" * MOST_HEADER), FILE_KEY)


def test_the_number_of_segments_is_bounded() -> None:
    machine = Encryptor(manifest(), FILE_KEY)
    machine.number = (1 << 32) - 1
    assert machine.feed(bytes(2 * SEGMENT))
    with pytest.raises(SchemeError, match=r"^input stream is too large$"):
        machine.finish()


def test_names_of_algorithms() -> None:
    assert Wrap.named("aes") is Wrap.named("a256kw") is Wrap.A256KW
    assert Wrap.named("RSA") is Wrap.named("rsa-oaep-256") is Wrap.RSA_OAEP_256
    assert Wrap.named("a128cbc-nopad").algorithm == "A128CBC-NOPAD"
    assert Cipher.named("") is Cipher.named("aes-gcm") is Cipher.AES_GCM
    assert Cipher.named("chacha20-poly1305") is Cipher.CHACHA20_POLY1305
    with pytest.raises(SchemeError, match=r"^option Algorithm is not valid: algorithm A256CBC is not supported$"):
        Wrap.named("a256cbc")
    with pytest.raises(SchemeError, match=r"^option Cipher is not valid: cipher DES is not supported$"):
        Cipher.named("des")
