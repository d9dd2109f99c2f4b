"""Log lines (spec `runtime.md` 1.6) and the program's first and last words (1.1)."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import re
import stat
import subprocess
import sys
import threading
import types
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.observe import logs
from pillion.sidecar import main as program
from pillion.sidecar.flags import Options, usage
from pillion.sidecar.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)"


@pytest.fixture(autouse=True)
def quiet_logging() -> Iterator[None]:
    """Leave the process's logging as it was."""
    root, ours = logging.getLogger(), logging.getLogger("pillion")
    before = root.handlers[:], root.level, ours.level
    yield
    for handler in [handler for handler in root.handlers if handler not in before[0]]:
        root.removeHandler(handler)
        handler.close()
    root.setLevel(before[1])
    ours.setLevel(before[2])
    for name in ("pillion.api.http", "pillion.api.grpc"):
        logging.getLogger(name).setLevel(logging.NOTSET)


def lines(level: str = "debug", *, as_json: bool = False) -> io.StringIO:
    stream = io.StringIO()
    logs.setup(level=level, as_json=as_json, stream=stream, instance="host-1")
    return stream


def test_text() -> None:
    """Time, level and message first, the rest sorted; quotes where the value is not plain."""
    out = lines()
    logging.getLogger("pillion.sidecar").warning("port %d is taken", 3500)
    assert re.fullmatch(
        rf'time="{TIME}" level=warning msg="port 3500 is taken" '
        r"instance=host-1 scope=dapr.runtime type=log ver=1\.18\.3\n",
        out.getvalue(),
    )


def test_json() -> None:
    """One object a line, keys sorted."""
    out = lines(as_json=True)
    logging.getLogger("pillion.blocks.state").critical("all is lost")
    logging.getLogger("pillion.blocks.state").error("odd", extra={"fields": {"n": 2**70, "s": "\ud800"}})
    first, second = map(json.loads, out.getvalue().splitlines())
    assert list(first) == sorted(first)
    assert re.fullmatch(TIME, first.pop("time"))
    assert first == {
        "level": "fatal", "msg": "all is lost", "instance": "host-1", "scope": "dapr.runtime.state", "type": "log",
        "ver": "1.18.3",
    }  # fmt: skip
    assert (second["n"], second["s"]) == (str(2**70), "?")


def test_colour() -> None:
    """For people: level, seconds since the start, message, then coloured keys."""
    record = logging.LogRecord("pillion.tasks", logging.INFO, "", 0, "hello", None, None)
    text = logs.ColourFormatter("h", started=record.created - 3).format(record)
    assert text.startswith("\x1b[36mINFO\x1b[0m[0003] hello" + " " * 39)
    assert "\x1b[36mscope\x1b[0m=dapr.runtime.tasks" in text


@pytest.mark.parametrize("formatter", [logs.ColourFormatter("h"), logs.TextFormatter("h"), logs.JsonFormatter("h")])
def test_texts_that_cannot_be_written(formatter: logging.Formatter) -> None:
    """Half of a surrogate pair, in a message, a field, an error and its trace, does not cost the line."""
    try:
        raise ValueError("half \ud800")
    except ValueError as error:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "odd \ud800", None, (type(error), error, None))
    record.fields = {"name": "\ud800"}
    assert "odd ?" in formatter.format(record).encode().decode()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("plain-1._/@^+", "plain-1._/@^+"), ("", ""), (5, "5"), ("a b", '"a b"'), ('a"b\n', '"a\\"b\\n"'), ("ä", '"ä"'),
        ("a=b", '"a=b"'), (None, "None"),
    ],
)  # fmt: skip
def test_quoting(value: object, text: str) -> None:
    assert logs.quoted(value) == text


@given(st.text(), st.dictionaries(st.text(alphabet="abc", min_size=1), st.text() | st.integers() | st.none()))
def test_hostile_messages(message: str, fields: dict[str, Any]) -> None:
    """Whatever is logged: one line of text, one JSON object."""
    record = logging.LogRecord("x", logging.INFO, "", 0, message, None, None)
    record.fields = fields
    assert "\n" not in logs.TextFormatter("h").format(record)
    assert json.loads(logs.JsonFormatter("h").format(record))["level"] == "info"


