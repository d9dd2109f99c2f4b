"""What providers of language models have in common: a POST of JSON, its errors, answers kept for a while.

Knows: bounds, deadlines, how a failure is told (spec `crypto-conversation-mcp.md` 4.1). Never knows: what the JSON
means.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import orjson

from pillion.clock import SystemClock
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import seconds, setting
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Request
from pillion.net.http_client import HttpClient, HttpError
from pillion.net.middleware import response_body
from pillion.net.tls import client_context
from pillion.wire.gojson import dumps_canonical

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.clock import Clock
    from pillion.kinds.conversation import Reply
    from pillion.kinds.conversation import Request as Conversation
    from pillion.net.exchange import Headers

MOST_BYTES = 16 << 20
"""Of an answer."""
MOST_KEPT = 1000
MOST_KEPT_BYTES = 16 << 20
MOST_TOLD = 2000
"""Characters of a provider's error that callers see."""


@dataclass(frozen=True, kw_only=True)
class ChatSettings:
    """Metadata of every provider. Durations in seconds."""

    model: str = setting("", help="an environment variable of the provider wins")
    endpoint: str = setting("", help="base URL")
    response_cache_ttl: float = setting(
        0.0,
        key="responseCacheTTL",
        aliases=("cacheTTL",),
        parse=seconds,
        help="answers are repeated for so long; 0: not",
    )
    request_timeout: float = setting(
        600.0, key="pillion.requestTimeout", parse=seconds, help="longest wait for an answer; 0: no limit"
    )


_SAFE = "/%:@!$&'()*+,;=~-._"


class ChatServer:
    """One address of a provider: `await server.post("/chat/completions", document)`.

    `headers` go with every request; secrets are in them, so they are never shown.
    """

    def __init__(self, base: str, headers: dict[str, str], *, timeout_s: float, where: str) -> None:
        try:
            parts = urlsplit(base)
            host, port = parts.hostname, parts.port
            if parts.scheme not in ("http", "https") or not host:
                raise ValueError("it is not http://… or https://…")
        except ValueError as error:
            raise ConfigError(f"endpoint {base[:200]!r}: {error}", where=where) from error
        self._host, self._secure = host, parts.scheme == "https"
        self._port = port or (443 if self._secure else 80)
        self._path = quote(parts.path.rstrip("/"), safe=_SAFE)
        self._query = quote(parts.query, safe=_SAFE + "?")
        self._headers: Headers = [(b"content-type", b"application/json"), (b"accept", b"application/json")]
        for name, value in headers.items():
            if not value.isprintable() or not value.isascii():
                raise ConfigError(f"what goes into the header {name} is not printable ASCII", where=where)
            self._headers.append((name.encode(), value.encode()))
        self._timeout_s = timeout_s if timeout_s > 0 else None
        self._client: HttpClient | None = None

    async def open(self) -> None:
        """Prepare; connections are made by requests."""
        tls = await asyncio.to_thread(client_context) if self._secure else None
        self._client = HttpClient(self._host, self._port, tls=tls)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.close()

    async def post(self, path: str, document: object) -> dict[str, Any]:
        """Return the JSON object of a successful answer. Raises `ComponentError`, the provider's own words in it."""
        client = self._client
        if client is None:
            raise ComponentError("the component is closed")
        query = f"?{self._query}" if self._query else ""
        target = (self._path + path + query).encode()
        request = Request("POST", target, list(self._headers), dumps_canonical(document))
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await client.request(request)
                body = await response_body(response, MOST_BYTES)
        except TimeoutError as error:
            raise ComponentError(f"no answer of {self._host} within {self._timeout_s:g} s") from error
        except BodyTooLarge as error:
            raise ComponentError(f"the answer of {self._host} is longer than {MOST_BYTES} bytes") from error
        except (HttpError, OSError, BodyIncomplete, ValueError) as error:
            raise ComponentError(f"{self._host} cannot be asked: {error or type(error).__name__}") from error
        if response.status != 200:
            raise ComponentError(refusal(response.status, body))
        try:
            answer = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise ComponentError(f"the answer of {self._host} is not JSON: {error}") from error
        if not isinstance(answer, dict):
            raise ComponentError(f"the answer of {self._host} is not a JSON object")
        return answer

    def __repr__(self) -> str:
        return f"<ChatServer {self._host}:{self._port}{self._path}>"


