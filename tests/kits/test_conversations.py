"""Every conversation component passes the kit, over a server that speaks its protocol; and what each sends."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from model_servers import KEY, ModelServer
from pillion.components.anthropic_chat import messages_reply
from pillion.components.anthropic_conversation import AnthropicConversation
from pillion.components.echo_conversation import EchoConversation
from pillion.components.openai_chat import chat_reply
from pillion.components.openai_conversation import DeepSeekConversation, OllamaConversation, OpenAIConversation
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import Context, decode
from pillion.kinds.conversation import (
    ConversationModel,
    Message,
    Reply,
    Request,
    Role,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)
from pillion.kinds.resources import ComponentResource
from pillion.sidecar import python_files
from pillion.testing.conversation_kit import FORM, WEATHER, ConversationKit, user

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

    from servers import Certificates

EXAMPLE = Path(__file__).parents[2] / "examples/conversation"
ENVIRONMENT = (
    "OPENAI_MODEL", "AZURE_OPENAI_MODEL", "OPENAI_BASE_URL", "OPENAI_API_BASE", "OPENAI_ORGANIZATION",
    "OLLAMA_MODEL", "ANTHROPIC_MODEL",
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


def made(kind: Any, **metadata: str) -> Any:
    return kind(decode(kind.Settings, metadata, where="kit"), Context("kit"))


class Served(ConversationKit):
    """A component whose provider is the local server."""

    kind: Any = OpenAIConversation
    path = "/v1"
    metadata: Mapping[str, str] = MappingProxyType({"key": KEY})
    server: ModelServer

    @pytest.fixture(autouse=True)
    def _server(self, server: ModelServer) -> None:
        type(self).server = server

    def make(self, **metadata: str) -> Any:
        return made(self.kind, **{"endpoint": self.server.url + self.path, **self.metadata, **metadata})

    @asynccontextmanager
    async def model(self) -> AsyncIterator[ConversationModel]:
        yield self.make()

    def error(self, text: str, **metadata: str) -> str:
        async def run() -> str:
            model = self.make(**metadata)
            await model.open()
            try:
                with pytest.raises(ComponentError) as caught:
                    await model.converse(Request((user(text),)))
                return str(caught.value)
            finally:
                await model.close()

        return asyncio.run(run())

    def test_refusals(self) -> None:
        """The provider's status and words, as the reference tells them."""
        assert self.error("break 500") == "API returned unexpected status code: 500: broken as asked"
        if "key" in self.metadata:
            assert self.error("hello", key="wrong").startswith("API returned unexpected status code: 401: ")

    def test_answers_that_are_none(self) -> None:
        assert "not JSON" in self.error("garbage")
        assert "longer than" in self.error("huge")

    def test_nobody_there(self) -> None:
        assert "cannot be asked" in self.error("hello", endpoint="http://127.0.0.1:1/v1")

    def test_an_answer_that_does_not_come(self) -> None:
        assert "within 0.2 s" in self.error("hang", **{"pillion.requestTimeout": "200ms"})

    def test_the_key_is_not_shown(self) -> None:
        assert KEY not in repr(self.make())


class TestOpenAI(Served):
    pass


class TestAzure(Served):
    path = "/"
    metadata = MappingProxyType({"key": KEY, "apiType": "azure", "apiVersion": "2025-01-01", "model": "mine"})

    def test_its_address(self) -> None:
        self.ask(user("hello"))
        path, headers, _ = self.server.asked[-1]
        assert path == "/openai/deployments/mine/chat/completions?api-version=2025-01-01"
        assert headers["api-key"] == KEY
        assert "authorization" not in headers


class TestOllama(Served):
    kind = OllamaConversation
    metadata = MappingProxyType({})


class TestDeepSeek(Served):
    kind = DeepSeekConversation
    metadata = MappingProxyType({"key": KEY, "maxTokens": "77"})

    def test_most_tokens(self) -> None:
        self.ask(user("hello"))
        assert self.server.last["max_tokens"] == 77


class TestAnthropic(Served):
    kind = AnthropicConversation


class TestEcho(ConversationKit):
    names_model = False
    json_arguments = False
    keeps_forms = False

    @asynccontextmanager
    async def model(self) -> AsyncIterator[EchoConversation]:
        yield made(EchoConversation)


def ask(model: Any, *messages: Message, **more: Any) -> Reply:
    async def run() -> Reply:
        await model.open()
        try:
            reply: Reply = await model.converse(Request(messages, **more))
            return reply
        finally:
            await model.close()

    return asyncio.run(run())


