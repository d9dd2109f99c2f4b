"""Conversations between their protobuf form and the house's own (spec `crypto-conversation-mcp.md` 4.1).

Pure: messages in, values out. Knows: roles, which texts are scrubbed, tool choices. Never knows: components, HTTP.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pillion.kinds.conversation import Message, Request, Role, Tool, ToolCall, ToolResult, Usage
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pillion.kinds.conversation import Choice, Reply

    Scrub = Callable[[str], str]

ROLES = {
    "user": Role.USER,
    "human": Role.USER,
    "system": Role.SYSTEM,
    "assistant": Role.ASSISTANT,
    "ai": Role.ASSISTANT,
    "tool": Role.TOOL,
    "function": Role.FUNCTION,
    "generic": Role.GENERIC,
}
"""The words of alpha1; any other means a user."""
_SPEAKERS = {
    "of_developer": Role.USER,
    "of_system": Role.SYSTEM,
    "of_user": Role.USER,
    "of_assistant": Role.ASSISTANT,
}
CHOICES = frozenset({"none", "auto", "required"})


def temperature_of(metadata: Mapping[str, str]) -> float:
    """The temperature that alpha1 metadata ask for, 0 for none: the one key that the reference decodes with an effect.

    Raises ValueError where decoding fails.
    """
    named = [value for key, value in metadata.items() if key.lower() == "temperature"]
    if len(named) > 1:
        raise ValueError("metadata key 'temperature' is given twice")
    return float(named[0]) if named and named[0] else 0.0


def from_alpha1(request: m.ConversationRequest, scrub: Scrub) -> Request:
    """One message per input. Raises ValueError for metadata that cannot be decoded."""
    temperature = request.temperature or temperature_of(request.metadata)
    messages = tuple(
        Message(ROLES.get(item.role, Role.USER), (scrub(item.content) if item.scrubPII else item.content,))
        for item in request.inputs
    )
    return Request(messages, temperature=_positive(temperature))


def from_alpha2(request: m.ConversationRequestAlpha2, scrub: Scrub) -> Request:
    """One message per message. Raises ValueError naming what is missing or does not fit together."""
    messages = tuple(
        _message(item, scrub if group.scrub_pii else _as_it_is) for group in request.inputs for item in group.messages
    )
    tools = tuple(_tool(item) for item in request.tools)
    retention = request.prompt_cache_retention
    return Request(
        messages,
        tools=tools,
        tool_choice=_tool_choice(request.tool_choice, tools),
        temperature=_positive(request.temperature),
        response_format=_plain(request.response_format) if request.HasField("response_format") else None,
        prompt_cache_retention_s=(
            retention.seconds + retention.nanos / 1e9 if request.HasField("prompt_cache_retention") else None
        ),
        metadata=dict(request.metadata),
    )


def _as_it_is(text: str) -> str:
    return text


def _message(item: m.ConversationMessage, scrub: Scrub) -> Message:
    kind = item.WhichOneof("message_types")
    if kind is None:
        raise ValueError("message type cannot be nil")
    said = getattr(item, kind)
    texts = tuple(scrub(part.text) for part in said.content)
    if kind == "of_tool":
        return Message(Role.TOOL, results=tuple(ToolResult(said.tool_id, said.name, text) for text in texts))
    calls = tuple(_call(call) for call in said.tool_calls) if kind == "of_assistant" else ()
    return Message(_SPEAKERS[kind], texts, calls)


def _call(item: m.ConversationToolCalls) -> ToolCall:
    if not item.HasField("function"):
        raise ValueError("tool types cannot be nil")
    return ToolCall(item.function.name, item.function.arguments, item.id)


def _tool(item: m.ConversationTools) -> Tool:
    if not item.HasField("function"):
        raise ValueError("tool types cannot be nil")
    function = item.function
    return Tool(function.name, function.description, _plain(function.parameters))


def _tool_choice(choice: str, tools: Sequence[Tool]) -> str:
    if not choice:
        return "auto" if tools else ""
    if choice == "required" and not tools:
        raise ValueError("tool_choice 'required' needs tools")
    if tools and choice not in CHOICES and all(choice != tool.name for tool in tools):
        raise ValueError(f"tool_choice {choice!r} is neither none, auto or required, nor the name of a tool")
    return choice


def _positive(temperature: float) -> float:
    return temperature if temperature > 0 and math.isfinite(temperature) else 0.0


def _plain(struct: object) -> dict[str, object]:
    """A Struct as JSON has it; raises ValueError for one that JSON cannot have."""
    from google.protobuf import json_format  # when a tool is described

    try:
        found: dict[str, object] = json_format.MessageToDict(struct)  # type: ignore[arg-type]
    except json_format.Error as error:
        raise ValueError(str(error)) from error
    return found


def to_alpha1(request: m.ConversationRequest, results: Iterable[str]) -> m.ConversationResponse:
    """Return the answer: one output per result, each with the parameters of the request."""
    reply = m.ConversationResponse(
        outputs=[m.ConversationResult(result=text, parameters=request.parameters) for text in results]
    )
    if request.contextID:
        reply.contextID = request.contextID
    return reply


def to_alpha2(request: m.ConversationRequestAlpha2, reply: Reply, texts: Sequence[str]) -> m.ConversationResponseAlpha2:
    """Return the answer: one output per choice of the model; `texts` are their texts, scrubbed or not."""
    answer = m.ConversationResponseAlpha2()
    usage = _usage(reply.usage)
    for index, (choice, text) in enumerate(zip(reply.choices, texts, strict=True)):
        output = answer.outputs.add()
        output.choices.append(_choice(choice, index, text))
        if reply.model:
            output.model = reply.model
        if usage is not None:
            output.usage.CopyFrom(usage)
    if request.context_id:
        answer.context_id = request.context_id
    return answer


def _choice(choice: Choice, index: int, text: str) -> m.ConversationResultChoices:
    found = m.ConversationResultChoices(finish_reason=choice.finish_reason or "unknown", index=index)
    found.message.content = text
    for call in choice.calls:
        item = found.message.tool_calls.add()
        item.function.name, item.function.arguments = call.name, call.arguments
        if call.id:
            item.id = call.id
    return found


def _usage(usage: Usage) -> m.ConversationResultAlpha2CompletionUsage | None:
    if not (usage.prompt or usage.completion or usage.total):
        return None
    found = m.ConversationResultAlpha2CompletionUsage(
        completion_tokens=usage.completion, prompt_tokens=usage.prompt, total_tokens=usage.total
    )
    if usage.accepted_prediction or usage.rejected_prediction or usage.reasoning or usage.completion_audio:
        details = found.completion_tokens_details
        details.accepted_prediction_tokens = usage.accepted_prediction
        details.audio_tokens = usage.completion_audio
        details.reasoning_tokens = usage.reasoning
        details.rejected_prediction_tokens = usage.rejected_prediction
    if usage.prompt_audio or usage.cached:
        found.prompt_tokens_details.audio_tokens = usage.prompt_audio
        found.prompt_tokens_details.cached_tokens = usage.cached
    return found
