"""A real MCP server, made with the official library: a program over stdio, streamable HTTP or SSE.

`python mcp_program.py FOLDER stdio|http|sse [PORT] [--json] [--token=START]` serves; `journal` in the folder gets a
line for each HTTP request, each call of a tool, and the life of the process.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

NUMBERS = {"type": "object", "properties": {"a": {"type": "number"}, "b": {"type": "number"}}, "required": ["a", "b"]}
TEXT = {"type": "object", "properties": {"text": {}}}
TOOLS: Mapping[str, Mapping[str, Any]] = {
    "add": NUMBERS, "echo": TEXT, "refuse": TEXT, "fail": TEXT, "wait": TEXT, "dotted.name": TEXT, "die": TEXT,
}  # fmt: skip
"""`refuse` answers with an error of the protocol, `fail` with a result that is one, `wait` not before `go` is there."""
PAGE = 3


def serve(folder: Path, transport: str, port: int) -> None:
    import anyio
    import mcp_types as types
    import uvicorn
    from mcp.server.lowlevel.server import Server
    from mcp.server.sse import SseServerTransport
    from mcp.server.stdio import stdio_server
    from mcp.shared.exceptions import MCPError
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Mount, Route

    def note(**values: object) -> None:
        with (folder / "journal").open("a") as journal:
            journal.write(json.dumps(values) + "\n")

    async def list_tools(ctx: Any, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        begin = int(params.cursor) if params is not None and params.cursor else 0
        extra = (folder / "extra").read_text().split() if (folder / "extra").exists() else []
        tools = [*TOOLS.items(), *((name, TEXT) for name in extra)]
        note(listed=begin)
        made = [types.Tool(name=name, input_schema=dict(schema)) for name, schema in tools[begin : begin + PAGE]]
        return types.ListToolsResult(tools=made, next_cursor=str(begin + PAGE) if begin + PAGE < len(tools) else None)

    async def call_tool(ctx: Any, params: types.CallToolRequestParams) -> types.CallToolResult:
        arguments = params.arguments or {}
        note(tool=params.name, arguments=params.arguments)
        match params.name:
            case "add":
                total = arguments["a"] + arguments["b"]
                return types.CallToolResult(
                    content=[types.TextContent(type="text", text=str(total))], structured_content={"sum": total}
                )
            case "refuse":
                raise MCPError(-32000, "not today")
            case "fail":
                return types.CallToolResult(content=[types.TextContent(type="text", text="it failed")], is_error=True)
            case "wait":
                async with asyncio.timeout(60):
                    while not (folder / "go").exists():  # noqa: ASYNC110
                        await anyio.sleep(0.02)  # a file is all that two processes have in common
            case "die" if not (folder / "died").exists():
                (folder / "died").touch()
                os.kill(os.getpid(), signal.SIGKILL)
        said = json.dumps({"arguments": params.arguments, "env": os.environ.get("MCP_TEST", "")})
        return types.CallToolResult(content=[types.TextContent(type="text", text=said)])

    server: Server[Any] = Server("test", version="1", on_list_tools=list_tools, on_call_tool=call_tool)

    async def over_stdio() -> None:
        note(started=os.getpid())
        async with stdio_server() as (incoming, outgoing):
            await server.run(incoming, outgoing, server.create_initialization_options())
        note(ended="stdin")

    if transport == "stdio":
        asyncio.run(over_stdio())
        return
    if transport == "http":
        app = server.streamable_http_app(json_response="--json" in sys.argv)
    else:
        events = SseServerTransport("/messages/")

        async def stream(request: Any) -> Response:
            async with events.connect_sse(request.scope, request.receive, request._send) as (incoming, outgoing):
                await server.run(incoming, outgoing, server.create_initialization_options())
            return Response()

        app = Starlette(routes=[Route("/sse", endpoint=stream), Mount("/messages/", app=events.handle_post_message)])

    async def watched(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = {name.decode(): value.decode() for name, value in scope["headers"]}
            note(method=scope["method"], path=scope["path"], headers=headers)
            wanted = next((word[8:] for word in sys.argv if word.startswith("--token=")), "")
            status = 401 if wanted and not headers.get("authorization", "").startswith(wanted) else 0
            if (folder / "status").exists():
                status = int((folder / "status").read_text())
            if status:
                await receive()
                await send({"type": "http.response.start", "status": status, "headers": []})
                await send({"type": "http.response.body", "body": b""})
                return
        await app(scope, receive, send)

    uvicorn.run(watched, host="127.0.0.1", port=port, log_level="warning", timeout_graceful_shutdown=1)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 0)