def test_echo() -> None:
    """Texts and results by line; calls of the request's tools, then those of the conversation; words are tokens."""
    tools = (WEATHER, Tool("two", "", {"properties": {"b": {}, "a": {}}}), Tool("none", "", {}))
    reply = ask(
        made(EchoConversation),
        user("one two", "three"),
        Message(Role.ASSISTANT, ("four",), (ToolCall("old", "{}", "x"),)),
        Message(Role.TOOL, results=(ToolResult("x", "old", "done"),)),
        tools=tools,
        tool_choice="none",
    )
    [choice] = reply.choices
    assert choice.text == "one two\nthree\nfour\nTool Response for tool ID 'x' with name 'old': done"
    assert [(call.id, call.name, call.arguments) for call in choice.calls] == [
        ("0", "weather", "place"), ("1", "two", "a,b"), ("2", "none", ""), ("x", "old", "{}"),
    ]  # fmt: skip
    assert choice.finish_reason == "tool_calls"
    assert (reply.usage.prompt, reply.usage.completion, reply.usage.total) == (14, 14, 28)


def test_what_openai_is_sent(server: ModelServer) -> None:
    model = made(OpenAIConversation, key=KEY, endpoint=server.url + "/v1/")
    ask(
        model,
        user("a", "b"),
        tools=(WEATHER,),
        tool_choice="weather",
        response_format=FORM,
        prompt_cache_retention_s=86400.0,
        metadata={"k": "v"},
    )
    path, headers, body = server.asked[-1]
    assert path == "/v1/chat/completions"
    assert headers["authorization"] == f"Bearer {KEY}"
    assert body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}
    ]
    assert body["model"] == "gpt-5-nano"
    assert "temperature" not in body
    assert body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
    assert body["metadata"] == {"k": "v", "prompt_cache_retention": "24h0m0s"}
    schema = body["response_format"]["json_schema"]
    assert (schema["name"], schema["strict"], schema["schema"]["additionalProperties"]) == ("city", False, False)


