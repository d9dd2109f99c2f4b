"""Every cryptography provider passes the kit; what is particular to each."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import ssl
import threading
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import trustme

from crypto_keys import KEK, ec_key, ed_key, pem, rsa_key, rsa_pem
from pillion import tasks
from pillion.components import jwks_crypto, web_document
from pillion.components.jwks_crypto import JwksCrypto
from pillion.components.local_crypto import LocalCrypto
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import Context, decode
from pillion.testing.crypto_kit import CryptoKit
from pillion.wire.cryptokeys import jwk_of, spki

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


def b64(number: int, size: int | None = None) -> str:
    data = number.to_bytes(size or -(-number.bit_length() // 8), "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def key_set() -> dict[str, list[dict[str, Any]]]:
    numbers = rsa_key().private_numbers()
    rsa = json.loads(jwk_of(spki(rsa_key().public_key()))) | {
        "kid": "rsa", "d": b64(numbers.d), "p": b64(numbers.p), "q": b64(numbers.q),
    }  # fmt: skip
    short = {name: value for name, value in rsa.items() if name not in "pq"} | {"kid": "short", "alg": "RS256"}
    ec = json.loads(jwk_of(spki(ec_key().public_key()))) | {"kid": "ec"}
    ec["d"] = b64(ec_key().private_numbers().private_value, 32)
    ed = json.loads(jwk_of(spki(ed_key().public_key()))) | {"kid": "ed25519"}
    ed["d"] = base64.urlsafe_b64encode(ed_key().private_bytes_raw()).rstrip(b"=").decode()
    symmetric = {"kty": "oct", "kid": "symmetric", "k": base64.urlsafe_b64encode(KEK).decode()}
    enc = symmetric | {"kid": "enc", "use": "enc", "alg": "A256KW"}
    ops = symmetric | {"kid": "ops", "key_ops": ["wrapKey", "encrypt"]}
    return {"keys": [rsa, short, ec, ed, symmetric, enc, ops, symmetric | {"k": "AAAA"}]}


def jwks(source: str, **more: str) -> JwksCrypto:
    return JwksCrypto(decode(JwksCrypto.Settings, {"jwks": source, **more}, where="kit"), Context("kit"))


def local(folder: Path) -> LocalCrypto:
    return LocalCrypto(decode(LocalCrypto.Settings, {"path": str(folder)}, where="kit"), Context("kit"))


class TestLocalStorage(CryptoKit):
    folder: Path
    rsa = "deep/rsa.pem"
    ec = "ec.json"

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        type(self).folder = tmp_path
        (tmp_path / "symmetric").write_bytes(base64.b64encode(KEK) + b"\n")
        (tmp_path / "deep").mkdir()
        (tmp_path / "deep" / "rsa.pem").write_bytes(rsa_pem())
        (tmp_path / "ec.json").write_text(json.dumps(next(key for key in key_set()["keys"] if key["kid"] == "ec")))
        (tmp_path / "ed25519").write_bytes(pem(ed_key()))

    @asynccontextmanager
    async def provider(self) -> AsyncIterator[LocalCrypto]:
        yield local(self.folder)


class TestInlineSet(CryptoKit):
    @asynccontextmanager
    async def provider(self) -> AsyncIterator[JwksCrypto]:
        yield jwks(json.dumps(key_set()))


class TestSetInFile(CryptoKit):
    path: Path

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        type(self).path = tmp_path / "set.json"
        self.path.write_text(json.dumps(key_set()))

    @asynccontextmanager
    async def provider(self) -> AsyncIterator[JwksCrypto]:
        yield jwks(str(self.path))


@pytest.mark.parametrize(
    "name", ["", "/", "../out", "deep/../../out", "a..b", "link", "/etc/passwd", "fifo", "big", "\0"]
)
def test_no_key_outside_the_folder(tmp_path: Path, name: str) -> None:
    """Neither by its name nor by a link; what is no plain file of sensible size is no key."""
    folder = tmp_path / "keys"
    folder.mkdir()
    (tmp_path / "out").write_bytes(base64.b64encode(KEK))
    (folder / "link").symlink_to(tmp_path / "out")
    (folder / "big").write_bytes(bytes((1 << 20) + 1))
    os.mkfifo(folder / "fifo")

    async def run() -> None:
        provider = local(folder)
        await provider.open()
        with pytest.raises(ComponentError):
            await provider.find(name)
        await provider.close()

    asyncio.run(run())


def test_a_changed_file_counts_at_once(tmp_path: Path) -> None:
    async def run() -> None:
        provider = local(tmp_path)
        await provider.open()
        (tmp_path / "key").write_bytes(b"\0" * 16)
        assert (await provider.find("key")).material == b"\0" * 16
        (tmp_path / "key").write_bytes(b"\1" * 32)
        assert (await provider.find("/key")).material == b"\1" * 32
        await provider.close()

    asyncio.run(run())


def test_the_folder_must_exist(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a folder"):
        asyncio.run(local(tmp_path / "none").open())


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_a_set_in_base64(encode: Any) -> None:
    async def run() -> None:
        provider = jwks(encode(json.dumps(key_set()).encode()).decode().rstrip("="))
        await provider.open()
        assert (await provider.find("symmetric")).material == KEK, "the first of a name counts"
        await provider.close()

    asyncio.run(run())


def test_what_a_key_may_be_used_for() -> None:
    async def run() -> None:
        provider = jwks(json.dumps(key_set()))
        await provider.open()
        wrapped, _ = await provider.wrap_key(bytes(32), "A256KW", "enc", b"", b"")
        assert await provider.unwrap_key(wrapped, "A256KW", "enc", b"", b"", b"") == bytes(32)
        await provider.wrap_key(bytes(32), "A256KW", "ops", b"", b"")
        with pytest.raises(ComponentError, match="cannot be used with the algorithm A256GCM"):
            await provider.encrypt(b"x", "A256GCM", "enc", bytes(12), b"")
        with pytest.raises(ComponentError, match="cannot be used for the operation unwrapKey"):
            await provider.unwrap_key(wrapped, "A256KW", "ops", b"", b"", b"")
        with pytest.raises(ComponentError, match="cannot be used for the operation sign"):
            await provider.sign(bytes(32), "RS256", "enc")
        assert await provider.verify(bytes(32), await provider.sign(bytes(32), "RS256", "short"), "RS256", "rsa")
        with pytest.raises(ComponentError, match="algorithm PS256"):
            await provider.sign(bytes(32), "PS256", "short")
        await provider.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    "source",
    ["nothing", "{}", "[]", '{"keys":{}}', '{"keys":[{"kty":"oct","k":"AAAA"},{"kty":"oct"}]}', "/no/such/file"],
)
def test_one_bad_key_fails_the_set(source: str) -> None:
    async def run() -> None:
        provider = jwks(source)
        with pytest.raises(ConfigError, match="jwks: "):
            await provider.open()
        await provider.close()

    asyncio.run(run())


async def until_found(provider: JwksCrypto, name: str) -> None:
    """There is no event for another's refresh: look until the key is there."""
    async with asyncio.timeout(90):
        while True:
            try:
                await provider.find(name)
            except ComponentError:
                await asyncio.sleep(0.02)
            else:
                return


