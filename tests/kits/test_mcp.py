"""The client of MCP servers, and tools as workflows, against real servers of the official library.

Spec `crypto-conversation-mcp.md` 5.2 to 5.4.
"""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from issuer import Issuer
from mcp_servers import McpProcess, journal, program
from pillion.blocks.mcp import ToolWorkflows
from pillion.components import mcp_client, mcp_stdio
from pillion.components.mcp_client import McpClient, connect
from pillion.kinds.mcp import Hook, Hooks, McpError, McpSettings, OAuth2, Spiffe
from pillion.workflow.hub import Start
from pillion.workflow.snapshot import Status
from sidecars import eventually
from workflow_support import Bench, bench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from pathlib import Path

    from pillion.workflow.snapshot import Snapshot

TOOLS = ["add", "echo", "refuse", "fail", "wait", "dotted.name", "die"]
WAIT_S = 90.0


def over_stdio(folder: Path, **more: Any) -> McpSettings:
    command, *arguments = program(folder, "stdio")
    return McpSettings("tools", "stdio", command=command, arguments=tuple(arguments), **more)


def over_http(server: McpProcess, **more: Any) -> McpSettings:
    transport = "streamableHTTP" if server.transport == "http" else server.transport
    return McpSettings("tools", transport, url=server.url, **more)


@asynccontextmanager
async def connected(settings: McpSettings, secret: str = "", **values: str) -> AsyncIterator[McpClient]:
    client = await connect(settings, values, secret)
    try:
        yield client
    finally:
        await client.close()


def text(result: dict[str, Any]) -> Any:
    return json.loads(result["content"][0]["text"])


@pytest.fixture(params=["http", "json", "sse", "stdio"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[McpSettings, Path]]:
    """The same server behind every transport: settings to reach it, and its folder."""
    if request.param == "stdio":
        yield over_stdio(tmp_path), tmp_path
        return
    arguments = ["--json"] if request.param == "json" else []
    with McpProcess("sse" if request.param == "sse" else "http", *arguments) as server:
        yield over_http(server), server.folder


def test_tools_are_listed_and_called(place: tuple[McpSettings, Path]) -> None:
    """All pages; arguments arrive as they were written, nulls included; an error of the server is told."""
    settings, folder = place

    async def run() -> None:
        async with connected(settings, MCP_TEST="seen") as client:
            assert [tool["name"] for tool in client.tools] == TOOLS
            assert [one["listed"] for one in journal(folder) if "listed" in one] == [0, 3, 6]
            added = await client.call("add", {"a": 1, "b": 2})
            assert added["content"] == [{"type": "text", "text": "3"}]
            assert added["structuredContent"] == {"sum": 3}
            given = {"text": None, "deep": {"none": None, "big": 2**70, "list": [1.5, "ü"]}}
            assert text(await client.call("echo", given))["arguments"] == given
            with pytest.raises(McpError, match="not today"):
                await client.call("refuse", {})
            assert (await client.call("fail", {}))["isError"] is True
            both = await asyncio.gather(*(client.call("add", {"a": n, "b": 0}) for n in range(20)))
            assert [one["structuredContent"]["sum"] for one in both] == list(range(20))

    asyncio.run(run())


def test_lists_without_an_end_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_client, "MOST_PAGES", 2)

    async def run() -> None:
        with pytest.raises(McpError, match="the tools take more than 2 pages"):
            await connect(over_stdio(tmp_path), {})
        assert journal(tmp_path)[-1] == {"ended": "stdin"}

    asyncio.run(run())


def test_a_call_that_takes_too_long_harms_only_itself() -> None:
    with McpProcess() as server:

        async def run() -> None:
            async with connected(over_http(server, timeout_s=3)) as client:
                with pytest.raises(McpError, match=r"no answer within 3s"):
                    await client.call("wait", {})
                assert text(await client.call("echo", {}))["arguments"] == {}

        asyncio.run(run())


@pytest.mark.parametrize("transport", ["http", "sse"])
def test_a_server_that_is_started_again(transport: str) -> None:
    """Between two calls it is not noticed; while it is away calls fail, and work when it is back."""
    with McpProcess(transport) as server:

        async def run() -> None:
            async with connected(over_http(server)) as client:
                await asyncio.to_thread(server.kill)
                await asyncio.to_thread(server.start)
                assert text(await client.call("echo", {}))["arguments"] == {}
                await asyncio.to_thread(server.kill)
                with pytest.raises(McpError, match="cannot connect"):
                    await client.call("echo", {})
                await asyncio.to_thread(server.start)
                assert text(await client.call("echo", {}))["arguments"] == {}

        asyncio.run(run())


