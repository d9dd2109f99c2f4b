"""A connection to an MCP server: opened when it is needed, kept, watched, opened once more when it was lost.

The protocol is that of the library `mcp` (docs/decisions/mcp.md), whose session lives in a task of its own: its
contexts must be left by the task that entered them. Spec `crypto-conversation-mcp.md` 5.2. Knows: transports, time.
Never knows: workflows.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import mcp_types as types
from mcp.client.session import ClientSession
from mcp.client.sse import sse_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError
from pydantic import RootModel, ValidationError

from pillion.components.mcp_http import MOST, Client, SessionLost, Tokens
from pillion.components.mcp_stdio import stdio
from pillion.kinds.mcp import McpError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import httpx2

    from pillion.kinds.mcp import McpSettings

log = logging.getLogger("pillion.components.mcp")
for _name in ("mcp", "client", "httpx2", "httpcore2"):
    # Each request at level info, each broken connection with its traceback: what matters of it is told here.
    logging.getLogger(_name).setLevel(logging.CRITICAL + 1)

CLIENT = types.Implementation(name="dapr", version="v1alpha1")
PING_EVERY_S = 30.0
PING_LIMIT_S = 15.0
CLOSE_S = 15.0
"""So long a connection may take to end in order; a process has ten seconds of its own."""
MOST_PAGES = 500
_CLOSED = ("Connection closed", "SSE stream ended")
"""How the library says that the connection was lost: the code alone (-32000) is one that servers use, too."""


class _Document(RootModel[dict[str, Any]]):
    """A result as the server wrote it, members included that the library does not know."""


class _Link:
    """One connection, from its handshake to its end."""

    def __init__(self, settings: McpSettings, values: Mapping[str, str], tokens: Tokens | None) -> None:
        loop = asyncio.get_running_loop()
        self._settings, self._values, self._tokens = settings, values, tokens
        self._closing = asyncio.Event()
        self.error: Exception | None = None
        """Why it ended, None while it has not or when it was simply closed."""
        self.ready: asyncio.Future[ClientSession] = loop.create_future()
        self.ready.add_done_callback(lambda future: future.cancelled() or future.exception())
        self._task = loop.create_task(self._run(), name=f"MCP server {settings.name}")

    @property
    def usable(self) -> bool:
        return not self._closing.is_set() and not self._task.done()

    def end(self, error: Exception | None = None) -> None:
        """Begin to close; what waits for an answer hears that the connection is closed."""
        if self.error is None:
            self.error = error
        self._closing.set()

    async def close(self) -> None:
        self.end()
        done, _ = await asyncio.wait([self._task], timeout=CLOSE_S)
        if not done:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            async with (
                self._transport() as (incoming, outgoing),
                ClientSession(incoming, outgoing, client_info=CLIENT) as session,
            ):
                await session.initialize()
                self.ready.set_result(session)
                await self._watch(session)
        except Exception as error:
            self.end(_first(error))
        finally:
            if not self.ready.done():
                self.ready.set_exception(McpError(f"cannot connect: {self.error or 'the connection was closed'}"))
            self._closing.set()

    async def _watch(self, session: ClientSession) -> None:
        """Wait for the end; ask now and then whether the other side is there, unless it does not know the question."""
        pings = True
        while not self._closing.is_set():
            try:
                async with asyncio.timeout(PING_EVERY_S if pings else None):
                    await self._closing.wait()
            except TimeoutError:
                pings = await self._ping(session)

    async def _ping(self, session: ClientSession) -> bool:
        """Return whether the server knows pings."""
        try:
            async with asyncio.timeout(PING_LIMIT_S):
                await session.send_ping()
        except MCPError as error:
            if error.code == types.METHOD_NOT_FOUND:
                return False
            self.end(McpError(f"a ping failed: {error}"))
        except TimeoutError:
            self.end(McpError(f"a ping was not answered in {PING_LIMIT_S:g}s"))
        return True

    @asynccontextmanager
    async def _transport(self) -> AsyncIterator[Any]:
        settings = self._settings
        if settings.transport == "stdio":
            async with stdio(settings.command, settings.arguments, self._values, self._lost) as streams:
                yield streams
        elif settings.transport == "sse":
            async with sse_client(settings.url, httpx_client_factory=self._listening) as streams:
                yield streams
        else:
            async with (
                self._client(False) as client,
                streamable_http_client(settings.url, http_client=client, max_sse_event_size=MOST) as streams,
            ):
                yield streams

    def _listening(
        self, headers: Any = None, timeout: httpx2.Timeout | None = None, auth: httpx2.Auth | None = None
    ) -> Client:
        return self._client(True)

    def _client(self, streaming: bool) -> Client:
        return Client(
            self._values, timeout_s=self._settings.timeout_s, tokens=self._tokens, streaming=streaming, broken=self.end
        )

    def _lost(self, why: str) -> None:
        if not self._closing.is_set():
            self.end(SessionLost(why))


class McpClient:
    """A server as the sidecar uses it; satisfies `kinds.mcp.ToolServer`.

    `values` are the headers, or the variables of stdio; `secret` belongs to client credentials. `open` connects and
    lists the tools; afterwards a lost connection is opened again by the call that needs it.
    """

    def __init__(self, settings: McpSettings, values: Mapping[str, str], secret: str = "") -> None:
        if settings.spiffe is not None and settings.oauth2 is None:
            raise McpError("auth.spiffe.jwt: this sidecar has no identity to sign with (mTLS is off)")
        self._settings, self._values = settings, values
        self._tokens = None if settings.oauth2 is None else Tokens(settings.oauth2, secret)
        self._link: _Link | None = None
        self._connecting = asyncio.Lock()
        self._closed = False
        self._ending: set[asyncio.Task[None]] = set()
        self._calls = 0
        self._idle = asyncio.Event()
        self._idle.set()
        self.tools: tuple[Mapping[str, Any], ...] = ()

    async def open(self) -> None:
        """Connect and list the tools, in the time of one request. Raises `McpError`."""
        async with self._limit(self._settings.timeout_s):
            self.tools = await self._pages(None)

    async def list_tools(self) -> tuple[Mapping[str, Any], ...]:
        self.tools = await self._pages(self._settings.timeout_s)
        return self.tools

    async def call(self, tool: str, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
        params = types.CallToolRequestParams(name=tool, arguments=None if arguments is None else dict(arguments))
        self._calls += 1
        self._idle.clear()
        try:
            async with self._limit(self._settings.timeout_s):
                return await self._asked(types.CallToolRequest(params=params))
        finally:
            self._calls -= 1
            if not self._calls:
                self._idle.set()

    async def idle(self) -> None:
        """Wait until no call is under way."""
        await self._idle.wait()

    async def close(self) -> None:
        """End the connection: DELETE of the session over HTTP, the end of the process over stdio."""
        self._closed = True
        if self._link is not None:
            await self._left(self._link)
        await asyncio.gather(*self._ending)

    # -- one request

    async def _pages(self, each_s: float | None) -> tuple[Mapping[str, Any], ...]:
        found: list[Mapping[str, Any]] = []
        cursor: str | None = None
        for _ in range(MOST_PAGES):
            asked = types.ListToolsRequest(params=types.PaginatedRequestParams(cursor=cursor) if cursor else None)
            async with self._limit(each_s):
                page = await self._asked(asked)
            found += [tool for tool in page.get("tools", ()) if isinstance(tool, dict)]
            cursor = page.get("nextCursor")
            if not cursor:
                return tuple(found)
        raise McpError(f"the tools take more than {MOST_PAGES} pages")

    @asynccontextmanager
    async def _limit(self, limit_s: float | None) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(limit_s) as limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise McpError(f"no answer within {limit_s:g}s") from error

    async def _asked(self, request: types.Request[Any, Any]) -> dict[str, Any]:
        """Ask, and once more over a new connection when this one was lost: the server may have seen it then."""
        link = await self._connected()
        try:
            return await self._answered(link, request)
        except SessionLost as lost:
            log.info("MCP server %s: %s; connecting again", self._settings.name, lost)
        link = await self._connected()
        return await self._answered(link, request)

    async def _answered(self, link: _Link, request: types.Request[Any, Any]) -> dict[str, Any]:
        session = await asyncio.shield(link.ready)
        try:
            return (await session.send_request(request, _Document)).root
        except ValidationError as error:
            raise McpError(f"the answer is not of the protocol: {error.errors()[0]['msg']}") from error
        except MCPError as error:
            if error.code != types.CONNECTION_CLOSED or not error.message.startswith(_CLOSED):
                raise McpError(error.message) from error
            link.end()
            if isinstance(link.error, McpError) and not isinstance(link.error, SessionLost):
                raise link.error from error
            raise SessionLost(str(link.error or error)) from error

    async def _connected(self) -> _Link:
        async with self._connecting:
            link = self._link
            if link is None or not link.usable:
                if link is not None:
                    await self._left(link)
                if self._closed:
                    raise McpError("the sidecar is done with this server")
                link = self._link = _Link(self._settings, self._values, self._tokens)
                try:
                    await asyncio.shield(link.ready)
                except BaseException:
                    link.end()
                    raise
            return link

    async def _left(self, link: _Link) -> None:
        """Let an old connection end; a process is waited for, for it may hold what the next one needs."""
        ending = asyncio.get_running_loop().create_task(link.close())
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)
        if self._settings.transport == "stdio":
            await asyncio.shield(ending)

    def __repr__(self) -> str:
        link = self._link
        state = "not connected" if link is None or not link.usable else "connected"
        return f"<McpClient {self._settings.name} over {self._settings.transport}, {state}, {len(self.tools)} tools>"


def _first(error: Exception) -> Exception:
    """The error within the library's groups."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


async def connect(settings: McpSettings, values: Mapping[str, str], secret: str = "") -> McpClient:
    """Return an open client. Raises `McpError` and leaves nothing open."""
    client = McpClient(settings, values, secret)
    try:
        await client.open()
    except BaseException:
        await client.close()
        raise
    return client
