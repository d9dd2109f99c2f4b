"""The contract of conversation components as a test class. Subclass it, say how to make a model, let pytest collect.

    class TestMyModel(ConversationKit):
        @contextlib.asynccontextmanager
        async def model(self):
            yield MyModel(MyModel.Settings(...), Context("mine"))      # not yet opened

The model behind must answer, and call a tool when it is given one and told to. Needs nothing of pytest but its
collecting of classes and functions.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from pillion.errors import ComponentError
from pillion.kinds.conversation import ConversationModel, Message, Reply, Request, Role, Tool, ToolCall, ToolResult

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

WEATHER = Tool(
    "weather",
    "Tells the weather of a place.",
    {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]},
)
FORM: dict[str, Any] = {
    "type": "object",
    "name": "city",
    "properties": {"name": {"type": "string"}, "people": {"type": "integer"}},
    "required": ["name"],
}


class ConversationKit:
    """What every model must do."""

    names_model: bool = True
    """Replies say which model answered."""
    json_arguments: bool = True
    """The arguments of tool calls are JSON objects."""
    keeps_forms: bool = True
    """The answer has the form that was asked for."""

    def model(self) -> AbstractAsyncContextManager[ConversationModel]:
        """Return a context manager that gives a model not yet opened; the kit opens and closes it."""
        raise NotImplementedError

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[ConversationModel]:
        async with self.model() as model:
            try:
                await model.open()
                await model.ping()
                yield model
            finally:
                await model.close()

    def ask(self, *messages: Message, **more: Any) -> Reply:
        async def run() -> Reply:
            async with self.opened() as model:
                return await model.converse(Request(messages, **more))

        return asyncio.run(run())

    def test_it_is_a_model(self) -> None:
        async def run() -> None:
            async with self.model() as model:
                assert isinstance(model, ConversationModel)

        asyncio.run(run())

    def test_an_answer(self) -> None:
        """A question is answered with a text, a reason for its end, and what it cost."""
        reply = self.ask(user("hello there"), temperature=0.5)
        [choice] = reply.choices
        assert choice.text
        assert choice.finish_reason
        assert not choice.calls
        assert bool(reply.model) is self.names_model
        assert reply.usage.total == reply.usage.prompt + reply.usage.completion > 0

    def test_every_role(self) -> None:
        """A whole conversation: system, user in several parts, assistant, user again."""
        reply = self.ask(
            Message(Role.SYSTEM, ("Be brief.",)),
            user("one", "two"),
            Message(Role.ASSISTANT, ("I see.",)),
            user("größe 日本 \n\t\"'<>&"),
        )
        assert reply.choices[0].text

    def test_a_tool_is_called(self) -> None:
        """Told to call a tool the model does, by name and with arguments; what it answered ends in a text."""
        for choice in ("required", "weather"):
            [answer] = self.ask(user("weather?"), tools=(WEATHER,), tool_choice=choice).choices
            [call] = answer.calls
            assert call.name == "weather"
            assert call.id
            if self.json_arguments:
                assert isinstance(json.loads(call.arguments), dict)

    def test_a_tool_that_has_answered(self) -> None:
        """Calls and results go back to the model; two at once too."""
        calls = (ToolCall("weather", '{"place":"Rome"}', "c1"), ToolCall("weather", '{"place":"Oslo"}', "c2"))
        [answer] = self.ask(
            user("weather?"),
            Message(Role.ASSISTANT, calls=calls),
            Message(Role.TOOL, results=(ToolResult("c1", "weather", "sun"),)),
            Message(Role.TOOL, results=(ToolResult("c2", "weather", "rain"),)),
            tools=(WEATHER,),
            tool_choice="auto",
        ).choices
        assert answer.text

    def test_a_form(self) -> None:
        """Asked for a form, the model answers with a JSON object that has it."""
        [answer] = self.ask(user("a city"), response_format=FORM).choices
        if self.keeps_forms:
            assert set(json.loads(answer.text)) <= {"name", "people"}
            assert not answer.calls

    def test_many_at_once(self) -> None:
        async def run() -> None:
            async with self.opened() as model:
                requests = [Request((user(f"number {index}"),)) for index in range(20)]
                replies = await asyncio.gather(*map(model.converse, requests))
                assert all(reply.choices[0].text for reply in replies)

        asyncio.run(run())

    def test_close_works_at_any_time(self) -> None:
        """`close` without `open`, and twice after it; a question afterwards is an error or is answered."""

        async def run() -> None:
            async with self.model() as model:
                await model.close()
            async with self.model() as model:
                await model.open()
                await model.close()
                await model.close()
                with contextlib.suppress(ComponentError):
                    await model.converse(Request((user("anybody?"),)))

        asyncio.run(run())


def user(*texts: str) -> Message:
    return Message(Role.USER, texts)