def test_a_server_that_dies_in_a_call_is_asked_once_more(place: tuple[McpSettings, Path]) -> None:
    """Over stdio it is run again, and the call repeated; over HTTP nobody starts it, and the call fails."""
    settings, folder = place

    async def run() -> None:
        async with connected(settings) as client:
            if settings.transport == "stdio":
                assert text(await client.call("die", {}))["arguments"] == {}
                assert [one["tool"] for one in journal(folder) if "tool" in one] == ["die", "die"]
            else:
                with pytest.raises(McpError, match="cannot connect"):
                    await client.call("die", {})

    asyncio.run(run())


@pytest.mark.parametrize(
    ("status", "said", "handshakes"),
    [
        (503, "the server answered 503 Service Unavailable", 1), (429, "the server answered 429", 1),
        (418, "answered 418", 2), (401, "answered 401 Unauthorized", 2), (404, "cannot connect: .*404 Not Found", 2),
    ],
)  # fmt: skip
def test_bad_statuses(status: int, said: str, handshakes: int) -> None:
    """Passing ones fail the call alone; others the connection, which the next call opens again."""
    with McpProcess() as server:

        async def run() -> None:
            async with connected(over_http(server)) as client:
                (server.folder / "status").write_text(str(status))
                with pytest.raises(McpError, match=said):
                    await client.call("echo", {})
                (server.folder / "status").unlink()
                assert text(await client.call("echo", {}))["arguments"] == {}
            requests = [one for one in server.journal() if "method" in one]
            assert {one["method"] for one in requests} == {"POST", "DELETE"}
            assert len({one["headers"].get("mcp-session-id") for one in requests} - {None}) == handshakes

        asyncio.run(run())


def test_headers_and_client_credentials() -> None:
    """Static headers are on every request; the token wins over one of its name, and is fetched anew when refused."""
    with Issuer() as issuer, McpProcess("http", "--token=Bearer t2") as server:
        oauth2 = OAuth2(f"{issuer.url}/token", "me", "them", ("a", "b"))

        async def run() -> None:
            settings = over_http(server, oauth2=oauth2)
            async with connected(settings, "s&cret", **{"X-One": "1", "Authorization": "mine"}) as client:
                assert len(client.tools) == len(TOOLS)
            assert [grant["style"] for grant in issuer.grants] == ["header", "header"]
            assert {(grant["scope"], grant["audience"]) for grant in issuer.grants} == {("a b", "them")}
            heads = [one["headers"] for one in server.journal() if "method" in one]
            assert {head["x-one"] for head in heads} == {"1"}
            assert [head["authorization"] for head in heads[:2]] == ["Bearer t1", "Bearer t2"]
            with pytest.raises(McpError, match="no token"):
                await connect(settings, {}, "wrong")

        asyncio.run(run())


def test_what_cannot_be_reached(tmp_path: Path) -> None:
    async def run() -> None:
        with pytest.raises(McpError, match=r"cannot connect: http://127\.0\.0\.1:9/mcp: "):
            await connect(McpSettings("tools", "streamableHTTP", url="http://u:secret@127.0.0.1:9/mcp?k=secret"), {})
        with pytest.raises(McpError, match="no program 'not-there'"):
            await connect(McpSettings("tools", "stdio", command="not-there"), {})
        with pytest.raises(McpError, match=r"the process has (ended|closed its standard input)"):
            await connect(McpSettings("tools", "stdio", command="true"), {})
        with pytest.raises(McpError, match="this sidecar has no identity"):
            await connect(McpSettings("tools", "sse", url="http://h", spiffe=Spiffe("a", "b")), {})

    asyncio.run(run())


