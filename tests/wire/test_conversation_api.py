"""Conversations over HTTP and gRPC, through a real sidecar: exact answers, the order of checks, scrubbing, policies."""

from __future__ import annotations

import asyncio
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from model_servers import KEY, ModelServer
from pillion.errors import Code
from pillion.net.exchange import RpcError
from pillion.net.grpc_client import Channel
from pillion.wire.messages import runtime as m
from ports import free_ports
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

SERVICE = "/dapr.proto.runtime.v1.Dapr/"
ALPHA1 = "/v1.0-alpha1/conversation/{}/converse"
ALPHA2 = "/v1.0-alpha2/conversation/{}/converse"
LISTEN = ("--metrics-listen-address", "127.0.0.1")
POLICY = """
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: { name: patience }
spec:
  policies:
    retries: { again: { policy: constant, duration: 1ms, maxRetries: 2 } }
  targets:
    components: { retried: { outbound: { retry: again } } }
"""


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with ModelServer() as running:
        yield running


@pytest.fixture(scope="module")
def metrics_port() -> int:
    return free_ports(1)[0]


@pytest.fixture(scope="module")
def sidecar(
    tmp_path_factory: pytest.TempPathFactory, server: ModelServer, metrics_port: int
) -> Iterator[SidecarProcess]:
    openai = {"key": KEY, "endpoint": server.url + "/v1"}
    resources = {
        "echo.yaml": component("echo", "conversation.echo"),
        "openai.yaml": component("openai", "conversation.openai", **openai),
        "retried.yaml": component("retried", "conversation.openai", **openai),
        "anthropic.yaml": component("anthropic", "conversation.anthropic", key=KEY, endpoint=server.url),
        "stranger.yaml": component("stranger", "conversation.openai", key="wrong", endpoint=server.url),
        "policy.yaml": POLICY,
    }
    with SidecarProcess(
        tmp_path_factory.mktemp("conversation"),
        "talk",
        resources=resources,
        arguments=["--enable-metrics=true", "--metrics-port", str(metrics_port), *LISTEN],
    ) as running:
        yield running


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"inputs": [{"messages": [{"ofUser": {"content": [{"text": text}]}}]}], **more}


WEATHER = {
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"place": {"type": "string", "minLength": 1}}},
    }
}


def rpc(sidecar: SidecarProcess, method: str, request: Message, kind: type[Message]) -> Any:
    async def run() -> Any:
        channel = Channel(f"127.0.0.1:{sidecar.grpc_port}")
        try:
            reply = await channel.unary(SERVICE + method, request.SerializeToString())
        finally:
            await channel.close()
        return kind.FromString(reply.message)

    return asyncio.run(run())


def test_alpha1(sidecar: SidecarProcess) -> None:
    """Inputs become messages; parameters, context and nothing else come back; one output."""
    value = {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "v"}
    body = {
        "inputs": [{"content": "one"}, {"content": "a@b.co", "scrubPII": True, "role": "ai"}],
        "contextID": "c", "parameters": {"p": value}, "metadata": {"temperature": "0.3", "x": "y"}, "unknown": 1,
    }  # fmt: skip
    reply = sidecar.post_json(ALPHA1.format("echo"), body)
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    assert reply.json() == {
        "contextID": "c", "outputs": [{"result": "one\n<EMAIL_ADDRESS>", "parameters": {"p": value}}],
    }  # fmt: skip
    reply = sidecar.post_json(ALPHA1.format("echo"), {"inputs": [{"content": "a@b.co"}], "scrubPII": True})
    assert reply.body == b'{"outputs":[{"result":"<EMAIL_ADDRESS>"}]}'


def test_alpha1_reaches_providers(sidecar: SidecarProcess, server: ModelServer) -> None:
    """Roles are translated; metadata stay here; the temperature of the request goes along."""
    inputs = [{"content": "be nice", "role": "system"}, {"content": "hi", "role": "nobody"}]
    for name in ("openai", "anthropic"):
        body = {"inputs": inputs, "temperature": 0.5, "metadata": {"k": "v"}}
        assert sidecar.post_json(ALPHA1.format(name), body).json() == {"outputs": [{"result": "You said: hi"}]}
        assert "metadata" not in server.last
    assert server.last["temperature"] == 0.5
    assert server.last["system"] == "be nice"


