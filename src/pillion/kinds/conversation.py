"""Conversations with language models: what is said to one, and what it answers (spec `crypto-conversation-mcp.md` 4).

Nothing is remembered between requests: the whole conversation so far is in each of them.
"""

from __future__ import annotations

from dataclasses import field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from pillion.kinds.component import Component
from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Mapping


class Role(StrEnum):
    """Who speaks. Developers are users to every provider."""

    USER = "user"
    SYSTEM = "system"
    ASSISTANT = "assistant"
    TOOL = "tool"
    FUNCTION = "function"
    GENERIC = "generic"


@record
class ToolCall:
    """A model wants a function called. `arguments` is a JSON text as the model wrote it: not always a valid one."""

    name: str
    arguments: str
    id: str = ""


@record
class ToolResult:
    """What a function that was called has answered."""

    call_id: str
    name: str
    content: str


@record
class Message:
    """One turn. Only assistants make `calls`, only tools give `results`."""

    role: Role
    texts: tuple[str, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    results: tuple[ToolResult, ...] = ()


@record
class Tool:
    """A function that the model may want called; `parameters` is a JSON Schema."""

    name: str
    description: str
    parameters: Mapping[str, Any]


@record
class Request:
    """What is asked of a model.

    `tool_choice`: "" when nothing was said, `none`, `auto`, `required` (also `any`), or the name of a tool.
    `temperature` 0 is the provider's own. `response_format` is a JSON Schema, None for free text.
    """

    messages: tuple[Message, ...]
    tools: tuple[Tool, ...] = ()
    tool_choice: str = ""
    temperature: float = 0.0
    response_format: Mapping[str, Any] | None = None
    prompt_cache_retention_s: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@record
class Usage:
    """Tokens as the provider counts them; those it does not tell are 0."""

    prompt: int = 0
    completion: int = 0
    total: int = 0
    accepted_prediction: int = 0
    rejected_prediction: int = 0
    reasoning: int = 0
    completion_audio: int = 0
    prompt_audio: int = 0
    cached: int = 0


@record
class Choice:
    """One answer. `finish_reason` is the provider's word, "" when it says none."""

    text: str = ""
    calls: tuple[ToolCall, ...] = ()
    finish_reason: str = ""


@record
class Reply:
    """The answers, the name of the model ("" for none) and what it cost."""

    choices: tuple[Choice, ...]
    model: str = ""
    usage: Usage = Usage()


@runtime_checkable
class ConversationModel(Component, Protocol):
    """A language model behind a provider."""

    async def converse(self, request: Request) -> Reply:
        """Ask the model; raises `ComponentError` with a text that the caller may see."""
        ...
