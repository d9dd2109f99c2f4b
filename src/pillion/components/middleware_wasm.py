"""`middleware.http.wasm`: a WebAssembly guest of the http-wasm handler ABI sees requests and answers.

Guests run on threads and never hold up the loop. An instance belongs to one exchange from request to answer, then
serves the next one; one that trapped, or whose client went away, is thrown away.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from wasmtime import Trap as GuestTrap
from wasmtime import WasmtimeError

from pillion.components.fetch import fetch
from pillion.components.wasm_exchange import BUFFER_RESPONSE, Exchange, Trap
from pillion.components.wasm_guest import Guest, Program
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import setting
from pillion.net.exchange import Request, Response
from pillion.net.middleware import discard, plain, request_body, response_body

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pillion.kinds.component import Context
    from pillion.net.middleware import Next

MOST_CODE = 64 << 20
MOST_INSTANCES = 256
"""Exchanges within the guest at once; more wait."""
THREADS = 4
_TRAPS = (Trap, GuestTrap, WasmtimeError)


@dataclass(frozen=True)
class WasmSettings:
    url: str = setting(help="where the guest is: file://path or http(s)://")
    guest_config: str = setting("", help="what the guest gets from get_config")
    strict_sandbox: bool = setting(False, help="fixed random numbers, a clock of its own, no waiting")


class Wasm:
    """The middleware."""

    Settings = WasmSettings

    def __init__(self, settings: WasmSettings, context: Context) -> None:
        if urlsplit(settings.url).scheme not in ("file", "http", "https"):
            raise ConfigError(f"metadata field 'url' is {settings.url!r}", mend="use file://, http:// or https://")
        self._settings = settings
        self._config = settings.guest_config.encode()
        name = Path(urlsplit(settings.url).path).name.removesuffix(".wasm")
        self._log = logging.getLogger(f"pillion.components.wasm.{name}")
        self._threads = ThreadPoolExecutor(THREADS, f"wasm {context.name}")
        self._slots = asyncio.Semaphore(MOST_INSTANCES)
        self._idle: list[Guest] = []
        self._features = 0
        self._program: Program | None = None

    async def open(self) -> None:
        code = await self._code()
        self._program = await self._run(lambda: Program(code, strict=self._settings.strict_sandbox))
        first = self._exchange(Request("GET", b"/", []), bytes)
        self._idle.append(await self._run(lambda: self._instance(first)))
        self._features = first.features

    async def _code(self) -> bytes:
        url = self._settings.url
        if url.startswith("file:"):
            path = Path(unquote(url.removeprefix("file://")))
            try:
                code: bytes = await self._run(lambda: path.read_bytes() if path.stat().st_size <= MOST_CODE else b"")
            except OSError as error:
                raise ComponentError(f"{path} cannot be read: {error.strerror}") from error
            if not code:
                raise ComponentError(f"{path} is empty or longer than {MOST_CODE >> 20} MiB")
            return code
        answer = await fetch(url, most=MOST_CODE)
        if answer.status != 200:
            raise ComponentError(f"{url} answered {answer.status}")
        return answer.body

    async def ping(self) -> None: ...

    async def close(self) -> None:
        self._idle.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, request: Request, next: Next) -> Response:
        loop = asyncio.get_running_loop()

        def read_request() -> bytes:
            return asyncio.run_coroutine_threadsafe(request_body(request), loop).result()

        exchange = self._exchange(request, read_request)
        async with self._slots:
            try:
                guest = self._idle.pop() if self._idle else await self._run(lambda: self._instance(exchange))
                onward, context = await self._run(lambda: guest.handle_request(exchange))
            except _TRAPS as error:
                self._log.error("the guest trapped: %s", error)
                return plain(500, str(error))
            if onward:
                try:
                    await self._onward(guest, exchange, context, next)
                except _TRAPS as error:
                    self._log.error("the guest trapped at the answer: %s", error)
                    await discard(exchange.response)
                    return plain(500)
            self._idle.append(guest)
            return exchange.response

    async def _onward(self, guest: Guest, exchange: Exchange, context: int, next: Next) -> None:
        try:
            response = await next(exchange.request)
        except Exception:
            exchange.returned(plain(500))
            try:
                await self._run(lambda: guest.handle_response(context, True))
            except _TRAPS as error:
                self._log.error("the guest trapped at a failure: %s", error)
            else:
                self._idle.append(guest)
            raise
        if exchange.features & BUFFER_RESPONSE:
            await response_body(response)
        exchange.returned(response)
        await self._run(lambda: guest.handle_response(context, False))

    def _exchange(self, request: Request, read_request: Callable[[], bytes]) -> Exchange:
        return Exchange(
            request, Response(200), features=self._features, config=self._config, log=self._log,
            read_request=read_request,
        )  # fmt: skip

    def _instance(self, exchange: Exchange) -> Guest:
        assert self._program is not None
        return Guest(self._program, exchange)

    async def _run(self, work: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)