def test_alpha2(sidecar: SidecarProcess) -> None:
    """Every kind of message; texts and results are scrubbed where asked, arguments never."""
    call = {"id": "c1", "function": {"name": "weather", "arguments": '{"mail":"a@b.co"}'}}
    body = {
        "inputs": [
            {"messages": [{"ofDeveloper": {"name": "d", "content": [{"text": "a@b.co"}]}}]},
            {
                "messages": [
                    {"ofSystem": {"content": [{"text": "s"}, {"text": "10.8.9.1"}]}},
                    {"ofAssistant": {"content": [{"text": "t"}], "toolCalls": [call]}},
                    {"ofTool": {"toolId": "c1", "name": "weather", "content": [{"text": "a@b.co"}]}},
                ],
                "scrubPii": True,
            },
        ],
        "contextId": "c",
        "parameters": {},
        "metadata": {"k": "v"},
    }
    reply = sidecar.post_json(ALPHA2.format("echo"), body)
    text = "a@b.co\ns\n<IP>\nt\nTool Response for tool ID 'c1' with name 'weather': <EMAIL_ADDRESS>"
    assert (reply.status, reply.json()) == (
        200,
        {
            "contextId": "c",
            "outputs": [
                {
                    "choices": [{"finishReason": "tool_calls", "message": {"content": text, "toolCalls": [call]}}],
                    "usage": {"completionTokens": "14", "promptTokens": "14", "totalTokens": "28"},
                }
            ],
        },
    )


def test_tools(sidecar: SidecarProcess, server: ModelServer) -> None:
    """A call, its result, an answer, with both protocols; numbers in schemas stay whole."""
    for name, reason, end in (("openai", "tool_calls", "stop"), ("anthropic", "tool_use", "end_turn")):
        reply = sidecar.post_json(ALPHA2.format(name), said("weather?", tools=[WEATHER])).json()
        [output] = reply["outputs"]
        [choice] = output["choices"]
        assert choice["finishReason"] == reason
        [call] = choice["message"]["toolCalls"]
        assert call["function"] == {"name": "weather", "arguments": call["function"]["arguments"]}
        assert "1.0" not in str(server.last["tools"])
        body = said("weather?", tools=[WEATHER])
        body["inputs"][0]["messages"] += [
            {"ofAssistant": {"toolCalls": [call]}},
            {"ofTool": {"toolId": call["id"], "name": "weather", "content": [{"text": "sun"}]}},
        ]
        [output] = sidecar.post_json(ALPHA2.format(name), body).json()["outputs"]
        assert output["choices"] == [{"finishReason": end, "message": {"content": "You said: sun"}}]
        assert output["model"]
        usage = {"completionTokens": "5", "promptTokens": "8", "totalTokens": "13"}
        details = {"promptTokensDetails": {"cachedTokens": "2"}} if name == "openai" else {}
        assert output["usage"] == usage | details


def test_a_form_and_a_cache(sidecar: SidecarProcess, server: ModelServer) -> None:
    form = {"type": "object", "name": "city", "properties": {"name": {"type": "string"}}}
    for name in ("openai", "anthropic"):
        body = said("a city", responseFormat=form, promptCacheRetention="86400s")
        [output] = sidecar.post_json(ALPHA2.format(name), body).json()["outputs"]
        assert output["choices"][0]["message"]["content"].replace(" ", "") == '{"name":"x"}'
    assert [asked for _, _, asked in server.asked if asked.get("metadata")][-1]["metadata"] == {
        "prompt_cache_retention": "24h0m0s"
    }


