"""MCP servers of a real sidecar, with a real placement and scheduler: spec `crypto-conversation-mcp.md` 5.

The tools are started as workflows over HTTP; no SDK worker is there.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from typing import TYPE_CHECKING, Any

import pytest

import workflow_processes as processes
from issuer import Issuer
from mcp_servers import McpProcess, document, journal, program
from pillion.net.grpc_client import Channel
from pillion.testing.workflow_worker import Executor, OverGrpc, Worker
from sidecars import START_S, SidecarProcess, component, eventually, rewrite

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

PREFIX = "dapr.internal.mcp"


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[str]]:
    with processes.plane(tmp_path_factory.mktemp("planes")) as found:
        yield found


def stdio(folder: Path) -> dict[str, object]:
    command, *arguments = program(folder, "stdio")
    return {"stdio": {"command": command, "args": arguments}}


def http(server: McpProcess, **more: object) -> dict[str, object]:
    return {"streamableHTTP": {"url": server.url, **more}}


def start(sidecar: SidecarProcess, name: str, given: object = None) -> str:
    instance = uuid.uuid4().hex
    path = f"/v1.0/workflows/dapr/{PREFIX}.{name}/start?instanceID={instance}"
    reply = sidecar.request("POST", path, b"" if given is None else json.dumps(given))
    assert reply.status == 202, reply
    return instance


def status(sidecar: SidecarProcess, instance: str) -> dict[str, Any]:
    found: dict[str, Any] = sidecar.request("GET", f"/v1.0/workflows/dapr/{instance}").json()
    return found


def ended(sidecar: SidecarProcess, instance: str) -> dict[str, Any]:
    deadline = time.monotonic() + START_S
    while (found := status(sidecar, instance)).get("runtimeStatus") not in ("COMPLETED", "FAILED", "TERMINATED"):
        assert time.monotonic() < deadline, f"{found}\n{sidecar.log()}"
        time.sleep(0.02)
    return found


def run(sidecar: SidecarProcess, name: str, given: object = None) -> Any:
    found = ended(sidecar, start(sidecar, name, given))
    assert found["runtimeStatus"] == "COMPLETED", found
    return json.loads(found["properties"]["dapr.workflow.output"])


def servers(sidecar: SidecarProcess) -> list[str]:
    return [one["name"] for one in sidecar.request("GET", "/v1.0/metadata").json().get("mcpServers", [])]


def offered(sidecar: SidecarProcess, server: str) -> list[str]:
    return [tool["name"] for tool in run(sidecar, f"{server}.ListTools")["tools"]]


def test_tools_are_there_when_outbound_calls_are(tmp_path: Path, flags: Sequence[str]) -> None:
    """Three servers over three transports, one of them down: listed, called, closed in order at the end."""
    with McpProcess() as web, McpProcess("sse") as events:
        more = {
            "a.yaml": document("files", stdio(tmp_path)), "b.yaml": document("web", http(web)),
            "c.yaml": document("events", {"sse": {"url": events.url}}),
            "d.yaml": document("down", {"sse": {"url": "http://127.0.0.1:9/sse"}}, ignoreErrors=True),
            "e.yaml": document("wrong", {}, ignoreErrors=True),
        }  # fmt: skip
        with processes.sidecar(tmp_path, flags, "tools", more=more) as sidecar:
            assert servers(sidecar) == ["files", "web", "events", "down"]
            for server in ("files", "web", "events"):
                assert len(offered(sidecar, server)) == 7
                added = run(sidecar, f"{server}.CallTool.add", {"arguments": {"a": 2, "b": 3}})
                assert added["structuredContent"] == {"sum": 5}
            unknown = ended(sidecar, start(sidecar, "down.ListTools"))
            assert unknown["runtimeStatus"] == "FAILED"
            assert unknown["properties"]["dapr.workflow.failure.error_message"] == (
                f"workflow named '{PREFIX}.down.ListTools' is not registered"
            )
            missing = run(sidecar, "web.CallTool.add", {"arguments": {"a": 2}})
            assert missing["content"][0]["text"] == 'call-tool: missing required argument(s) for tool "add": b'
            assert "spec.endpoint: is missing" in sidecar.log()
            assert sidecar.stop() == 0
        assert web.journal()[-1]["method"] == "DELETE"
        assert journal(tmp_path)[-1] == {"ended": "stdin"}


@pytest.mark.parametrize(
    ("endpoint", "said"),
    [
        ({"sse": {"url": "http://127.0.0.1:9/sse"}}, "MCP server gone cannot be loaded: cannot connect"),
        ({"sse": {}}, "spec.endpoint.sse.url: is missing"),
        ({"stdio": {"command": "../../bin/sh"}}, "leads out of"),
    ],
)
def test_a_server_that_must_be_there(
    tmp_path: Path, flags: Sequence[str], endpoint: dict[str, object], said: str
) -> None:
    """The sidecar ends with 1; one that cannot be reached is tried four times before."""
    sidecar = processes.sidecar(tmp_path, flags, "must", more={"m.yaml": document("gone", endpoint)})
    sidecar.start(ready=False)
    assert sidecar.process is not None
    assert sidecar.process.wait(START_S) == 1
    assert said in sidecar.log()
    assert sidecar.log().count("trying again") == (3 if "cannot connect" in said else 0)


def test_servers_follow_their_files(tmp_path: Path, flags: Sequence[str]) -> None:
    """New, changed, removed; the list of tools is that of the last registration."""
    with McpProcess() as first, McpProcess() as second:
        (second.folder / "extra").write_text("more")
        with processes.sidecar(tmp_path, flags, "reload") as sidecar:
            assert servers(sidecar) == []
            file = tmp_path / "resources-reload" / "m.yaml"
            rewrite(file, document("web", http(first)))
            eventually(lambda: servers(sidecar) == ["web"])
            sidecar.wait_log("MCP server web offers 7 tools")
            assert len(offered(sidecar, "web")) == 7
            (first.folder / "extra").write_text("unseen")
            assert len(offered(sidecar, "web")) == 7
            waiting = start(sidecar, "web.CallTool.wait")
            eventually(lambda: any(one.get("tool") == "wait" for one in first.journal()))
            rewrite(file, document("web", http(second)))
            sidecar.wait_log("MCP server web offers 8 tools")
            assert "more" in offered(sidecar, "web")
            assert "content" in run(sidecar, "web.CallTool.more")
            (first.folder / "go").touch()  # the call that the old connection began is let finish
            assert ended(sidecar, waiting)["runtimeStatus"] == "COMPLETED"
            assert sum(one.get("tool") == "wait" for one in first.journal()) == 1
            file.unlink()
            eventually(lambda: servers(sidecar) == [])
            eventually(lambda: second.journal()[-1].get("method") == "DELETE")
            rewrite(file, document("web", {"streamableHTTP": {"url": "http://127.0.0.1:9"}}, ignoreErrors=True))
            sidecar.wait_log("Ignoring error processing MCP server")
            assert servers(sidecar) == ["web"]
            rewrite(file, document("web", {"streamableHTTP": {}}))
            assert sidecar.process is not None
            assert sidecar.process.wait(START_S) == 1


def test_secrets_of_headers_and_of_client_credentials(tmp_path: Path, flags: Sequence[str]) -> None:
    """From the store that `auth.secretStore` names; a change of a secret alone connects anew, with the new one."""
    secrets = tmp_path / "secrets.json"
    secrets.write_text(json.dumps({"mcp": {"key": "one", "client": "s&cret"}}))
    store = component("vault", "secretstores.local.file", secretsFile=str(secrets), multiValued="true")
    header = [{"name": "X-Key", "secretKeyRef": {"name": "mcp", "key": "key"}}]
    with Issuer() as issuer, McpProcess("http", "--token=Bearer t") as web:
        oauth2 = {"issuer": f"{issuer.url}/token", "clientID": "me", "secretKeyRef": {"name": "mcp", "key": "client"}}
        endpoint = http(web, headers=header, auth={"secretStore": "vault", "oauth2": oauth2})
        astray = http(web, auth={"oauth2": oauth2})
        more = {"v.yaml": store, "m.yaml": document("web", endpoint),
                "n.yaml": document("astray", astray, ignoreErrors=True)}  # fmt: skip

        def keys() -> set[str]:
            return {one["headers"].get("x-key", "") for one in web.journal() if "method" in one}

        with processes.sidecar(tmp_path, flags, "secrets", more=more) as sidecar:
            assert len(offered(sidecar, "web")) == 7
            assert keys() == {"one"}
            assert len(issuer.grants) == 1
            assert "there is no secret store 'kubernetes'" in sidecar.log()
            assert "s&cret" not in sidecar.log()
            secrets.write_text(secrets.read_text().replace("one", "two"))
            rewrite(tmp_path / "resources-secrets" / "v.yaml", store + "  initTimeout: 6s\n")
            eventually(lambda: keys() == {"one", "two"})


def test_a_call_survives_its_sidecar(tmp_path: Path, flags: Sequence[str]) -> None:
    """Killed in a call: the next sidecar of the application makes it again (at least once)."""
    with McpProcess() as web:
        more = {"m.yaml": document("web", http(web))}
        with processes.sidecar(tmp_path, flags, "survivor", more=more) as sidecar:
            instance = start(sidecar, "web.CallTool.wait", {"arguments": {"text": "x"}})
            eventually(lambda: any(one.get("tool") == "wait" for one in web.journal()))
            sidecar.kill()
        with processes.sidecar(tmp_path, flags, "survivor", more=more) as sidecar:
            eventually(lambda: sum(one.get("tool") == "wait" for one in web.journal()) == 2)
            (web.folder / "go").touch()
            found = ended(sidecar, instance)
            assert found["runtimeStatus"] == "COMPLETED", found
            said = json.loads(json.loads(found["properties"]["dapr.workflow.output"])["content"][0]["text"])
            assert said["arguments"] == {"text": "x"}


def test_hooks_and_callers_in_other_applications(tmp_path: Path, flags: Sequence[str]) -> None:
    """A hook runs in the application that it names; another application calls a tool as a child workflow, unless the
    access policy of the tools' application forbids it.
    """
    hooks = {"beforeCallTool": [{"workflow": {"workflowName": "double", "appID": "hooks"}, "mutate": True}]}
    policy = {
        "apiVersion": "dapr.io/v1alpha1", "kind": "WorkflowAccessPolicy", "metadata": {"name": "tools"},
        "spec": {"rules": [{
            "callers": [{"appID": "hooks"}],
            "workflows": [{"name": f"{PREFIX}.files.CallTool.add", "operations": ["schedule"]}],
        }]},
    }  # fmt: skip
    more = {"m.yaml": document("files", stdio(tmp_path), middleware=hooks), "p.yaml": json.dumps(policy)}
    store = processes.sqlite(tmp_path)

    def double(ctx: Any, given: Any) -> Any:
        return {"arguments": {name: value * 2 for name, value in given["arguments"].items()}}

    def caller(ctx: Any, tool: str) -> Any:
        given = {"arguments": {"a": 1, "b": 2}}
        return (yield ctx.call_child(f"{PREFIX}.files.CallTool.{tool}", given, app_id="tools"))

    async def work(done: asyncio.Event, port: int) -> None:
        channel = Channel(f"127.0.0.1:{port}")
        worker = Worker(Executor({"double": double, "caller": caller}), OverGrpc(channel))
        await done.wait()
        await worker.close()
        await channel.close()

    def judged(hooks: SidecarProcess) -> None:
        def called(tool: str) -> dict[str, Any]:
            path = f"/v1.0/workflows/dapr/caller/start?instanceID={uuid.uuid4().hex}"
            return ended(hooks, hooks.post_json(path, tool).json()["instanceID"])

        found = called("add")
        assert found["runtimeStatus"] == "COMPLETED", found
        assert json.loads(found["properties"]["dapr.workflow.output"])["structuredContent"] == {"sum": 6}
        assert "access denied by workflow access policy" in json.dumps(called("echo"))

    async def main(hooks: SidecarProcess) -> None:
        done = asyncio.Event()
        working = asyncio.create_task(work(done, hooks.grpc_port))
        try:
            await asyncio.to_thread(judged, hooks)
        finally:
            done.set()
            await working

    with (
        processes.sidecar(tmp_path, flags, "tools", store=store, more=more),
        processes.sidecar(tmp_path, flags, "hooks", store=store) as hooking,
    ):
        asyncio.run(main(hooking))
