"""`conversation.echo`: says what was said to it (spec `crypto-conversation-mcp.md` 4.3). For trying things out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.kinds.conversation import Choice, Reply, Role, ToolCall, Usage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pillion.kinds.component import Context
    from pillion.kinds.conversation import Request


@dataclass(frozen=True)
class EchoSettings:
    """There is nothing to set."""


class EchoConversation:
    """The model that repeats."""

    Settings = EchoSettings

    def __init__(self, settings: EchoSettings, context: Context) -> None:
        self._name = context.name

    async def open(self) -> None:
        """There is nothing to connect to."""

    async def ping(self) -> None:
        """Always there."""

    async def close(self) -> None:
        """There is nothing to let go of."""

    async def converse(self, request: Request) -> Reply:
        return echo(request)

    def __repr__(self) -> str:
        return f"<EchoConversation {self._name}>"


def echo(request: Request) -> Reply:
    """Return all texts and tool results joined by newlines, and a call of every tool of the request."""
    text = "\n".join(_lines(request))
    asked = (
        ToolCall(tool.name, ",".join(_properties(tool.parameters)), str(index))
        for index, tool in enumerate(request.tools)
    )
    earlier = (call for message in request.messages if message.role is Role.ASSISTANT for call in message.calls)
    calls = (*asked, *earlier)
    words = len(text.split())
    return Reply(
        (Choice(text, calls, "tool_calls" if calls else "stop"),),
        usage=Usage(prompt=words, completion=words, total=2 * words),
    )


def _lines(request: Request) -> Iterator[str]:
    for message in request.messages:
        yield from message.texts
        for result in message.results:
            yield f"Tool Response for tool ID '{result.call_id}' with name '{result.name}': {result.content}"


def _properties(schema: Mapping[str, object]) -> list[str]:
    properties = schema.get("properties")
    return sorted(properties) if isinstance(properties, dict) else []