def test_a_process_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard input closed, then SIGTERM, then SIGKILL; to what it started, too."""
    monkeypatch.setattr(mcp_stdio, "PATIENCE_S", 0.2)
    command = program(tmp_path, "stdio")
    script = f"trap '' TERM; sleep 600 & echo $! > {tmp_path}/child; {' '.join(command)}; wait"
    settings = McpSettings("tools", "stdio", command="sh", arguments=("-c", script))

    async def run() -> None:
        async with connected(settings) as client:
            await client.call("echo", {})

    asyncio.run(run())
    child = (tmp_path / "child").read_text().strip()

    def ended() -> bool:
        state = subprocess.run(["ps", "-o", "stat=", "-p", child], capture_output=True, text=True, check=False).stdout
        return state[:1] in ("", "Z")  # nobody may have collected it yet

    eventually(ended)


def test_pings_find_a_server_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mcp_client, "PING_EVERY_S", 0.1)
    monkeypatch.setattr(mcp_client, "PING_LIMIT_S", 2)
    monkeypatch.setattr(mcp_client, "CLOSE_S", 0.3)
    with McpProcess() as server:

        async def run() -> None:
            async with connected(over_http(server)) as client:
                server.pause()
                link = client._link
                assert link is not None
                async with asyncio.timeout(WAIT_S):
                    await link._closing.wait()
                assert "a ping was not answered" in str(link.error)
                server.resume()
                assert text(await client.call("echo", {}))["arguments"] == {}

        asyncio.run(run())


# --- workflows ---


@asynccontextmanager
async def tools(
    settings: McpSettings, workflows: dict[str, Callable[..., Any]] | None = None, hooks: Hooks | None = None
) -> AsyncIterator[Bench]:
    """A hub that offers the tools; a worker is there only when it has workflows."""
    async with connected(settings) as client, bench(workflows or {}) as made:
        if not workflows:
            await made.disconnect()
        offered = ToolWorkflows("tools", client, hooks or Hooks())
        made.hub.register(offered.workflows, offered.activities)
        made.hub.serve_builtin()
        yield made


async def outcome(bench: Bench, name: str, given: object = "") -> Snapshot:
    order = Start(f"dapr.internal.mcp.tools.{name}", input=given if isinstance(given, str) else json.dumps(given))
    found: Snapshot = await bench.done(await bench.hub.start(order))
    return found


async def result(bench: Bench, name: str, given: object = "") -> Any:
    found = await outcome(bench, name, given)
    assert found.status is Status.COMPLETED, found.failure
    assert found.output is not None
    return json.loads(found.output)


def is_error(said: str) -> dict[str, Any]:
    return {"content": [{"type": "text", "text": said}], "isError": True}


def test_tools_as_workflows(tmp_path: Path) -> None:
    """No worker of an SDK is there. Every case of the table in 5.3."""

    async def run() -> None:
        async with tools(over_stdio(tmp_path)) as made:
            listed = await result(made, "ListTools", "ignored")
            assert [tool["name"] for tool in listed["tools"]] == TOOLS
            assert listed["tools"][0]["inputSchema"]["required"] == ["a", "b"]
            assert await result(made, "CallTool.add", {"arguments": {"a": 1, "b": 2}}) == {
                "content": [{"type": "text", "text": "3"}], "structuredContent": {"sum": 3},
            }  # fmt: skip
            assert text(await result(made, "CallTool.echo"))["arguments"] in (None, {})
            assert text(await result(made, "CallTool.dotted.name", {"arguments": {"x": 1}}))["arguments"] == {"x": 1}
            assert (await result(made, "CallTool.fail"))["isError"] is True
            assert await result(made, "CallTool.add", {"arguments": {"c": 1}}) == is_error(
                'call-tool: missing required argument(s) for tool "add": a, b'
            )
            assert await result(made, "CallTool.refuse", {}) == is_error(
                'call-tool: initial call failed for "tools": not today (tool "refuse")'
            )
            for bad in ("{", "[]", '{"arguments": 5}'):
                said = (await result(made, "CallTool.echo", bad))["content"][0]["text"]
                assert said.startswith("failed to parse CallToolInput: ")
            unknown = await outcome(made, "CallTool.nothing")
            assert unknown.status is Status.FAILED
            assert unknown.failure is not None
            assert unknown.failure.errorMessage == (
                "workflow named 'dapr.internal.mcp.tools.CallTool.nothing' is not registered"
            )
            kinds = await made.kinds(unknown.instance_id)
            assert "taskScheduled" not in kinds

    asyncio.run(run())


def echoing(mutation: Callable[[dict[str, Any]], Any] | None = None) -> Callable[..., Any]:
    """A hook that keeps what it was given, and returns what `mutation` makes of it."""

    def hook(ctx: Any, given: dict[str, Any]) -> Any:
        SEEN.append(given)
        return mutation(given) if mutation is not None else None

    return hook


SEEN: list[dict[str, Any]] = []


def test_hooks_change_what_goes_in_and_comes_out(tmp_path: Path) -> None:
    """In order; results are base64 of JSON; what a hook without `mutate` returns is dropped."""
    SEEN.clear()

    def with_result(value: object) -> str:
        return base64.b64encode(json.dumps(value).encode()).decode()

    workflows = {
        "look": echoing(lambda given: {"arguments": {"dropped": True}}),
        "double": echoing(lambda given: given | {"arguments": {"a": given["arguments"]["a"] * 2, "b": 2**60}}),
        "wrap": echoing(lambda given: {"result": with_result({"content": [], "was": len(given["result"])})}),
        "clear": echoing(),
        "odd": echoing(lambda given: {"argumints": {}}),
        "boom": lambda ctx, given: 1 // 0,
    }

    async def run() -> None:
        hooks = Hooks(before_call=(Hook("look"), Hook("double", mutate=True)), after_call=(Hook("look"),),
                      before_list=(Hook("look"),), after_list=(Hook("wrap", mutate=True),))  # fmt: skip
        async with tools(over_stdio(tmp_path), workflows, hooks) as made:
            added = await result(made, "CallTool.add", {"arguments": {"a": 1, "b": 1}})
            assert added["structuredContent"] == {"sum": 2**60 + 2}
            assert SEEN[0] == {"name": "tools", "toolName": "add", "arguments": {"a": 1, "b": 1}}
            assert SEEN[1] == SEEN[0]
            seen = json.loads(base64.b64decode(SEEN[2].pop("result")))
            assert seen == added
            assert SEEN[2] == {"name": "tools", "toolName": "add", "arguments": {"a": 2, "b": 2**60}}
            SEEN.clear()
            assert set(await result(made, "ListTools")) == {"content", "was"}
            assert [set(one) for one in SEEN] == [{"name"}, {"name", "result"}]

            def again(**hooks: Any) -> None:
                offered = ToolWorkflows("tools", client, Hooks(**hooks))
                made.hub.register(offered.workflows, offered.activities)

            async with connected(over_stdio(tmp_path)) as client:
                again(before_call=(Hook("clear", mutate=True),), after_call=(Hook("wrap", mutate=True),))
                assert set(await result(made, "CallTool.add", {"arguments": {"a": 1, "b": 1}})) == {"content", "was"}
                again(before_call=(Hook("boom"),), after_call=(Hook("boom"),))
                said = (await result(made, "CallTool.add"))["content"][0]["text"]
                assert said.startswith("beforeCallTool: ")
                again(before_call=(Hook("odd", mutate=True),))
                said = (await result(made, "CallTool.add"))["content"][0]["text"]
                assert "argumints" in said
                for hook in (Hook("boom"), Hook("clear", mutate=True)):
                    again(after_call=(hook,), after_list=(hook,))
                    for name, begin in (("CallTool.echo", "afterCallTool"), ("ListTools", "afterListTools")):
                        failed = await outcome(made, name)
                        assert failed.status is Status.FAILED
                        assert failed.failure is not None
                        assert failed.failure.errorMessage.startswith(f"{begin} failed: ")
                again(before_list=(Hook("boom"),))
                failed = await outcome(made, "ListTools")
                assert failed.failure is not None
                assert failed.failure.errorMessage.startswith("beforeListTools failed: ")

    asyncio.run(run())


def test_a_removed_server_stalls_what_runs_until_it_is_back(tmp_path: Path) -> None:
    async def run() -> None:
        async with connected(over_stdio(tmp_path)) as client, bench({}) as made:
            offered = ToolWorkflows("tools", client, Hooks())
            made.hub.register(offered.workflows, offered.activities)
            made.hub.serve_builtin()
            instance = await made.hub.start(Start("dapr.internal.mcp.tools.CallTool.wait"))
            async with asyncio.timeout(WAIT_S):
                while not any("tool" in one for one in journal(tmp_path)):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)  # another process: there is no event for us
            made.hub.unregister(offered.workflows, offered.activities)
            (tmp_path / "go").touch()
            async with asyncio.timeout(WAIT_S):
                while True:
                    found = await made.hub.get(instance)
                    assert found is not None
                    if found.status is Status.STALLED:
                        break
                    await asyncio.sleep(0.02)
            made.hub.register(offered.workflows, offered.activities)
            assert (await made.done(instance)).status is Status.COMPLETED

    asyncio.run(run())


def test_workers_are_never_given_the_sidecars_own(tmp_path: Path) -> None:
    """A worker that knows the very name does not get it; a child of its workflow may be one, though."""
    name = "dapr.internal.mcp.tools.CallTool.add"

    def caller(ctx: Any, given: Any) -> Any:
        return (yield ctx.call_child(name, {"arguments": {"a": 1, "b": 2}}))

    workflows = {name: lambda ctx, given: "the worker's", "caller": caller}

    async def run() -> None:
        async with tools(over_stdio(tmp_path), workflows) as made:
            assert (await result(made, "CallTool.add", {"arguments": {"a": 1, "b": 4}}))["structuredContent"][
                "sum"
            ] == 5
            done = await made.done(await made.hub.start(Start("caller")))
            assert json.loads(done.output)["structuredContent"] == {"sum": 3}

    asyncio.run(run())
