"""Documents and single operations over HTTP and gRPC, through a real sidecar: exact errors, order, streams."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import http.client
import json
import os
import socket
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from crypto_keys import KEK, ec_key, rsa_key, rsa_pem
from pillion.api.call import HttpCall, RpcCall
from pillion.blocks import crypto as block
from pillion.blocks.crypto import CryptoBlock
from pillion.components.local_crypto import LocalCrypto
from pillion.errors import ApiError, Code
from pillion.kinds.component import Context, decode
from pillion.net.exchange import Request, RpcError
from pillion.net.grpc_client import Channel
from pillion.wire.cryptokeys import jwk_of, parse_jwk, parse_key, spki
from pillion.wire.encscheme import SchemeError
from pillion.wire.messages import common
from pillion.wire.messages import runtime as m
from sidecars import Reply, SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from pillion.net.exchange import Headers

SERVICE = "/dapr.proto.runtime.v1.Dapr/"
CRYPTO = "/v1.0-alpha1/crypto/"
SUBTLE = "/v1.0-alpha1/subtlecrypto/vault/"
WRAPPED = {"dapr-key-name": "mykey", "dapr-key-wrap-algorithm": "a256kw"}
ABC = (
    b'dapr.io/enc/v1\n{"k":"mykey","kw":1,"wfk":"vSonaujHRkx+izlmdKxuDpVYyExgCbP6QTzwameiAII+TXIN8kGfqQ==","cph":1,'
    b'"np":"oKGio6Slpg=="}\n4UI9jTlXpt9bqReDcTwqpqnuOfexvCAnyy6rhjMtNrI=\n'
    + bytes.fromhex("82144db0aefd0423c018a569920c84a4ec1bfa")
)
"""The specification's first vector."""


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SidecarProcess]:
    folder = tmp_path_factory.mktemp("crypto")
    (folder / "keys").mkdir()
    (folder / "keys" / "mykey").write_bytes(base64.b64encode(KEK))
    (folder / "keys" / "rsa.pem").write_bytes(rsa_pem())
    ec = json.loads(jwk_of(spki(ec_key().public_key()))) | {"kid": "public"}
    resources = {
        "vault.yaml": component("vault", "crypto.dapr.localstorage", path="keys"),
        "set.yaml": component("set", "crypto.dapr.jwks", jwks=json.dumps({"keys": [ec]})),
    }
    more = ("--max-body-size", "32Mi")
    with SidecarProcess(folder, "shop", resources=resources, arguments=more) as running:
        yield running


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SidecarProcess]:
    with SidecarProcess(tmp_path_factory.mktemp("bare"), "bare") as running:
        yield running


def error(reply: Reply) -> tuple[int, str, str]:
    body = reply.json()
    return reply.status, body["errorCode"], body["message"]


# -- documents over HTTP


def test_the_vector_is_read(sidecar: SidecarProcess) -> None:
    reply = sidecar.request("PUT", CRYPTO + "vault/decrypt", ABC)
    assert (reply.status, reply.body) == (200, b"abc")
    assert reply.headers["content-type"] == "application/octet-stream"
    empty = sidecar.request("PUT", CRYPTO + "vault/decrypt", ABC[:174])
    assert (empty.status, empty.body) == (200, b"")