def refusal(status: int, body: bytes) -> str:
    """Return how an answer that is none is told: `API returned unexpected status code: 401: <error.message>`."""
    lead = f"API returned unexpected status code: {status}"
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return lead
    error = document.get("error") if isinstance(document, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return f"{lead}: {message[:MOST_TOLD]}" if isinstance(message, str) and message else lead


class ChatModel:
    """One model behind one server; its replies are kept for `kept_s` seconds."""

    def __init__(self, server: ChatServer, model: str, *, kept_s: float = 0.0) -> None:
        self._server, self._model = server, model
        self._kept = KeptReplies(kept_s)

    async def open(self) -> None:
        await self._server.open()

    async def ping(self) -> None:
        """Nothing is asked: every question to a provider costs money."""

    async def close(self) -> None:
        await self._server.close()

    async def converse(self, request: Conversation) -> Reply:
        return await self._kept.answer(request, lambda: self._ask(request))

    async def _ask(self, request: Conversation) -> Reply:
        """Put the question to the model, as its protocol has it. Raises `ComponentError`."""
        raise NotImplementedError

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._model} {self._server!r}>"


class KeptReplies:
    """Answers by what was asked, for `ttl_s` seconds; 0 keeps none. The oldest leave when there are too many."""

    def __init__(self, ttl_s: float, clock: Clock | None = None) -> None:
        self._ttl_s = ttl_s
        self._clock = clock or SystemClock()
        self._kept: OrderedDict[bytes, tuple[float, int, Reply]] = OrderedDict()
        self._bytes = 0

    async def answer(self, request: Conversation, ask: Callable[[], Awaitable[Reply]]) -> Reply:
        """Return a kept answer to the same request, else what `ask` answers; its errors are not kept."""
        if self._ttl_s <= 0:
            return await ask()
        key = hashlib.sha256(orjson.dumps(asdict(request), option=orjson.OPT_SORT_KEYS)).digest()
        found = self._kept.get(key)
        if found is not None and found[0] > self._clock.monotonic():
            return found[2]
        reply = await ask()
        self._drop(key)
        size = sum(
            len(choice.text) + sum(len(call.name) + len(call.arguments) for call in choice.calls)
            for choice in reply.choices
        )
        self._kept[key] = (self._clock.monotonic() + self._ttl_s, size, reply)
        self._bytes += size
        while len(self._kept) > MOST_KEPT or self._bytes > MOST_KEPT_BYTES:
            self._drop(next(iter(self._kept)))
        return reply

    def _drop(self, key: bytes) -> None:
        found = self._kept.pop(key, None)
        if found is not None:
            self._bytes -= found[1]

    def __repr__(self) -> str:
        return f"<KeptReplies: {len(self._kept)} for {self._ttl_s:g} s>"


def text_of(document: dict[str, Any], name: str) -> str:
    """A field of a provider's answer, "" unless it is a text."""
    value = document.get(name)
    return value if isinstance(value, str) else ""


def object_of(document: dict[str, Any], name: str) -> dict[str, Any]:
    """A field of a provider's answer, {} unless it is an object."""
    value = document.get(name)
    return value if isinstance(value, dict) else {}


def objects_of(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The objects in a list of a provider's answer, [] unless it is a list."""
    value = document.get(name)
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def count_of(document: dict[str, Any], name: str) -> int:
    """A number of a provider's answer that counts something, 0 unless it does."""
    value = document.get(name)
    return value if isinstance(value, int) and 0 <= value < 1 << 63 else 0
