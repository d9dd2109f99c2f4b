"""The commands that talk to what runs: what they print, and what they send."""

from __future__ import annotations

import http.server
import json
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
import yaml

from pillion import REFERENCE_VERSION, __version__
from pillion.cli import listing, tail
from pillion.cli.main import COMMANDS, main
from pillion.sidecar.presence import Record, announce

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder of the test's own."""
    monkeypatch.setenv("PILLION_HOME", str(tmp_path))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("DAPR_API_TOKEN", raising=False)
    return tmp_path


@contextmanager
def sidecar(home: Path, app_id: str, status: int = 200, answer: bytes = b"{}") -> Iterator[list[tuple[str, ...]]]:
    """Listed as the sidecar of an application; notes verb, target, content type, token and body of what it is asked."""
    asked: list[tuple[str, ...]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            asked.append((self.command, self.path, self.headers.get("content-type", ""),
                          self.headers.get("dapr-api-token", ""), body.decode()))  # fmt: skip
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_GET = do_POST = handle_one

        def log_message(self, *_: object) -> None:
            """Tests have no log."""

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        presence = announce(Record(app_id, http_port=server.server_port, created=time.time()), home)
        try:
            yield asked
        finally:
            presence.withdraw()
            server.shutdown()
            thread.join()


def test_invoke(home: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    """The answer goes to standard output as it is; names are encoded; the token is sent."""
    monkeypatch.setenv("DAPR_API_TOKEN", "secret")
    with sidecar(home, "my orders", answer=b"\xff\x00") as asked:
        assert main(["invoke", "-a", "my orders", "-m", "/a b/c?x=1", "-d", '{"n": 1}', "-v", "post"]) == 0
    assert asked == [("POST", "/v1.0/invoke/my%20orders/method/a%20b/c?x=1", "application/json", "secret", '{"n": 1}')]
    assert capfdbinary.readouterr().out == b"\xff\x00\n"


def test_invoke_that_fails(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Outside 200 to 399 is an error, told with the sidecar's own words."""
    answer = b'{"errorCode": "ERR_DIRECT_INVOKE", "message": "fail to invoke"}'
    with sidecar(home, "orders", 500, answer):
        assert main(["invoke", "-a", "orders", "-m", "x"]) == 1
    assert "orders answered 500: ERR_DIRECT_INVOKE: fail to invoke" in capsys.readouterr().err


EVENT = '{"id": "1", "source": "s", "specversion": "1.0", "type": "t", "data": 1}'


@pytest.mark.parametrize(
    ("data", "kind"),
    [(EVENT, "application/cloudevents+json"), ('{"id": 1}', "application/json"), ("text", "application/json")],
)
def test_publish(home: Path, data: str, kind: str) -> None:
    """What is a cloud event already is sent as one; metadata become parameters."""
    with sidecar(home, "orders", 204, b"") as asked:
        metadata = '{"ttlInSeconds": 10, "a b": "c&d"}'
        assert main(["publish", "-i", "orders", "-p", "pub sub", "-t", "a/b", "-d", data, "-m", metadata]) == 0
    target = "/v1.0/publish/pub%20sub/a/b?metadata.ttlInSeconds=10&metadata.a%20b=c%26d"
    assert asked == [("POST", target, kind, "", data)]


def test_data_from_a_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file instead of an argument; a missing one is told; both are a mistake."""
    (home / "data.json").write_text("[1]")
    common = ["publish", "-i", "orders", "-p", "p", "-t", "t"]
    with sidecar(home, "orders", 204, b"") as asked:
        assert main([*common, "-f", str(home / "data.json")]) == 0
        assert main([*common, "-f", str(home / "nowhere")]) == 1
        assert main([*common, "-f", "x", "-d", "y"]) == 2
        assert main([*common, "-d", "{}", "-m", "[]"]) == 2
    assert [entry[4] for entry in asked] == ["[1]"]
    assert "nowhere cannot be read: No such file or directory" in capsys.readouterr().err


def test_one_that_does_not_answer(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A listed sidecar that nobody reaches is named with its address."""
    presence = announce(Record("orders", http_port=1), home)
    assert main(["invoke", "-a", "orders", "-m", "x"]) == 1
    assert "the sidecar of orders at 127.0.0.1:1 does not answer" in capsys.readouterr().err
    assert main(["invoke", "-a", "order", "-m", "x"]) == 1
    assert "no application order is running (did you mean orders?)" in capsys.readouterr().err
    presence.withdraw()


def test_list(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns without a value are left out, commands are shortened in the table alone, nothing else is cut."""
    command = "python3 -m very.long.command --with=arguments"
    record = Record(
        "orders", http_port=3500, pid=7, command=command, created=time.time() - 61, run_file="/a/" + "x" * 200
    )
    presence = announce(record, home)
    assert main(["list"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    expected = "APP ID HTTP PORT COMMAND AGE CREATED DAPRD PID RUN_TEMPLATE_PATH"
    assert " ".join(head.split()) == expected
    assert row.startswith("orders  3500       python3 -m very.lon…  1m   ")
    assert row.rstrip().endswith("x" * 200)
    for output in (["-o", "json"], ["--json"], ["-o", "yaml"]):
        assert main(["list", *output]) == 0
        [found] = yaml.safe_load(capsys.readouterr().out)
        assert list(found) == [column.key for column in listing.COLUMNS]
        assert (found["command"], found["daprdPid"], found["age"]) == (command, 7, "1m")
    presence.withdraw()


@pytest.mark.parametrize(("seconds", "text"), [(-1, "0s"), (59, "59s"), (60, "1m"), (7200, "2h"), (200000, "2d")])
def test_age(seconds: float, text: str) -> None:
    """The largest unit that fits."""
    assert listing.age(seconds) == text


def test_init(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Written once, then left alone."""
    assert main(["init"]) == 0
    assert capsys.readouterr().err.count("wrote ") == 4
    assert main(["init"]) == 0
    assert capsys.readouterr().err.count("left alone: ") == 4
    assert (home / "components" / "statestore.yaml").exists()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """In the form that tools of the reference read."""
    assert main(["--version"]) == 0
    assert main(["version"]) == 0
    assert capsys.readouterr().out == f"CLI version: {__version__} \nRuntime version: {REFERENCE_VERSION}\n" * 2
    assert main(["version", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"Cli version": __version__, "Runtime version": REFERENCE_VERSION}


MCP_SERVERS = """
apiVersion: dapr.io/v1alpha1
kind: MCPServer
metadata: {name: weather, namespace: shop}
spec: {endpoint: {streamableHTTP: {url: "https://weather.example/mcp"}}}
scopes: [agent, planner]
---
apiVersion: dapr.io/v1alpha1
kind: MCPServer
metadata: {name: files}
spec: {endpoint: {stdio: {command: mcp-files, args: [/srv]}}}
---
apiVersion: dapr.io/v1alpha1
kind: MCPServer
metadata: {name: nowhere}
spec: {endpoint: {}}
---
apiVersion: dapr.io/v1alpha1
kind: Component
metadata: {name: statestore}
spec: {type: state.in-memory, version: v1}
"""


def test_mcp_servers_of_files(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Those of a folder, for whichever application; of the default one where none is given. Mistakes are told."""
    assert main(["mcpservers"]) == 0
    assert capsys.readouterr().out == "No MCP servers are described here.\n"
    folder = home / "components"
    folder.mkdir()
    (folder / "mcp.yaml").write_text(MCP_SERVERS)
    weather = {
        "name": "weather", "namespace": "shop", "transport": "streamableHTTP", "url": "https://weather.example/mcp",
        "scopes": ["agent", "planner"],
    }  # fmt: skip
    assert main(["mcpservers", "-n", "weather", "--resources-path", str(folder), "-o", "json"]) == 0
    shown = capsys.readouterr()
    assert json.loads(shown.out) == [weather]
    assert "write exactly one of" in shown.err
    assert main(["mcpservers", "-o", "yaml"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)[0] == weather
    assert main(["mcpservers"]) == 0
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["NAMESPACE", "NAME", "TRANSPORT", "URL", "SCOPES"],
        ["shop", "weather", "streamableHTTP", "https://weather.example/mcp", "agent,planner"],
        ["files", "stdio", "mcp-files"],
    ]
    assert main(["mcpservers", "--resources-path", str(home / "nowhere")]) == 1
    assert "cannot be read" in capsys.readouterr().err


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    """Every command is there and has help, and the program alone shows them all."""
    for name in COMMANDS:
        assert main([name, "--help"]) == 0
        assert f"Usage: pillion {name}" in capsys.readouterr().out
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in COMMANDS)


def test_logs_of_the_last_run(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest of each log, by name: ids may contain underscores."""
    monkeypatch.chdir(home)
    folder = home / ".dapr" / "logs"
    folder.mkdir(parents=True)
    written = {
        "a_b_app_20250101000000": "old",
        "a_b_app_20260101000000": "new",
        "b_app_20270101000000": "other",
        "a_b_daprd_20260101000000": "side",
    }
    for name, text in written.items():
        (folder / f"{name}.log").write_text(text + "\nlast\n")
    assert main(["logs", "a_b", "-n", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "== SIDECAR - a_b == side", "== SIDECAR - a_b == last", "== APP - a_b == new", "== APP - a_b == last",
    ]  # fmt: skip
    assert main(["logs", "b", "--only", "app", "-n", "1"]) == 0
    assert capsys.readouterr().out == "last\n"
    assert main(["logs", "b", "--only", "sidecar"]) == 1


def test_following(tmp_path: Path) -> None:
    """Lines come as they are written, whole; the last ones before the end are not lost."""
    import os

    path = tmp_path / "log"
    path.write_text("first\nhal")
    one = tail.Tail(path)
    assert one.last(None) == [b"first"]
    read, write = os.pipe()
    lines = tail.follow([one], read)
    with path.open("a") as file:
        file.write("f\n")
        file.flush()
        assert next(lines)[1] == [b"half"]
        file.write("end\n")
    os.close(write)
    assert [line for _, found in lines for line in found] == [b"end"]
    one.close()
    os.close(read)


def test_what_is_not_needed_is_not_imported() -> None:
    """The sidecar's program knows no command line library; a command imports what it uses."""
    for program, forbidden in (
        ("import pillion.sidecar.main, pillion.sidecar.lifecycle", {"click", "rich"}),
        ("import pillion.cli.main", {"rich", "asyncio", "google.protobuf", "yaml"}),
        ("import pillion.cli.listing", {"rich", "asyncio", "google.protobuf"}),
    ):
        code = f"{program}; import sys; print(*sys.modules)"
        loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
        assert not forbidden & set(loaded), program
