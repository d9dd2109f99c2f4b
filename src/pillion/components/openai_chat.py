"""The chat completions of OpenAI, which many servers speak: requests as JSON, answers from JSON.

Pure. Shapes: platform.openai.com/docs/api-reference/chat, spec `crypto-conversation-mcp.md` 4.2.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from pillion.components.chat_http import count_of, object_of, objects_of, text_of
from pillion.components.chat_schema import form_of
from pillion.errors import ComponentError
from pillion.kinds.conversation import Choice, Reply, Role, ToolCall, Usage
from pillion.wire.durations import render_duration

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pillion.kinds.conversation import Message, Request

log = logging.getLogger("pillion.conversation")
_OWN_TEMPERATURE = re.compile(r"o1-.*|o3|o3-.*|gpt-5.*")
"""Models that refuse a temperature."""
_NO_SYSTEM = frozenset({"o1", "o3", "o1-mini", "o3-mini", "o1-preview", "o3-preview"})
"""Models that refuse system messages."""
_ROLES = {Role.GENERIC: "user"}


def chat_body(request: Request, model: str) -> dict[str, Any]:
    """Return the document to send. Raises `ComponentError` for a request that the protocol cannot express."""
    said = list(_messages(request.messages))
    body: dict[str, Any] = {"model": model, "messages": _without_system(said) if model in _NO_SYSTEM else said}
    if not _OWN_TEMPERATURE.fullmatch(model):
        body["temperature"] = request.temperature
    if request.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    **({"description": tool.description} if tool.description else {}),
                    "parameters": tool.parameters or {"type": "object", "properties": {}},
                },
            }
            for tool in request.tools
        ]
    if request.tool_choice and request.tools:
        body["tool_choice"] = _tool_choice(request.tool_choice)
    if request.response_format is not None:
        form = form_of(request.response_format)
        if form is None:
            log.warning("response_format is not a JSON Schema whose root has a type; the model is asked without it")
        else:
            schema = {"name": form.name, "strict": form.strict, "schema": form.schema}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
    metadata = dict(request.metadata)
    if request.prompt_cache_retention_s is not None:
        metadata["prompt_cache_retention"] = render_duration(request.prompt_cache_retention_s)
    if metadata:
        body["metadata"] = metadata
    return body


def _tool_choice(choice: str) -> object:
    if choice in ("none", "auto", "required"):
        return choice
    if choice == "any":
        return "required"
    return {"type": "function", "function": {"name": choice}}


def _messages(messages: Sequence[Message]) -> Iterator[dict[str, Any]]:
    for message in messages:
        if message.role is Role.TOOL:
            if len(message.results) != 1:
                raise ComponentError(f"expected exactly one part for role tool, got {len(message.results)}")
            [result] = message.results
            yield {"role": "tool", "tool_call_id": result.call_id, "content": result.content}
            continue
        found: dict[str, Any] = {"role": _ROLES.get(message.role, str(message.role)), "content": _content(message)}
        if message.calls:
            found["tool_calls"] = [
                {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
                for call in message.calls
            ]
        yield found


def _content(message: Message) -> object:
    if len(message.texts) > 1:
        return [{"type": "text", "text": text} for text in message.texts]
    return message.texts[0] if message.texts else ""


def _without_system(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was said as the system goes before the first words of the user."""
    system = [_joined(message["content"]) for message in messages if message["role"] == "system"]
    others = [message for message in messages if message["role"] != "system"]
    if not system:
        return others
    first = next((index for index, message in enumerate(others) if message["role"] == "user"), None)
    if first is None:
        return [{"role": "user", "content": "\n\n".join(system)}, *others]
    others[first] = {**others[first], "content": "\n\n".join((*system, _joined(others[first]["content"])))}
    return others


def _joined(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def chat_reply(answer: dict[str, Any], model: str) -> Reply:
    """Read an answer; what is missing or of another type in it is empty."""
    usage = object_of(answer, "usage")
    completion = object_of(usage, "completion_tokens_details")
    prompt = object_of(usage, "prompt_tokens_details")
    return Reply(
        tuple(_choice(item) for item in objects_of(answer, "choices")),
        model,
        Usage(
            prompt=count_of(usage, "prompt_tokens"),
            completion=count_of(usage, "completion_tokens"),
            total=count_of(usage, "total_tokens"),
            accepted_prediction=count_of(completion, "accepted_prediction_tokens"),
            rejected_prediction=count_of(completion, "rejected_prediction_tokens"),
            reasoning=count_of(completion, "reasoning_tokens"),
            completion_audio=count_of(completion, "audio_tokens"),
            prompt_audio=count_of(prompt, "audio_tokens"),
            cached=count_of(prompt, "cached_tokens"),
        ),
    )


def _choice(item: dict[str, Any]) -> Choice:
    message = object_of(item, "message")
    calls = tuple(
        ToolCall(text_of(function, "name"), text_of(function, "arguments"), text_of(call, "id"))
        for call in objects_of(message, "tool_calls")
        if (function := object_of(call, "function"))
    )
    return Choice(text_of(message, "content"), calls, text_of(item, "finish_reason"))