def test_models_and_their_ways(server: ModelServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment wins over the resource; temperature is 0 if nobody says; o1 and o3 know no system."""
    endpoint = server.url + "/v1"
    ask(made(OpenAIConversation, key=KEY, endpoint=endpoint, model="gpt-4.1"), user("x"))
    assert (server.last["model"], server.last["temperature"]) == ("gpt-4.1", 0)
    monkeypatch.setenv("OPENAI_MODEL", "o3-mini")
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint)
    monkeypatch.setenv("OPENAI_ORGANIZATION", "us")
    ask(made(OpenAIConversation, key=KEY, model="gpt-4.1"), Message(Role.SYSTEM, ("Be brief.",)), user("x"))
    assert server.last == {"model": "o3-mini", "messages": [{"role": "user", "content": "Be brief.\n\nx"}]}
    assert server.asked[-1][1]["openai-organization"] == "us"


def test_what_anthropic_is_sent(server: ModelServer) -> None:
    model = made(AnthropicConversation, key=KEY, endpoint=server.url)
    ask(model, Message(Role.SYSTEM, ("a", "b")), user("x"), user("y"), tools=(WEATHER,), tool_choice="none")
    assert server.asked[-1][0] == "/messages"
    assert server.last == {
        "model": "claude-sonnet-4-20250514",
        "max_tokens": 2048,
        "system": "ab",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": "text", "text": "y"}]}],
        "tools": [
            {"name": "weather", "description": WEATHER.description, "input_schema": dict(WEATHER.parameters)},
        ],
        "tool_choice": {"type": "none"},
    }
    for choice, sent in (
        ("auto", None),
        ("required", {"type": "any"}),
        ("weather", {"type": "tool", "name": "weather"}),
    ):
        ask(model, user("x"), tools=(WEATHER,), tool_choice=choice)
        assert server.last.get("tool_choice") == sent
    ask(model, user("x"), tool_choice="weather")
    assert "tool_choice" not in server.last


@pytest.mark.parametrize(
    ("document", "error"),
    [
        ({"type": "object"}, "without properties"),
        ({"type": "array"}, "without items"),
        ({"type": "object", "properties": {"a": {"type": "date"}}}, "'a' is unknown"),
        ({"type": "object", "properties": {"a": 1}}, "'a' is unknown"),
    ],
)
def test_forms_that_providers_refuse(server: ModelServer, document: dict[str, Any], error: str) -> None:
    for kind in (OpenAIConversation, AnthropicConversation):
        with pytest.raises(ComponentError, match=error):
            ask(made(kind, key=KEY, endpoint=server.url), user("x"), response_format=document)


def test_what_is_no_form_is_left_out(server: ModelServer) -> None:
    ask(made(OpenAIConversation, key=KEY, endpoint=server.url), user("x"), response_format={"properties": {}})
    assert "response_format" not in server.last


def test_calls_that_cannot_be_sent(server: ModelServer) -> None:
    openai = made(OpenAIConversation, key=KEY, endpoint=server.url)
    results = (ToolResult("c", "weather", "sun"), ToolResult("c", "weather", "rain"))
    with pytest.raises(ComponentError, match="expected exactly one part for role tool, got 2"):
        ask(openai, user("x"), Message(Role.TOOL, results=results))
    anthropic = made(AnthropicConversation, key=KEY, endpoint=server.url)
    for arguments in ("{", "[]"):
        with pytest.raises(ComponentError, match="arguments of the call"):
            ask(anthropic, user("x"), Message(Role.ASSISTANT, calls=(ToolCall("weather", arguments, "c"),)))
    with pytest.raises(ComponentError, match="role function"):
        ask(anthropic, Message(Role.FUNCTION, ("x",)))


@pytest.mark.parametrize("key", ["responseCacheTTL", "cacheTTL"])
@pytest.mark.parametrize("kind", [OpenAIConversation, OllamaConversation, AnthropicConversation])
def test_answers_are_kept(server: ModelServer, kind: Any, key: str) -> None:
    """The same request is asked once; another temperature is another request; errors are not kept."""
    given = {"endpoint": server.url, key: "10m"} | ({} if kind is OllamaConversation else {"key": KEY})

    async def run() -> None:
        model = made(kind, **given)
        await model.open()
        try:
            before = len(server.asked)
            replies = [await model.converse(Request((user("kept"),))) for _ in range(3)]
            assert replies[0] == replies[1] == replies[2]
            assert len(server.asked) == before + 1
            await model.converse(Request((user("kept"),), temperature=0.5))
            assert len(server.asked) == before + 2
            for _ in range(2):
                with pytest.raises(ComponentError):
                    await model.converse(Request((user("break 500"),)))
            assert len(server.asked) == before + 4
        finally:
            await model.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("kind", "metadata", "error"),
    [
        (OpenAIConversation, {}, "'key' is missing"),
        (OpenAIConversation, {"key": ""}, "'key' is missing"),
        (OpenAIConversation, {"key": "a\nb"}, "printable"),
        (OpenAIConversation, {"key": "k", "endpoint": "ftp://x"}, "http://"),
        (OpenAIConversation, {"key": "k", "endpoint": "http://x:99999"}, "endpoint"),
        (OpenAIConversation, {"key": "k", "apiType": "azure"}, "azure needs"),
        (OpenAIConversation, {"key": "k", "apiType": "else"}, "use one of"),
        (AnthropicConversation, {}, "'key' is missing"),
        (AnthropicConversation, {"key": "k", "apiType": "foundry"}, "foundry needs"),
        (DeepSeekConversation, {}, "'key' is missing"),
    ],
)
def test_settings_that_cannot_work(kind: Any, metadata: dict[str, str], error: str) -> None:
    with pytest.raises(ConfigError) as caught:
        made(kind, **metadata)
    assert error in str(caught.value)


ODD: list[dict[str, Any]] = [
    {},
    {"choices": None, "usage": 1},
    {"choices": [1, {"message": {"tool_calls": [{}], "content": 5}, "finish_reason": []}]},
    {"content": "x", "usage": {"input_tokens": -1, "output_tokens": 1 << 70}},
    {"content": [{"type": "text"}, {"type": "new"}, 7]},
]


@pytest.mark.parametrize("answer", ODD)
def test_odd_answers(answer: dict[str, Any]) -> None:
    """What a provider leaves out, or answers in another type, is empty: never a crash."""
    for reply in (chat_reply(answer, "m"), messages_reply(answer, "m", "")):
        assert all(not choice.text and not choice.calls for choice in reply.choices)
        assert reply.usage == Usage()


def test_tls(certificates: Certificates, monkeypatch: pytest.MonkeyPatch) -> None:
    """A provider over TLS must show a certificate of an authority that the machine trusts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificates.server, certificates.server_key)
    with ModelServer(context) as server:
        with pytest.raises(ComponentError, match=r"cannot be asked: .*CERTIFICATE_VERIFY_FAILED"):
            ask(made(OpenAIConversation, key=KEY, endpoint=server.url), user("x"))
        assert not server.asked
        monkeypatch.setenv("SSL_CERT_FILE", str(certificates.authority))
        for kind in (OpenAIConversation, AnthropicConversation):
            reply = ask(made(kind, key=KEY, endpoint=server.url), user("x"))
            assert reply.choices[0].text == "You said: x"


class TestPythonFile(ConversationKit):
    """The example beside its YAML, loaded as a sidecar loads it."""

    @asynccontextmanager
    async def model(self) -> AsyncIterator[ConversationModel]:
        resource = ComponentResource(
            name="stand-in", type="conversation.python", version="v1", where=f"{EXAMPLE}/stand-in.yaml:1"
        )
        yield python_files.construct(resource, {"pillion.file": "stand_in.py"}, Context("stand-in"))