@pytest.mark.parametrize(
    ("logger", "scope"),
    [
        ("pillion.sidecar", "dapr.runtime"), ("pillion.sidecar.components", "dapr.runtime.components"),
        ("pillion.components.redis", "dapr.contrib"), ("pillion.api.http", "dapr.runtime.http-info"),
        ("pillion.api.grpc", "dapr.runtime.grpc-info"), ("pillion.serve.http", "dapr.runtime.http"),
        ("pillion.net.h2", "dapr.runtime.net.h2"), ("asyncio", "dapr.contrib"), ("pillionaire", "dapr.contrib"),
    ],
)  # fmt: skip
def test_scopes(logger: str, scope: str) -> None:
    assert logs.scope_of(logger) == scope


def test_context() -> None:
    """The application and the component are known to the lines of whatever they started."""
    out = lines(as_json=True)
    logger = logging.getLogger("pillion.components.redis")

    async def speak() -> None:
        logger.info("from a task")

    async def scenario() -> None:
        with logs.of_app("orders"):
            with logs.component("store (state.redis/v1)"):
                task = asyncio.create_task(speak())
            logger.info("after")
        await task

    asyncio.run(scenario())
    after, task = map(json.loads, out.getvalue().splitlines())
    assert (after["app_id"], "component" in after) == ("orders", False)
    assert (task["app_id"], task["component"]) == ("orders", "store (state.redis/v1)")


def test_exceptions() -> None:
    out = lines(as_json=True)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("pillion").exception("failed")
    line = json.loads(out.getvalue())
    assert line["error"] == "ValueError: broken"
    assert line["stack"].startswith("Traceback")


@pytest.mark.parametrize(
    ("level", "ours", "theirs"),
    [
        ("debug", "debug info warning error", "warning error"),
        ("warn", "warning error", "warning error"),
        ("fatal", "", ""),
    ],
)
def test_levels(level: str, ours: str, theirs: str) -> None:
    """Our own loggers speak from the level on, other libraries from warning on."""
    for logger, heard in (("pillion.x", ours), ("somebody", theirs)):
        out = lines(level, as_json=True)
        for name in ("debug", "info", "warning", "error"):
            getattr(logging.getLogger(logger), name)(name)
        assert " ".join(json.loads(line)["msg"] for line in out.getvalue().splitlines()) == heard


def test_api_log() -> None:
    """Both are told whatever the level is; URLs and health checks can be left out."""
    out = lines("fatal", as_json=True)
    plain, shy = logs.ApiLog(), logs.ApiLog(obfuscate_urls=True, omit_health_checks=True)
    for api in (plain, shy):
        api.http("GET", "/v1.0/state/s/k", "GetState", agent="curl", code=200, size=5, elapsed_s=0.0129)
        api.http("GET", "/v1.0/healthz", "healthz", agent="", code=204, size=0, elapsed_s=0)
    plain.grpc("/dapr.proto.runtime.v1.Dapr/GetState", agent="grpc", code=5, elapsed_s=1.5)
    shy.grpc("/grpc.health.v1.Health/Check", agent="grpc", code=0, elapsed_s=0)
    found = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["method"] for line in found] == [
        "GET /v1.0/state/s/k", "GET /v1.0/healthz", "GetState", "/dapr.proto.runtime.v1.Dapr/GetState",
    ]  # fmt: skip
    assert (found[0]["code"], found[0]["size"], found[0]["duration"], found[0]["useragent"]) == (200, 5, 12, "curl")
    assert (found[0]["msg"], found[0]["scope"]) == ("HTTP API Called", "dapr.runtime.http-info")
    assert (found[3]["msg"], found[3]["code"], found[3]["duration"]) == ("gRPC API Called", 5, 1500)