def named(name: str) -> str:
    return json.dumps({"kty": "oct", "k": "AAAA", "kid": name})


def test_a_file_is_read_again(tmp_path: Path) -> None:
    """Written over or replaced; what is no set leaves the old one in force."""

    async def run() -> None:
        path = tmp_path / "set.json"
        path.write_text(named("one"))
        provider = jwks(str(path))
        await provider.open()
        await provider.find("one")
        path.write_text("broken")
        path.write_text(named("two"))
        await until_found(provider, "two")
        (tmp_path / "next").write_text(named("three"))
        (tmp_path / "next").rename(path)
        await until_found(provider, "three")
        with pytest.raises(ComponentError, match="key one not found"):
            await provider.find("one")
        await provider.close()

    asyncio.run(run())


class Web:
    """Answers with what is in `script`, the last one for ever: (status, headers, body)."""

    def __init__(self) -> None:
        self.script: list[tuple[int, dict[str, str], str]] = []
        self.asked: list[str] = []
        web = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                web.asked.append(self.path)
                status, headers, body = web.script.pop(0) if len(web.script) > 1 else web.script[0]
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys?x=1"


@pytest.fixture
def web() -> Iterator[Web]:
    made = Web()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def test_a_set_from_the_web(web: Web) -> None:
    """Redirects are followed; the set is fetched again when it is stale; a failure leaves it as it was."""

    async def run() -> None:
        web.script = [
            (302, {"Location": "/moved"}, ""),
            (200, {"Cache-Control": "public, max-age=1"}, named("one")),
            (500, {}, "out of order"),
            (200, {"Cache-Control": "max-age=3600"}, named("two")),
        ]
        provider = jwks(web.url, minRefreshInterval="1ms")
        await provider.open()
        await provider.find("one")
        await until_found(provider, "two")
        assert web.asked[:2] == ["/keys?x=1", "/moved"]
        assert len(web.asked) == 4
        await provider.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((404, {}, "no"), "answered 404"),
        ((200, {}, "no set"), "jwks: not JSON"),
        ((302, {"Location": "ftp://x/"}, ""), "not an http or https URL"),
        ((302, {"Location": "/again"}, ""), "more than 10 redirects"),
        ((200, {}, "x" * ((4 << 20) + 1)), "longer than"),
    ],
)
def test_a_set_that_cannot_be_had(web: Web, answer: tuple[int, dict[str, str], str], text: str) -> None:
    async def run() -> None:
        web.script = [answer]
        provider = jwks(web.url)
        with pytest.raises((ComponentError, ConfigError), match=text) as failure:
            await provider.open()
        assert "x=1" not in str(failure.value), "a query may be secret"
        await provider.close()

    asyncio.run(run())


