"""A process that serves MCP on its standard input and output, as a pair of streams for the library's session.

One JSON message a line (modelcontextprotocol.io/specification/2025-11-25/basic/transports#stdio). Own rather than the
library's: the environment is inherited whole, stderr is dropped, and the end is the one that is specified (spec
`crypto-conversation-mcp.md` 5.1: standard input closed, SIGTERM after 5 s, SIGKILL after 5 more).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import anyio
from mcp.shared.message import SessionMessage
from mcp_types import jsonrpc_message_adapter

from pillion.kinds.mcp import McpError

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

PATIENCE_S = 5.0
"""How long a process may take to end by itself, and again when it is asked to."""
MOST = 16 << 20
"""Bytes of one message."""
Incoming = SessionMessage | Exception


@asynccontextmanager
async def stdio(
    command: str, arguments: Sequence[str], variables: Mapping[str, str], broken: Callable[[str], None]
) -> AsyncIterator[tuple[MemoryObjectReceiveStream[Incoming], MemoryObjectSendStream[SessionMessage]]]:
    """Run a process and speak to it. `broken` is called, with the reason, when it stops speaking before we do.

    Raises `McpError` when it cannot be run. Leaving ends the process and everything that it started.
    """
    program = shutil.which(command)
    if program is None:
        raise McpError(f"no program {command!r} can be found and run")
    try:
        process = await asyncio.create_subprocess_exec(
            program, *arguments, env={**os.environ, **variables}, stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, limit=MOST,
            start_new_session=True,  # a Ctrl-C in the terminal is ours to handle, and children go with it
        )  # fmt: skip
    except OSError as error:
        raise McpError(f"{command!r} cannot be run: {error.strerror}") from error
    heard, incoming = anyio.create_memory_object_stream[Incoming](0)
    outgoing, said = anyio.create_memory_object_stream[SessionMessage](0)
    loop = asyncio.get_running_loop()
    reader = loop.create_task(_read(process, heard, broken))
    writer = loop.create_task(_write(process, said, broken))
    try:
        yield incoming, outgoing
    finally:
        incoming.close()
        outgoing.close()
        ending = loop.create_task(_end(process))
        # A second cancellation must not leave the process behind: its end takes ten seconds at most.
        while not ending.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(ending)
        for task in (reader, writer):
            task.cancel()
        await asyncio.gather(reader, writer, return_exceptions=True)


async def _read(process: Process, heard: MemoryObjectSendStream[Incoming], broken: Callable[[str], None]) -> None:
    assert process.stdout is not None
    why = "the process has ended"
    async with heard:
        with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            try:
                while line := await process.stdout.readline():
                    if line.isspace():
                        continue
                    try:
                        message: Incoming = SessionMessage(jsonrpc_message_adapter.validate_json(line, by_name=False))
                    except ValueError as error:
                        message = error  # a line of something else harms only itself
                    await heard.send(message)
            except ValueError:
                why = f"the process wrote a message of more than {MOST >> 20} MiB"
    broken(why)
    # Whoever cannot write cannot end: what it still says is thrown away.
    while await process.stdout.read(1 << 16):
        pass


async def _write(
    process: Process, said: MemoryObjectReceiveStream[SessionMessage], broken: Callable[[str], None]
) -> None:
    assert process.stdin is not None
    async with said:
        try:
            async for message in said:
                text = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                process.stdin.write(text.encode() + b"\n")
                await process.stdin.drain()
        except OSError:
            broken("the process has closed its standard input")


async def _end(process: Process) -> None:
    assert process.stdin is not None
    process.stdin.close()
    waiting = asyncio.ensure_future(process.wait())
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
        done, _ = await asyncio.wait([waiting], timeout=PATIENCE_S)
        if done:
            return
    waiting.cancel()