def test_file(tmp_path: Path) -> None:
    """A file is appended to, mode 0644 less the process's mask."""
    path = tmp_path / "log"
    for word in ("one", "two"):
        handler = logs.setup(file=str(path), instance="h")
        logging.getLogger("pillion").info(word)
        logs.setup(stream=io.StringIO())
    assert [line.split(" ")[2] for line in path.read_text().splitlines()] == ["msg=one", "msg=two"]
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644 & ~mask
    assert isinstance(handler, logging.StreamHandler)


def test_reader_gone(capfd: pytest.CaptureFixture[str]) -> None:
    """A reader that went away does not stop the sidecar, and is no flood of tracebacks."""

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    logs.setup(stream=Gone())
    logging.getLogger("pillion").info("into the void")
    assert capfd.readouterr().err == ""


def test_stamp() -> None:
    assert re.fullmatch(TIME, logs.stamp(0.5))
    assert "." not in logs.stamp(12.0)


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` and `--build-info` print and end well, whatever else is missing."""
    assert main(["--version"], {}) == 0
    assert capsys.readouterr().out == "1.18.3\n"
    assert main(["-build-info"], {}) == 0
    assert re.fullmatch(r"Version: 1\.18\.3\nGit Commit: .+\nGit Version: pillion-.+\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("argv", "status", "out", "err"),
    [
        (["--help"], 0, "Usage of pilliond:", ""),
        (["--app-idd"], 2, "", "unknown flag: --app-idd (did you mean --app-id?)\nUsage of pilliond:"),
        (["--app-port", "x"], 1, "", "pilliond: --app-port: 'x': not a port number"),
        ([], 1, 'level=fatal msg="Fatal error from runtime: --app-id: the app id is missing', ""),
        (["--app-id", "x", "--log-level", "loud"], 1, "--log-level: unknown level", ""),
        (["--app-id", "x", "--log-file", "/"], 1, "", "pilliond: --log-file: "),
    ],
)
def test_first_words(capsys: pytest.CaptureFixture[str], argv: list[str], status: int, out: str, err: str) -> None:
    """Exit statuses of 1.1, and where the words go."""
    assert main(argv, {}) == status
    said = capsys.readouterr()
    assert out in said.out
    assert err in said.err
    assert (usage() in said.err) == (status == 2)


def test_hand_over(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The lifecycle gets the options and the environment; its status, or its failure, is the program's."""
    given: list[tuple[Options, Any]] = []
    lifecycle = types.ModuleType("pillion.sidecar.lifecycle")

    def run(options: Options, environment: Any) -> int:
        given.append((options, environment))
        if options.app_port == 1:
            raise RuntimeError("on fire")
        return 7

    lifecycle.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillion.sidecar.lifecycle", lifecycle)
    assert main(["--app-id", "x", "--components-path", "c"], {"NAMESPACE": "n"}) == 7
    assert given[0][0].app_id == "x"
    assert given[0][1].namespace == "n"
    assert "flag --components-path is deprecated" in capsys.readouterr().err
    assert main(["--app-id", "x", "--app-port", "1"], {}) == 1
    said = capsys.readouterr().out
    assert 'msg="Fatal error from runtime: on fire"' in said
    assert "app_id=x" in said


def test_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--wait` asks until it hears 204, and ends well even when it never does."""
    answers = [500, 204]
    asked: list[str] = []

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(answers.pop(0))
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("localhost", 0), Health) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        assert main(["--wait", "--dapr-http-port", str(server.server_port)], {}) == 0
        server.shutdown()
        thread.join()
        port = server.server_port
    assert asked == ["/v1.0/healthz/outbound"] * 2
    monkeypatch.setattr(program, "WAIT_S", 0.05)
    assert main(["--wait", "--dapr-http-port", str(port)], {}) == 0


def test_the_program_itself() -> None:
    """The module runs as a program, and `--version` needs no resources, no ports and no app id."""
    ran = subprocess.run(
        [sys.executable, "-m", "pillion.sidecar.main", "--version"], capture_output=True, text=True, check=True
    )
    assert ran.stdout == "1.18.3\n"