def test_tls() -> None:
    """A server is verified: by the authorities that are given, or by those of the machine, who do not know this one."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(client)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nExpires: Thu, 01 Jan 1970 00:01:40 GMT\r\n\r\nok")
        await writer.drain()
        writer.close()

    async def run() -> None:
        async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
            url = f"https://localhost:{server.sockets[0].getsockname()[1]}/"
            found = await web_document.fetch(url, timeout_s=20, most=10, context=client)
            assert (found.body, found.fresh_s(40.0), found.fresh_s(1000.0)) == (b"ok", 60.0, 0.0)
            with pytest.raises(ComponentError, match=r"certificate|CERTIFICATE"):
                await web_document.fetch(url, timeout_s=20, most=10)

    asyncio.run(run())


def test_after_the_end() -> None:
    """Work that needs a thread is refused by a component that was closed, as the call that it is."""

    async def run() -> None:
        provider = jwks(json.dumps(key_set()))
        await provider.open()
        await provider.close()
        with pytest.raises(ComponentError, match="is closed"):
            await provider.sign(bytes(32), "RS256", "rsa")

    asyncio.run(run())


def test_nobody_answers() -> None:
    async def run() -> None:
        provider = jwks("http://127.0.0.1:1/keys")
        with pytest.raises(ComponentError):
            await provider.open()
        await provider.close()

    asyncio.run(run())


def test_a_file_whose_reading_fails_in_an_unexpected_way_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no other word of what was written."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)
    reading, failed = jwks_crypto._file, threading.Event()

    def read(path: str) -> bytes:
        text = reading(path)
        if b"two" in text and not failed.is_set():
            failed.set()
            raise RuntimeError("nobody expects this")
        return text

    monkeypatch.setattr(jwks_crypto, "_file", read)

    async def run() -> None:
        path, fresh = tmp_path / "set.json", tmp_path / "fresh"
        path.write_text(named("one"))
        fresh.write_text(named("two"))
        provider = jwks(str(path))
        await provider.open()
        fresh.rename(path)
        await until_found(provider, "two")
        assert failed.is_set()
        await provider.close()

    asyncio.run(run())