FIELDS = [
    "inputs", "messages", "ofUser", "ofAssistant", "ofTool", "content", "text", "toolCalls", "function", "parameters",
    "metadata", "temperature", "tools", "toolChoice", "responseFormat", "promptCacheRetention", "scrubPii", "@type",
]  # fmt: skip
INVALID = "failed conversing with component echo: invalid params"
MISSING = "failed conversing with component echo: missing inputs in request"
REFUSED = [
    (ALPHA1, "none", {}, 400, "ERR_CONVERSATION_NOT_FOUND", "failed finding conversation component none"),
    (ALPHA2, "none", {}, 400, "ERR_CONVERSATION_NOT_FOUND", "failed finding conversation component none"),
    (ALPHA1, "echo", {"metadata": {"temperature": "hot"}}, 500, "ERROR", "failed decoding metadata"),
    (ALPHA1, "echo", {}, 400, "ERR_CONVERSATION_MISSING_INPUTS", MISSING),
    (ALPHA2, "echo", {}, 400, "ERR_CONVERSATION_MISSING_INPUTS", MISSING),
    (ALPHA2, "echo", {"inputs": [{}], "toolChoice": "required"}, 400, "ERR_CONVERSATION_MISSING_INPUTS", MISSING),
    (ALPHA2, "echo", {"inputs": [{"messages": [{}]}]}, 400, "ERR_CONVERSATION_INVALID_PARMS", INVALID),
    (
        ALPHA2, "echo", {"inputs": [{"messages": [{"ofAssistant": {"toolCalls": [{"id": "x"}]}}]}]}, 400,
        "ERR_CONVERSATION_INVALID_PARMS", INVALID + ": tool types cannot be nil",
    ),
    (ALPHA2, "echo", said("x", toolChoice="required"), 400, "ERR_CONVERSATION_INVALID_PARMS", INVALID),
    (ALPHA2, "echo", said("x", tools=[WEATHER], toolChoice="other"), 400, "ERR_CONVERSATION_INVALID_PARMS", INVALID),
    (
        ALPHA2, "stranger", said("x"), 500, "ERR_CONVERSATION_INVOKE",
        "failed conversing with component stranger: API returned unexpected status code: 401: Incorrect API key",
    ),
    (
        ALPHA2, "openai", said("silence", tools=[WEATHER], toolChoice="required"), 500, "ERR_CONVERSATION_INVOKE",
        "failed conversing with component openai: LLM returned empty response with no tool calls despite 1 tools being",
    ),
    (ALPHA2, "echo", {"inputs": 5}, 400, "ERR_MALFORMED_REQUEST", "failed deserializing HTTP body: "),
]  # fmt: skip


@pytest.mark.parametrize(("path", "name", "body", "status", "code", "text"), REFUSED)
def test_refused(
    sidecar: SidecarProcess, path: str, name: str, body: dict[str, Any], status: int, code: str, text: str
) -> None:
    reply = sidecar.post_json(path.format(name), body)
    assert (reply.status, reply.json()["errorCode"]) == (status, code)
    assert reply.json()["message"].startswith(text)
    assert set(reply.json()) == {"errorCode", "message"}


@pytest.mark.parametrize("body", ["{", "[]", "5", '{"inputs":[{"content":"\\ud800"}]}', "[" * 5000, '{"inputs":' * 500])
def test_bodies_that_are_none(sidecar: SidecarProcess, body: str) -> None:
    for path in (ALPHA1, ALPHA2):
        reply = sidecar.request("POST", path.format("echo"), body)
        assert (reply.status, reply.json()["errorCode"]) == (400, "ERR_MALFORMED_REQUEST")


ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.dictionaries(st.sampled_from(FIELDS), ODD, max_size=6),
    path=st.sampled_from([ALPHA1, ALPHA2]),
    name=st.sampled_from(["echo", "..", "%2F", "%zz", "%F0%9F%9B%B5", "echo%7C%7Cx"]),
)
def test_whatever_is_sent(sidecar: SidecarProcess, body: dict[str, Any], path: str, name: str) -> None:
    """Wrong types, odd names and numbers without end are the caller's mistake, or are taken; never ours."""
    reply = sidecar.post_json(path.format(name), body)
    assert reply.status in (200, 400, 404) or reply.json()["message"].startswith("failed decoding metadata")
    assert "Traceback" not in sidecar.log()