@pytest.mark.parametrize("size", [0, 1, 65536, 65537, 262_144, 300_000, 9_000_000])
@pytest.mark.parametrize("headers", [{}, {"dapr-data-encryption-cipher": "chacha20-poly1305"}])
def test_there_and_back(sidecar: SidecarProcess, size: int, headers: dict[str, str]) -> None:
    """Of any size, also for a client that sends all before it reads anything."""
    plain = os.urandom(size)
    document = sidecar.request("PUT", CRYPTO + "vault/encrypt", plain, WRAPPED | headers)
    assert document.status == 200
    assert document.headers["content-type"] == "application/octet-stream"
    assert len(document.body) == document.body.index(b"=\n") + 2 + size + 16 * -(-size // 65536)
    assert sidecar.request("PUT", CRYPTO + "vault/decrypt", document.body).body == plain


def test_a_client_that_reads_late(sidecar: SidecarProcess) -> None:
    """Sends 16 MiB in chunks without reading one byte in between; its answer is whole all the same."""
    plain = os.urandom(1 << 20)
    with socket.create_connection(("127.0.0.1", sidecar.http_port)) as plug:
        plug.settimeout(30)
        head = "".join(f"{name}: {value}\r\n" for name, value in WRAPPED.items())
        plug.sendall(
            f"PUT {CRYPTO}vault/encrypt HTTP/1.1\r\nHost: x\r\n{head}Transfer-Encoding: chunked\r\n\r\n".encode()
        )
        for _ in range(16):
            plug.sendall(b"100000\r\n" + plain + b"\r\n")
        plug.sendall(b"0\r\n\r\n")
        answer = http.client.HTTPResponse(plug)
        answer.begin()
        document = answer.read()
    assert sidecar.request("PUT", CRYPTO + "vault/decrypt", document).body == plain * 16


def test_names_in_headers(sidecar: SidecarProcess) -> None:
    def manifest(**headers: str) -> Any:
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        reply = sidecar.request("PUT", CRYPTO + "vault/encrypt", b"x", WRAPPED | more)
        return json.loads(reply.body.split(b"\n")[1])

    assert manifest()["k"] == "mykey"
    assert manifest(dapr_decryption_key_name="other")["k"] == "other"
    assert "k" not in manifest(dapr_decryption_key_name="other", dapr_omit_decryption_key_name="Yes")
    assert manifest(dapr_key_name="rsa.pem", dapr_key_wrap_algorithm="rsa")["kw"] == 5
    assert manifest(dapr_data_encryption_cipher="ChaCha20-Poly1305")["cph"] == 2


FAILED = "failed to perform operation: "


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"dapr-key-name": ""}, (400, "ERR_BAD_REQUEST", "invalid request: missing header dapr-key-name")),
        (
            {"dapr-key-wrap-algorithm": ""},
            (400, "ERR_BAD_REQUEST", "invalid request: missing header dapr-key-wrap-algorithm"),
        ),
        (
            {"dapr-key-wrap-algorithm": "a256cbc"},
            (500, "ERR_CRYPTO", FAILED + "option Algorithm is not valid: algorithm A256CBC is not supported"),
        ),
        (
            {"dapr-data-encryption-cipher": "des"},
            (500, "ERR_CRYPTO", FAILED + "option Cipher is not valid: cipher DES is not supported"),
        ),
        (
            {"dapr-key-wrap-algorithm": "A256CBC-NOPAD"},
            (500, "ERR_CRYPTO", FAILED + "failed to wrap the file key: unsupported algorithm"),
        ),
        (
            {"dapr-key-wrap-algorithm": "RSA"},
            (500, "ERR_CRYPTO", FAILED + "failed to wrap the file key: key type mismatch"),
        ),
        (
            {"dapr-key-name": "none"},
            (500, "ERR_CRYPTO", FAILED + "failed to wrap the file key: key none not found"),
        ),
        (
            {"dapr-decryption-key-name": "k" * 4000},
            None,
        ),
    ],
)  # fmt: skip
def test_what_keeps_a_document_from_being_made(
    sidecar: SidecarProcess, headers: dict[str, str], expected: tuple[int, str, str] | None
) -> None:
    reply = sidecar.request("PUT", CRYPTO + "vault/encrypt", b"x", WRAPPED | headers)
    if expected is None:
        assert reply.status == 200
    else:
        assert error(reply) == expected


@pytest.mark.parametrize(
    ("document", "headers", "text"),
    [
        (b"", {}, "invalid header: scheme name not found"),
        (b"hello\n", {}, "invalid header: unsupported scheme"),
        (b"dapr.io/enc/v1\n\n", {}, "invalid header: invalid format"),
        (b"dapr.io/enc/v1\n{}\nx\n", {}, "invalid header: invalid manifest"),
        (b"dapr.io/enc/v1\n" + b"x" * 70000, {}, "invalid header: manifest not found"),
        (ABC.replace(b"4UI9", b"*UI9"), {}, "failed to decode header's signature: "),
        (ABC.replace(b"4UI9", b"5UI9"), {}, "failed to validate the document's signature"),
        (ABC, {"dapr-key-name": "none"}, "failed to validate the document's signature"),
        (ABC, {"dapr-key-name": "rsa.pem"}, "failed to validate the document's signature"),
        (
            ABC.replace(b'"k":"mykey",', b""), {},
            "document's manifest does not contain a key name, and no key name was provided",
        ),
    ],
)  # fmt: skip
def test_what_keeps_a_document_from_being_read(
    sidecar: SidecarProcess, document: bytes, headers: dict[str, str], text: str
) -> None:
    status, code, message = error(sidecar.request("PUT", CRYPTO + "vault/decrypt", document, headers))
    assert (status, code) == (500, "ERR_CRYPTO")
    assert message.startswith(FAILED + text)


