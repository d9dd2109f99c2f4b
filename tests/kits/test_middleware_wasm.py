"""`middleware.http.wasm`: a guest written for the purpose uses the host's functions, rightly and wrongly."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import wasmtime

from apps import HttpApp
from pillion.components import wasm_guest
from pillion.components.middleware_wasm import Wasm
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import Context, decode
from pillion.net.exchange import Request, Response
from pillion.testing.middleware_kit import MiddlewareKit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

GUEST = bytes(wasmtime.wat2wasm(Path(__file__).with_name("guest.wat").read_text()))
PLAIN = b"""(module (memory (export "memory") 1)
  (func (export "handle_request") (result i64) (i64.const 1))
  (func (export "handle_response") (param i32 i32)))"""


def wasm(folder: Path, code: bytes = GUEST, **metadata: str) -> Any:
    path = folder / "guest.wasm"
    path.write_bytes(code)
    return Wasm(decode(Wasm.Settings, {"url": f"file://{path}", **metadata}, where="test"), Context("test"))


class TestWasm(MiddlewareKit):
    refusal = 403
    streams = False  # the guest asks for whole answers

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def middleware(self) -> AbstractAsyncContextManager[Any]:
        return contextlib.nullcontext(wasm(self.folder))

    def refused(self) -> Request:
        return Request("GET", b"/deny", [])

    def test_a_refused_request_is_not_passed_on(self) -> None:
        """The guest answers by itself; its body has whatever type it says."""

        async def run() -> None:
            middleware = wasm(self.folder)
            await middleware.open()
            seen, response = await ask(middleware, b"/deny")
            assert (seen, response.status, response.body) == (None, 403, b"refused")
            await middleware.close()

        asyncio.run(run())


class TestPlainGuest(MiddlewareKit):
    """A guest that asks for nothing does not keep answers from streaming."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.folder = tmp_path

    def middleware(self) -> AbstractAsyncContextManager[Any]:
        return contextlib.nullcontext(wasm(self.folder, bytes(wasmtime.wat2wasm(PLAIN.decode()))))


async def ask(
    middleware: Any, target: bytes, *headers: tuple[bytes, bytes], body: Any = b""
) -> tuple[Request | None, Response]:
    seen: list[Request] = []

    async def destination(request: Request) -> Response:
        seen.append(request)
        return Response(200, [], b"answer")

    response = await middleware(Request("POST", target, list(headers), body, peer=("::1", 7)), destination)
    return (seen[0] if seen else None), response


class _Slow:
    """A body in pieces."""

    length = None
    trailers: list[tuple[bytes, bytes]] = []  # noqa: RUF012

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in (b"ab", b"cdef", b"g"):
            await asyncio.sleep(0)
            yield piece

    async def read(self) -> bytes:
        return b"".join([piece async for piece in self])


def test_what_a_guest_changes(tmp_path: Path) -> None:
    """Headers, path, bodies of both directions, status; its state survives from one exchange to the next."""

    async def run() -> None:
        middleware = wasm(tmp_path, guestConfig="configured")
        await middleware.open()
        seen, response = await ask(middleware, b"/plain", (b"x-guest", b"forged"))
        assert seen is not None
        assert [value for name, value in seen.headers if name == b"x-guest"] == [b"configured"]
        assert (b"x-count", b"1") in response.headers
        seen, response = await ask(middleware, b"/uri?x")
        assert seen is not None
        assert seen.target == b"/rewritten"
        assert (b"x-count", b"2") in response.headers
        for body in (b"abcdefg", _Slow()):
            seen, _ = await ask(middleware, b"/body", (b"x-in", b"+"), (b"content-length", b"7"), body=body)
            assert seen is not None
            assert seen.body == b"abc+def+g+"
            assert seen.header(b"content-length") is None
        _, response = await ask(middleware, b"/answer")
        assert (response.status, response.body) == (202, b"an")
        await middleware.close()

    asyncio.run(run())


def test_traps(tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the request is passed on: 500 and the reason. At the answer: 500, nothing of the answer is shown. An
    endless loop ends when its fuel does. Afterwards others are served by a new instance.
    """
    monkeypatch.setattr(wasm_guest, "FUEL", 1_000_000)

    async def run() -> None:
        middleware = wasm(tmp_path)
        await middleware.open()
        for target, text in [
            (b"/trap", b"unreachable"),
            (b"/spin", b"fuel"),
            (b"/memory", b"out of the guest's memory"),
            (b"/header", b"is no header"),
        ]:
            seen, response = await ask(middleware, target)
            assert (seen, response.status) == (None, 500)
            assert isinstance(response.body, bytes)
            assert text in response.body
        for target in (b"/late", b"/xtrap"):
            seen, response = await ask(middleware, target)
            assert seen is not None
            assert (response.status, response.body) == (500, b"Internal Server Error")
        assert (await ask(middleware, b"/ok"))[1].status == 200
        await middleware.close()

    asyncio.run(run())
    assert "changed after it was passed on" in caplog.text


def test_lists_are_written_whole_or_not_at_all(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Over the limit only the length is told; names end with NUL."""

    async def run() -> None:
        middleware = wasm(tmp_path)
        await middleware.open()
        assert (await ask(middleware, b"/names", (b"host", b"h"), (b"a", b"1"), (b"a", b"2")))[1].status == 200
        await middleware.close()

    asyncio.run(run())
    assert "host\0a\0" in caplog.text


@pytest.mark.parametrize("strict", ["true", "false"])
def test_in_the_strict_sandbox_nothing_is_random(tmp_path: Path, strict: str) -> None:
    async def run() -> bytes:
        middleware = wasm(tmp_path, strictSandbox=strict)
        await middleware.open()
        body = (await ask(middleware, b"/random"))[1].body
        await middleware.close()
        assert isinstance(body, bytes)
        assert len(body) == 8
        return body

    assert (asyncio.run(run()) == asyncio.run(run())) is (strict == "true")


def test_where_guests_come_from(tmp_path: Path) -> None:
    """A file or an HTTP server; what is no guest stops the component."""

    async def opened(url: str) -> None:
        middleware = Wasm(decode(Wasm.Settings, {"url": url}, where="test"), Context("test"))
        try:
            await middleware.open()
        finally:
            await middleware.close()

    with HttpApp(answer=lambda call: (200, {}, GUEST) if call.path == "/g.wasm" else (404, {}, b"")) as app:
        asyncio.run(opened(f"http://127.0.0.1:{app.port}/g.wasm"))
        with pytest.raises(ComponentError, match="answered 404"):
            asyncio.run(opened(f"http://127.0.0.1:{app.port}/other"))
    (tmp_path / "text").write_text("nonsense")
    (tmp_path / "empty").write_bytes(bytes(wasmtime.wat2wasm("(module)")))
    for name, text in [("text", "no WebAssembly"), ("empty", "does not export"), ("none", "cannot be read")]:
        with pytest.raises(ComponentError, match=text):
            asyncio.run(opened(f"file://{tmp_path}/{name}"))
    for url in ("oci://registry/guest", "/path", "guest.wasm"):
        with pytest.raises(ConfigError, match="url"):
            asyncio.run(opened(url))
