"""The messages of Anthropic: requests as JSON, answers from JSON.

Pure. Shapes: docs.anthropic.com/en/api/messages, spec `crypto-conversation-mcp.md` 4.2.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import orjson

from pillion.components.chat_http import count_of, object_of, objects_of, text_of
from pillion.components.chat_schema import form_of
from pillion.errors import ComponentError
from pillion.kinds.conversation import Choice, Reply, Role, ToolCall, Usage
from pillion.wire.gojson import dumps_canonical

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillion.kinds.conversation import Message, Request

log = logging.getLogger("pillion.conversation")
MOST_TOKENS = 2048
"""Of an answer: the protocol wants a number."""
_SPEAKERS = {Role.USER: "user", Role.ASSISTANT: "assistant", Role.TOOL: "user"}


def messages_body(request: Request, model: str) -> dict[str, Any]:
    """Return the document to send. Raises `ComponentError` for a request that the protocol cannot express."""
    body: dict[str, Any] = {"model": model, "max_tokens": MOST_TOKENS, "messages": _messages(request.messages)}
    system = "".join(text for message in request.messages if message.role is Role.SYSTEM for text in message.texts)
    if system:
        body["system"] = system
    if request.temperature > 0:
        body["temperature"] = request.temperature
    if request.tools:
        body["tools"] = [
            {
                "name": tool.name,
                **({"description": tool.description} if tool.description else {}),
                "input_schema": tool.parameters or {"type": "object", "properties": {}},
            }
            for tool in request.tools
        ]
        choice = _tool_choice(request.tool_choice)
        if choice is not None:
            body["tool_choice"] = choice
    name = form_name(request)
    if name:
        _demand(body, request, name)
    elif request.response_format is not None:
        log.warning("response_format is not a JSON Schema whose root has a type; the model is asked without it")
    return body


def form_name(request: Request) -> str:
    """The name of the form that the answer shall have, "" for free text; raises `ComponentError`."""
    form = form_of(request.response_format) if request.response_format is not None else None
    return form.name if form is not None else ""


def _demand(body: dict[str, Any], request: Request, name: str) -> None:
    """A form is a tool that the model has to call; what it calls it with is the answer."""
    form = form_of(request.response_format or {})
    if form is None or form.schema["type"] != "object":
        raise ComponentError("response_format: the root must be an object for this provider")
    if any(tool.name == name for tool in request.tools):
        raise ComponentError(f"response_format: there is a tool of the same name, {name!r}")
    demanded = {"name": name, "description": "Answer with this.", "input_schema": form.schema}
    body["tools"] = [*body.get("tools", ()), demanded]
    body["tool_choice"] = {"type": "tool", "name": name}


def _tool_choice(choice: str) -> dict[str, str] | None:
    match choice:
        case "" | "auto":
            return None
        case "required" | "any":
            return {"type": "any"}
        case "none":
            return {"type": "none"}
        case _:
            return {"type": "tool", "name": choice}


def _messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Turns alternate: what one side says several times in a row is one turn, the results of its tools included."""
    found: list[dict[str, Any]] = []
    for message in messages:
        if message.role is Role.SYSTEM:
            continue
        speaker = _SPEAKERS.get(message.role)
        if speaker is None:
            raise ComponentError(f"role {message.role} is not one of this provider's")
        blocks = _blocks(message)
        if not blocks:
            continue
        if found and found[-1]["role"] == speaker:
            found[-1]["content"] += blocks
        else:
            found.append({"role": speaker, "content": blocks})
    return found


def _blocks(message: Message) -> list[dict[str, Any]]:
    blocks: list[dict[str, Any]] = [{"type": "text", "text": text} for text in message.texts if text]
    blocks += [
        {"type": "tool_use", "id": call.id, "name": call.name, "input": _arguments(call)} for call in message.calls
    ]
    blocks += [
        {"type": "tool_result", "tool_use_id": result.call_id, "content": result.content} for result in message.results
    ]
    return blocks


def _arguments(call: ToolCall) -> dict[str, Any]:
    try:
        found = orjson.loads(call.arguments or "{}")
    except orjson.JSONDecodeError as error:
        raise ComponentError(f"the arguments of the call of {call.name!r} are not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ComponentError(f"the arguments of the call of {call.name!r} are not a JSON object")
    return found


def messages_reply(answer: dict[str, Any], model: str, form: str) -> Reply:
    """Read an answer; what is missing or of another type in it is empty. `form`: see `form_name`."""
    texts: list[str] = []
    calls: list[ToolCall] = []
    for block in objects_of(answer, "content"):
        match block.get("type"):
            case "text":
                texts.append(text_of(block, "text"))
            case "tool_use":
                name, given = text_of(block, "name"), dumps_canonical(object_of(block, "input")).decode()
                if form and name == form:
                    texts, calls = [given], []
                    break
                calls.append(ToolCall(name, given, text_of(block, "id")))
            case _:
                pass  # kinds of content that were not asked for, such as thoughts
    usage = object_of(answer, "usage")
    cached = count_of(usage, "cache_read_input_tokens")
    prompt = count_of(usage, "input_tokens") + cached + count_of(usage, "cache_creation_input_tokens")
    completion = count_of(usage, "output_tokens")
    return Reply(
        (Choice("\n".join(texts), tuple(calls), text_of(answer, "stop_reason")),),
        model,
        Usage(prompt=prompt, completion=completion, total=prompt + completion, cached=cached),
    )