def test_a_forged_payload(sidecar: SidecarProcess) -> None:
    """The answer has not begun: it is the bare text of what failed."""
    reply = sidecar.request("PUT", CRYPTO + "vault/decrypt", ABC[:-1] + b"!")
    assert error(reply) == (500, "ERROR", "error processing segment 0: failed to decrypt segment")
    long = sidecar.request("PUT", CRYPTO + "vault/encrypt", bytes(2_000_000), WRAPPED).body
    reply = sidecar.request("PUT", CRYPTO + "vault/decrypt", long[:-1])
    assert error(reply) == (500, "ERROR", "error processing segment 30: failed to decrypt segment")


def test_long_documents_stream(sidecar: SidecarProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond what is held back the answer begins before the request has ended; a failure then breaks it off."""
    monkeypatch.setattr(block, "HELD", 100_000)
    document = sidecar.request("PUT", CRYPTO + "vault/encrypt", bytes(500_000), WRAPPED).body

    class Body:
        length: int | None = None
        trailers: Headers = []  # noqa: RUF012
        left = 10

        async def __aiter__(self) -> AsyncIterator[bytes]:
            while self.left:
                self.left -= 1
                yield document[(9 - self.left) * 60_000 :][:60_000]
            yield b"more than the document"

        async def read(self) -> bytes:
            raise AssertionError("is not read at once")

    async def run() -> None:
        folder = decode(LocalCrypto.Settings, {"path": str(sidecar.folder / "keys")}, where="here")
        vault: Any = SimpleNamespace(component=LocalCrypto(folder, Context("vault")))
        body = Body()
        call = HttpCall(Request("PUT", b"/", [], body), b"/", b"", ("vault",), "/")
        answer = await CryptoBlock({"vault": vault}).decrypt(call)
        assert not isinstance(answer.body, bytes)
        assert body.left, "has not ended"
        size = 0
        try:
            async for piece in answer.body:
                size += len(piece)
        except SchemeError as failure:
            told.append(str(failure))
        assert size == 7 * 65536
        await vault.component.close()

    told: list[str] = []
    asyncio.run(run())
    assert told == ["error processing segment 7: failed to decrypt segment"]


def test_a_body_over_the_limit(sidecar: SidecarProcess) -> None:
    reply = sidecar.request("PUT", CRYPTO + "vault/encrypt", bytes((32 << 20) + 1), WRAPPED)
    assert error(reply) == (500, "ERROR", "stream too large")


def test_providers(sidecar: SidecarProcess, bare: SidecarProcess) -> None:
    for verb in ("encrypt", "decrypt"):
        reply = sidecar.request("PUT", f"{CRYPTO}nobody/{verb}", b"x", WRAPPED)
        assert error(reply) == (400, "ERR_CRYPTO_PROVIDER_NOT_FOUND", "crypto provider nobody not found")
        reply = bare.request("PUT", f"{CRYPTO}nobody/{verb}", b"x", WRAPPED)
        assert error(reply) == (500, "ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED", "crypto providers not configured")
    reply = bare.post_json("/v1.0-alpha1/subtlecrypto/nobody/sign", {})
    assert error(reply) == (500, "ERR_CRYPTO_PROVIDERS_NOT_CONFIGURED", "crypto providers not configured")


# -- documents over gRPC


def rpc(sidecar: SidecarProcess, method: str, *messages: Any) -> list[Any]:
    """Send messages, half-close, return the replies; raises `RpcError`."""
    replies = m.EncryptResponse if method == "EncryptAlpha1" else m.DecryptResponse

    async def run() -> list[Any]:
        channel = Channel(f"127.0.0.1:{sidecar.grpc_port}")
        try:
            stream = channel.stream(SERVICE + method, timeout_s=60)
            for message in messages:
                await stream.send(message if isinstance(message, bytes) else message.SerializeToString())
            await stream.half_close()
            found = []
            while (data := await stream.receive()) is not None:
                found.append(replies.FromString(data))
            return found
        finally:
            await channel.close()

    return asyncio.run(run())


def refusal(sidecar: SidecarProcess, method: str, *messages: Any) -> tuple[int, str]:
    with pytest.raises(RpcError) as refused:
        rpc(sidecar, method, *messages)
    return refused.value.code, refused.value.message


def options(**more: Any) -> m.EncryptRequestOptions:
    values = {"component_name": "vault", "key_name": "mykey", "key_wrap_algorithm": "A256KW"} | more
    return m.EncryptRequestOptions(**values)


def part(data: bytes, seq: int) -> common.StreamPayload:
    return common.StreamPayload(data=data, seq=seq)


def test_streams(sidecar: SidecarProcess) -> None:
    """Options alone or with a payload; messages without one count for nothing; replies are numbered from 0."""
    plain = bytes(range(256)) * 1024
    replies = rpc(
        sidecar, "EncryptAlpha1", m.EncryptRequest(options=options()), m.EncryptRequest(payload=part(plain[:70000], 0)),
        m.EncryptRequest(), m.EncryptRequest(payload=part(b"", 1)), m.EncryptRequest(payload=part(plain[70000:], 2)),
    )  # fmt: skip
    assert [reply.payload.seq for reply in replies] == list(range(len(replies)))
    assert max(len(reply.payload.data) for reply in replies) <= 65552
    assert all(reply.payload.data for reply in replies)
    document = b"".join(reply.payload.data for reply in replies)
    wanted = m.DecryptRequestOptions(component_name="vault")
    back = rpc(sidecar, "DecryptAlpha1", m.DecryptRequest(options=wanted, payload=part(document, 0)))
    assert b"".join(reply.payload.data for reply in back) == plain
    empty = rpc(sidecar, "DecryptAlpha1", m.DecryptRequest(options=wanted, payload=part(ABC[:174], 0)))
    assert empty == [], "no message for zero bytes"


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (None, (Code.INVALID_ARGUMENT, "invalid request: error waiting for first message: EOF")),
        (
            m.EncryptRequest(payload=part(b"x", 0)),
            (Code.INVALID_ARGUMENT, "invalid request: first message does not contain the required options"),
        ),
        (
            m.EncryptRequest(options=options(key_name="", component_name="")),
            (Code.INVALID_ARGUMENT, "invalid request: missing property 'keyName' in the options message"),
        ),
        (
            m.EncryptRequest(options=options(key_wrap_algorithm="")),
            (Code.INVALID_ARGUMENT, "invalid request: missing property 'keyWrapAlgorithm' in the options message"),
        ),
        (
            m.EncryptRequest(options=options(component_name="")),
            (Code.INVALID_ARGUMENT, "invalid request: missing component name"),
        ),
        (
            m.EncryptRequest(options=options(component_name="nobody")),
            (Code.INVALID_ARGUMENT, "crypto provider nobody not found"),
        ),
        (
            m.EncryptRequest(options=options(key_wrap_algorithm="x")),
            (Code.INTERNAL, FAILED + "option Algorithm is not valid: algorithm X is not supported"),
        ),
    ],
)
def test_first_messages(sidecar: SidecarProcess, message: Any, expected: tuple[int, str]) -> None:
    assert refusal(sidecar, "EncryptAlpha1", *([] if message is None else [message])) == expected


def test_later_messages(sidecar: SidecarProcess, bare: SidecarProcess) -> None:
    first = m.EncryptRequest(options=options(), payload=part(b"a", 0))
    for second, text in (
        (m.EncryptRequest(payload=part(b"b", 2)), "invalid sequence number received: 2 (expected: 1)"),
        (m.EncryptRequest(payload=part(b"b", 0)), "invalid sequence number received: 0 (expected: 1)"),
        (m.EncryptRequest(options=options()), "options found in non-leading message"),
    ):
        assert refusal(sidecar, "EncryptAlpha1", first, second) == (Code.INTERNAL, FAILED + text)
    assert refusal(sidecar, "EncryptAlpha1", first, b"\xff")[1].startswith(FAILED + "error receiving message: ")
    started = m.EncryptRequest(options=options(), payload=part(b"a", 1))
    assert refusal(sidecar, "EncryptAlpha1", started)[1].endswith("received: 1 (expected: 0)")
    assert refusal(bare, "EncryptAlpha1", first) == (Code.INTERNAL, "crypto providers not configured")


def test_the_first_message_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        async def receive(self) -> bytes | None:
            await asyncio.Event().wait()
            return None

    monkeypatch.setattr(block, "FIRST_MESSAGE_S", 0.01)
    call: Any = Silent()
    with pytest.raises(ApiError) as refused:
        asyncio.run(CryptoBlock({}).rpc_decrypt(RpcCall("x", call)))
    assert refused.value.text == "invalid request: error waiting for first message: context deadline exceeded"


def test_forged_documents_end_behind_the_good_segments(sidecar: SidecarProcess) -> None:
    document = bytearray(sidecar.request("PUT", CRYPTO + "vault/encrypt", bytes(200_000), WRAPPED).body)
    document[-1] ^= 1

    async def run() -> tuple[int, RpcError]:
        channel = Channel(f"127.0.0.1:{sidecar.grpc_port}")
        wanted = m.DecryptRequestOptions(component_name="vault", key_name="mykey")
        size = 0
        try:
            stream = channel.stream(SERVICE + "DecryptAlpha1", timeout_s=60)
            await stream.send(m.DecryptRequest(options=wanted, payload=part(bytes(document), 0)).SerializeToString())
            await stream.half_close()
            while (data := await stream.receive()) is not None:
                size += len(m.DecryptResponse.FromString(data).payload.data)
        except RpcError as failure:
            return size, failure
        finally:
            await channel.close()
        raise AssertionError("was not refused")

    size, failure = asyncio.run(run())
    assert size == 3 * 65536
    assert failure.code == Code.INTERNAL
    assert failure.message == FAILED + "error processing segment 3: failed to decrypt segment"


# -- single operations


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_subtle_over_http(sidecar: SidecarProcess) -> None:
    nonce, aad = b64(bytes(12)), b64(b"hdr")
    asked = {"algorithm": "A256GCM", "keyName": "mykey", "nonce": nonce, "associatedData": aad}
    sealed = sidecar.post_json(SUBTLE + "encrypt", asked | {"plaintext": b64(b"abc"), "unknown": 1}).json()
    assert set(sealed) == {"ciphertext", "tag"}
    opened = sidecar.post_json(SUBTLE + "decrypt", asked | sealed)
    assert (opened.json(), opened.headers["content-type"]) == ({"plaintext": b64(b"abc")}, "application/json")
    wrapped = sidecar.post_json(
        SUBTLE + "wrapkey", {"plaintextKey": b64(b64(KEK).encode()), "algorithm": "A256KW", "keyName": "mykey"}
    ).json()
    assert set(wrapped) == {"wrappedKey"}
    again = {"wrapped_key": wrapped["wrappedKey"], "algorithm": "A256KW", "key_name": "mykey"}
    assert sidecar.post_json(SUBTLE + "unwrapkey", again).json() == {"plaintextKey": b64(KEK)}
    signing = {"digest": b64(hashlib.sha256(b"x").digest()), "algorithm": "PS256", "keyName": "rsa.pem"}
    signature = sidecar.post_json(SUBTLE + "sign", signing).json()
    assert sidecar.post_json(SUBTLE + "verify", signing | signature).json() == {"valid": True}
    assert sidecar.post_json(SUBTLE + "verify", signing | {"signature": "AAAA"}).json() == {"valid": False}


def test_public_keys(sidecar: SidecarProcess) -> None:
    pem = sidecar.post_json(SUBTLE + "getkey", {"name": "rsa.pem"}).json()
    assert pem["name"] == "rsa.pem"
    assert pem["publicKey"].startswith("-----BEGIN PUBLIC KEY-----\n")
    assert parse_key(pem["publicKey"].encode()).material == rsa_key().public_key()
    for form in ("JSON", 1):
        jwk = sidecar.post_json(SUBTLE + "getkey", {"name": "rsa.pem", "format": form}).json()["publicKey"]
        assert parse_jwk(jwk.encode()).material == rsa_key().public_key()
    found = sidecar.post_json("/v1.0-alpha1/subtlecrypto/set/getkey", {"name": "public", "format": "JSON"}).json()
    assert json.loads(found["publicKey"])["crv"] == "P-256"
    for name, text in (("none", "key none not found"), ("mykey", "a symmetric key has no public part")):
        reply = sidecar.post_json(SUBTLE + "getkey", {"name": name})
        assert error(reply) == (500, "ERR_CRYPTO_KEY", f"failed to retrieve key {name}: {text}")
    wrong: list[Any] = ["DER", 7, [], None]
    for each in wrong:
        status, code, text = error(sidecar.post_json(SUBTLE + "getkey", {"name": "rsa.pem", "format": each}))
        assert (status, code, text) == (400, "ERR_BAD_REQUEST", "invalid request: invalid key format"), each


PHRASES = {
    "encrypt": "failed to encrypt", "decrypt": "failed to decrypt", "wrapkey": "failed to wrap key",
    "unwrapkey": "failed to unwrap key", "sign": "failed to sign", "verify": "failed to verify signature",
}  # fmt: skip


@pytest.mark.parametrize("verb", PHRASES)
def test_subtle_failures_are_masked(sidecar: SidecarProcess, verb: str) -> None:
    for body in ({}, {"keyName": "mykey", "algorithm": "none"}, {"keyName": "none", "algorithm": "A256KW"}):
        reply = sidecar.post_json(SUBTLE + verb, body)
        assert error(reply) == (500, "ERR_CRYPTO", FAILED + PHRASES[verb])
    for text in ("[]", "{} {}", '{"keyName": 5}', '{"ciphertext": 1, "keyName": {}}', "\x00"):
        status, code, _ = error(sidecar.request("POST", SUBTLE + verb, text))
        if text != '{"digest": "*"}' or verb in ("sign", "verify"):
            assert (status, code) == (400, "ERR_MALFORMED_REQUEST"), text


def test_subtle_over_grpc(sidecar: SidecarProcess) -> None:
    async def run() -> None:
        channel = Channel(f"127.0.0.1:{sidecar.grpc_port}")

        async def call(method: str, request: Any) -> bytes:
            reply = await channel.unary(f"{SERVICE}Subtle{method}Alpha1", request.SerializeToString(), timeout_s=60)
            return reply.message

        try:
            common: dict[str, Any] = {
                "component_name": "vault",
                "key_name": "mykey",
                "algorithm": "XC20P",
                "nonce": bytes(24),
            }
            sealed = m.SubtleEncryptResponse.FromString(
                await call("Encrypt", m.SubtleEncryptRequest(plaintext=b"abc", **common))
            )
            opened = m.SubtleDecryptRequest(ciphertext=sealed.ciphertext, tag=sealed.tag, **common)
            assert m.SubtleDecryptResponse.FromString(await call("Decrypt", opened)).plaintext == b"abc"
            opened.tag = bytes(16)
            for request, method, code, text in (
                (opened, "Decrypt", Code.INTERNAL, FAILED + "failed to decrypt"),
                (m.SubtleSignRequest(component_name="x"), "Sign", Code.INVALID_ARGUMENT, "crypto provider x not found"),
                (m.SubtleSignRequest(), "Sign", Code.INVALID_ARGUMENT, "invalid request: missing component name"),
                (
                    m.SubtleGetKeyRequest(component_name="vault", name="rsa.pem", format=7), "GetKey",
                    Code.INVALID_ARGUMENT, "invalid request: invalid key format",
                ),
                (
                    m.SubtleGetKeyRequest(component_name="vault", name="none"), "GetKey",
                    Code.INTERNAL, "failed to retrieve key none: key none not found",
                ),
            ):  # fmt: skip
                with pytest.raises(RpcError) as refused:
                    await call(method, request)
                assert (refused.value.code, refused.value.message) == (code, text)
        finally:
            await channel.close()

    asyncio.run(run())


def test_keys_change_while_the_sidecar_runs(sidecar: SidecarProcess, tmp_path: Path) -> None:
    key = sidecar.folder / "keys" / "fresh"
    key.write_bytes(base64.b64encode(os.urandom(32)))
    document = sidecar.request("PUT", CRYPTO + "vault/encrypt", b"x", WRAPPED | {"dapr-key-name": "fresh"}).body
    key.write_bytes(base64.b64encode(os.urandom(32)))
    assert sidecar.request("PUT", CRYPTO + "vault/decrypt", document).status == 500
