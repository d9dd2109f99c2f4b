"""The official Python SDK encrypts and decrypts through a real sidecar; a reader written from the specification alone
opens what comes out."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from dapr.clients import DaprClient
from dapr.clients.grpc._crypto import DecryptOptions, EncryptOptions

from crypto_keys import KEK, rsa_pem
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.filterwarnings("ignore:The (En|De)crypt API is an Alpha version:UserWarning")


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaprClient]:
    folder = tmp_path_factory.mktemp("crypto")
    (folder / "keys").mkdir()
    (folder / "keys" / "mykey").write_bytes(base64.b64encode(KEK))
    (folder / "keys" / "rsa.pem").write_bytes(rsa_pem())
    resources = {"vault.yaml": component("vault", "crypto.dapr.localstorage", path="keys")}
    with SidecarProcess(folder, "shop", resources=resources) as sidecar, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAPR_HTTP_PORT", str(sidecar.http_port))  # the SDK's health check asks this port
        sidecar.wait("/v1.0/healthz")
        with DaprClient(f"127.0.0.1:{sidecar.grpc_port}") as made:
            yield made


def read_document(document: bytes) -> tuple[dict[str, object], bytes]:
    """A minimal reader for A256KW, from the text of the specification (`crypto-conversation-mcp.md` 1)."""

    def hkdf(salt: bytes, info: bytes) -> bytes:
        extracted = hmac.new(salt, file_key, hashlib.sha256).digest()
        return hmac.new(extracted, info + b"\1", hashlib.sha256).digest()

    line1, line2, line3, body = document.split(b"\n", 3)
    assert line1 == b"dapr.io/enc/v1"
    manifest = json.loads(line2)
    file_key = aes_key_unwrap(KEK, base64.b64decode(manifest["wfk"]))
    code = hmac.new(hkdf(bytes(32), b"header"), line1 + b"\n" + line2 + b"\n", hashlib.sha256).digest()
    assert code == base64.b64decode(line3)
    prefix = base64.b64decode(manifest["np"])
    cipher: Any = {1: AESGCM, 2: ChaCha20Poly1305}[manifest["cph"]](hkdf(prefix, b"payload"))
    plain = b""
    for number, at in enumerate(range(0, len(body), 65552)):
        last = at + 65552 >= len(body)
        nonce = prefix + number.to_bytes(4, "big") + (b"\1" if last else b"\0")
        plain += cipher.decrypt(nonce, body[at : at + 65552], None)
    return manifest, plain


@pytest.mark.parametrize("cipher", ["aes-gcm", "chacha20-poly1305"])
@pytest.mark.parametrize("size", [1, 65535, 65536, 65537, 300_000])
def test_there_and_back(client: DaprClient, size: int, cipher: str) -> None:
    plain = os.urandom(size)
    options = EncryptOptions("vault", "mykey", "A256KW", data_encryption_cipher=cipher)
    document = client.encrypt(plain, options).read()
    manifest, read = read_document(document)
    assert read == plain
    assert (manifest["k"], manifest["kw"], manifest["cph"]) == ("mykey", 1, 1 if cipher == "aes-gcm" else 2)
    assert client.decrypt(document, DecryptOptions("vault")).read() == plain


def test_ten_megabytes(client: DaprClient) -> None:
    plain = os.urandom(10 << 20)
    document = client.encrypt(plain, EncryptOptions("vault", "rsa.pem", "RSA")).read()
    assert client.decrypt(document, DecryptOptions("vault", "rsa.pem")).read() == plain


def test_names_of_keys(client: DaprClient) -> None:
    """The omit flag wins over the name for decryption; a name in the request wins over the document's."""
    omitted = EncryptOptions("vault", "mykey", "AES", omit_decryption_key_name=True, decryption_key_name="other")
    document = client.encrypt(b"abc", omitted).read()
    assert "k" not in read_document(document)[0]
    assert client.decrypt(document, DecryptOptions("vault", "mykey")).read() == b"abc"
    with pytest.raises(grpc.RpcError, match="does not contain a key name, and no key name was provided"):
        client.decrypt(document, DecryptOptions("vault")).read()
    document = client.encrypt(b"abc", EncryptOptions("vault", "mykey", "AES", decryption_key_name="other")).read()
    assert read_document(document)[0]["k"] == "other"
    with pytest.raises(grpc.RpcError, match="failed to validate the document's signature"):
        client.decrypt(document, DecryptOptions("vault")).read()


def test_a_forged_document(client: DaprClient) -> None:
    document = bytearray(client.encrypt(bytes(200_000), EncryptOptions("vault", "mykey", "A256KW")).read())
    document[-1] ^= 1
    with pytest.raises(grpc.RpcError, match="error processing segment 3: failed to decrypt segment"):
        client.decrypt(bytes(document), DecryptOptions("vault")).read()