def test_choices_that_pass(sidecar: SidecarProcess) -> None:
    """A name without tools is not checked; with tools the words and the names are."""
    assert sidecar.post_json(ALPHA2.format("echo"), said("x", toolChoice="other")).status == 200
    for choice in ("none", "auto", "required", "weather"):
        body = said("x", tools=[WEATHER], toolChoice=choice)
        assert sidecar.post_json(ALPHA2.format("echo"), body).status == 200


def test_policies(sidecar: SidecarProcess, server: ModelServer) -> None:
    """Asked once; with an outbound policy that retries, as often as it says."""
    for name, times in (("openai", 1), ("retried", 3)):
        before = len(server.asked)
        assert sidecar.post_json(ALPHA2.format(name), said("break 503")).json()["message"].endswith("broken as asked")
        assert len(server.asked) == before + times


def test_grpc(sidecar: SidecarProcess) -> None:
    """The same over gRPC; errors are codes without details."""
    first = m.ConversationRequest(name="echo", contextID="c", inputs=[m.ConversationInput(content="hi")])
    reply = rpc(sidecar, "ConverseAlpha1", first, m.ConversationResponse)
    assert (reply.contextID, [output.result for output in reply.outputs]) == ("c", ["hi"])
    second = m.ConversationRequestAlpha2(name="openai", temperature=float("nan"))
    second.inputs.add().messages.add().of_user.content.add().text = "hi"
    reply = rpc(sidecar, "ConverseAlpha2", second, m.ConversationResponseAlpha2)
    [output] = reply.outputs
    assert (output.model, output.usage.total_tokens, output.choices[0].message.content) == (
        "gpt-5-nano", 13, "You said: hi",
    )  # fmt: skip
    assert not output.usage.HasField("completion_tokens_details")


def test_grpc_errors(sidecar: SidecarProcess) -> None:
    speechless = m.ConversationRequestAlpha2(name="echo")
    speechless.inputs.add().messages.add()
    formless = m.ConversationRequestAlpha2(name="echo")
    formless.inputs.add().messages.add().of_user.content.add().text = "hi"
    formless.response_format.fields["a"].number_value = float("nan")
    broken = m.ConversationRequest(name="openai", inputs=[m.ConversationInput(content="break 429")])
    hot = m.ConversationRequest(name="echo", metadata={"Temperature": "hot"})
    for method, request, code, text in (
        ("ConverseAlpha1", m.ConversationRequest(name="x"), Code.INVALID_ARGUMENT, "failed finding conversation"),
        ("ConverseAlpha1", hot, Code.UNKNOWN, "failed decoding metadata"),
        ("ConverseAlpha1", m.ConversationRequest(name="echo"), Code.INVALID_ARGUMENT, MISSING),
        ("ConverseAlpha2", speechless, Code.INVALID_ARGUMENT, INVALID),
        ("ConverseAlpha2", formless, Code.INVALID_ARGUMENT, INVALID),
        (
            "ConverseAlpha1", broken, Code.INTERNAL,
            "failed conversing with component openai: API returned unexpected status code: 429: broken as asked",
        ),
    ):  # fmt: skip
        with pytest.raises(RpcError) as caught:
            rpc(sidecar, method, request, m.ConversationResponse)
        assert caught.value.code == code
        assert caught.value.message.startswith(text)
        assert not caught.value.details


def test_metrics(sidecar: SidecarProcess, metrics_port: int) -> None:
    """Conversations are counted by component and success (spec `runtime.md` 6)."""
    sidecar.post_json(ALPHA2.format("stranger"), said("x"))
    sidecar.post_json(ALPHA2.format("anthropic"), said("x"))
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/", timeout=60) as answer:
        lines = [line for line in answer.read().decode().splitlines() if "component_conversation_count" in line]
    for name, success in (("stranger", "false"), ("anthropic", "true")):
        [line] = [line for line in lines if f'component="{name}"' in line and f'success="{success}"' in line]
        assert 'app_id="talk"' in line
        assert float(line.rpartition(" ")[2]) >= 1


def test_keys_are_not_told(sidecar: SidecarProcess) -> None:
    assert KEY not in sidecar.log()
