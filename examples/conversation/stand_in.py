"""A stand-in for a language model: answers by rules, at once and for nothing. For tests of what converses."""

import json
import re
from dataclasses import dataclass

from pillion.errors import ComponentError
from pillion.kinds.component import setting
from pillion.kinds.conversation import Choice, Reply, Role, ToolCall, Usage


@dataclass(frozen=True, slots=True)
class StandInSettings:
    model: str = setting("stand-in", help="what it calls itself")
    answers: str = setting("{}", help="a JSON object: pattern of the last question -> answer")


class StandIn:
    """Answers with the first rule whose pattern is found in the last question, else with the question.

    It calls a tool when it is told to, or when the question names one; its arguments, and forms, are made of nothing
    but their schema.
    """

    Settings = StandInSettings

    def __init__(self, settings, context):
        self._model = settings.model
        try:
            rules = json.loads(settings.answers)
            self._rules = [(re.compile(pattern, re.IGNORECASE), str(answer)) for pattern, answer in rules.items()]
        except (AttributeError, ValueError, re.error) as error:
            raise ComponentError(f"answers: {error}") from error

    async def open(self):
        """There is nothing to connect to."""

    async def ping(self):
        """Always there."""

    async def close(self):
        """There is nothing to let go of."""

    async def converse(self, request):
        question = _question(request)
        tool = _tool(request, question)
        if tool is not None:
            calls = (ToolCall(tool.name, json.dumps(_filled(tool.parameters)), "call-1"),)
            return self._reply(request, Choice("", calls, "tool_calls"))
        if request.response_format is not None:
            return self._reply(request, Choice(json.dumps(_filled(request.response_format)), finish_reason="stop"))
        answer = next((answer for pattern, answer in self._rules if pattern.search(question)), question)
        return self._reply(request, Choice(answer, finish_reason="stop"))

    def _reply(self, request, choice):
        asked = sum(len(text.split()) for message in request.messages for text in message.texts)
        answered = max(1, len(choice.text.split()))
        return Reply((choice,), self._model, Usage(prompt=asked, completion=answered, total=asked + answered))


def _question(request):
    """Return what was said last, by a user or by a tool."""
    for message in reversed(request.messages):
        if message.role is Role.TOOL and message.results:
            return "\n".join(result.content for result in message.results)
        if message.role is Role.USER and message.texts:
            return "\n".join(message.texts)
    return "Nothing was asked."


def _tool(request, question):
    """Return the tool to call, None for a text."""
    if not request.tools or request.tool_choice == "none" or request.messages[-1].role is Role.TOOL:
        return None
    named = next((tool for tool in request.tools if tool.name in (request.tool_choice, *question.split())), None)
    return named or (request.tools[0] if request.tool_choice in ("required", "any") else None)


def _filled(schema):
    """Return a value of the schema's type, as empty as it may be."""
    match schema.get("type"):
        case "object":
            properties = schema.get("properties", {})
            return {name: _filled(properties.get(name, {})) for name in schema.get("required", properties)}
        case "array":
            return []
        case "integer" | "number":
            return 0
        case "boolean":
            return False
        case _:
            return next(iter(schema.get("enum", ())), "")
