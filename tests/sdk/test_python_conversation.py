"""The official Python SDK over conversations, as its users use it against a real sidecar."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
from dapr.aio.clients import DaprClient as AsyncDaprClient
from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprGrpcError
from dapr.clients.grpc import conversation as c

from model_servers import KEY, ModelServer
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import Iterator

MODELS = ["openai", "ollama", "deepseek", "anthropic"]


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory, server: ModelServer) -> Iterator[SidecarProcess]:
    url = server.url
    resources = {
        "echo.yaml": component("echo", "conversation.echo"),
        "openai.yaml": component("openai", "conversation.openai", key=KEY, endpoint=url + "/v1"),
        "ollama.yaml": component("ollama", "conversation.ollama", endpoint=url + "/v1"),
        "deepseek.yaml": component("deepseek", "conversation.deepseek", key=KEY, endpoint=url),
        "anthropic.yaml": component("anthropic", "conversation.anthropic", key=KEY, endpoint=url + "/v1"),
    }
    folder = tmp_path_factory.mktemp("sdk-conversation")
    with SidecarProcess(folder, "talk", resources=resources) as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAPR_HTTP_PORT", str(running.http_port))
        patch.setattr("dapr.conf.settings.DAPR_HTTP_PORT", running.http_port)  # where the SDK asks for health
        yield running


@pytest.fixture
def client(sidecar: SidecarProcess) -> Iterator[DaprClient]:
    with DaprClient(f"127.0.0.1:{sidecar.grpc_port}") as client:
        yield client


def weather() -> c.ConversationTools:
    parameters = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}
    return c.ConversationTools(c.ConversationToolsFunction("weather", "Tells the weather.", parameters))


def test_alpha1(client: DaprClient) -> None:
    """Outputs, the context, parameters of several types, and masks where they are asked for."""
    inputs = [
        c.ConversationInput("hello", role="user"),
        c.ConversationInput("mail a@b.co", role="assistant", scrub_pii=True),
    ]
    reply = client.converse_alpha1("echo", inputs, context_id="c1", parameters={"n": 3, "s": "x"}, temperature=0.7)
    assert reply.context_id == "c1"
    [output] = reply.outputs
    assert output.result == "hello\nmail <EMAIL_ADDRESS>"
    assert set(output.parameters) == {"n", "s"}


@pytest.mark.parametrize("name", MODELS)
def test_alpha1_models(client: DaprClient, name: str) -> None:
    reply = client.converse_alpha1(name, [c.ConversationInput("hello")])
    assert [output.result for output in reply.outputs] == ["You said: hello"]


@pytest.mark.parametrize("name", MODELS)
def test_a_tool_from_call_to_answer(client: DaprClient, name: str) -> None:
    """The loop of every agent: ask, be asked to call, call, tell, be answered."""
    history = [c.create_system_message("Be brief."), c.create_user_message("What is the weather in Rome?")]
    first = client.converse_alpha2(
        name, [c.ConversationInputAlpha2(history)], tools=[weather()], tool_choice="required", context_id="c2"
    )
    assert first.context_id == "c2"
    [output] = first.outputs
    assert output.model
    assert output.usage is not None
    assert output.usage.total_tokens == 13
    message = output.choices[0].message
    [call] = message.tool_calls
    assert call.id
    assert call.function
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments) == {"place": "x"}
    answered = [
        *history,
        *first.to_assistant_messages(),
        c.create_tool_message(tool_id=call.id, name="weather", content="sun"),
    ]
    second = client.converse_alpha2(name, [c.ConversationInputAlpha2(answered)], tools=[weather()], temperature=0.2)
    assert second.outputs[0].choices[0].message.content == "You said: sun"


def test_echo_calls_tools(client: DaprClient) -> None:
    asked = [c.ConversationInputAlpha2([c.create_user_message("call me at 5551234567")], scrub_pii=True)]
    [output] = client.converse_alpha2("echo", asked, tools=[weather()], metadata={"k": "v"}).outputs
    [choice] = output.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content.startswith("call me at <")
    [call] = choice.message.tool_calls
    assert call.function
    assert (call.id, call.function.name, call.function.arguments) == ("0", "weather", "place")


def test_errors(client: DaprClient) -> None:
    hello = [c.ConversationInputAlpha2([c.create_user_message("hello")])]
    with pytest.raises(DaprGrpcError, match="failed finding conversation component nobody"):
        client.converse_alpha2("nobody", hello)
    with pytest.raises(DaprGrpcError, match="invalid params"):
        client.converse_alpha2("openai", hello, tools=[weather()], tool_choice="other")
    with pytest.raises(DaprGrpcError, match="API returned unexpected status code: 400: broken as asked"):
        client.converse_alpha1("openai", [c.ConversationInput("break 400")])


def test_both_versions_asynchronously(sidecar: SidecarProcess) -> None:
    async def run() -> None:
        async with AsyncDaprClient(f"127.0.0.1:{sidecar.grpc_port}") as client:
            first = await client.converse_alpha1("anthropic", [c.ConversationInput("one")])
            assert first.outputs[0].result == "You said: one"
            asked = [c.ConversationInputAlpha2([c.create_user_message("two")])]
            second = await client.converse_alpha2("openai", asked)
            assert second.outputs[0].choices[0].message.content == "You said: two"

    asyncio.run(run())
