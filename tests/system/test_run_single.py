"""`pillion run -- COMMAND`: real processes, real sidecars."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from cli_processes import ECHO, Pillion, pillion
from ports import free_port
from sidecars import eventually

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")


def fetch(url: str, data: bytes | None = None) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as answer:
        body: bytes = answer.read()
        return body


def http_port(started: str) -> int:
    return int(started.partition("http://127.0.0.1:")[2].partition(",")[0])


def test_the_status_is_the_commands(tmp_path: Path) -> None:
    """The run ends with its application, with its status; the application's output is its own, without prefix."""
    found = pillion(
        ["run", "-a", "orders", "--", "sh", "-c", "echo out; echo err >&2; exit 7"], home=tmp_path, folder=tmp_path
    )
    assert (found.returncode, found.stdout) == (7, "out\n")
    assert "err\n" in found.stderr
    assert "orders ended with status 7" in found.stderr
    killed = pillion(["run", "-a", "orders", "--", "sh", "-c", "kill -SEGV $$"], home=tmp_path, folder=tmp_path)
    assert killed.returncode == 128 + signal.SIGSEGV
    assert "orders was killed by SIGSEGV" in killed.stderr


def test_standard_input_is_the_applications(tmp_path: Path) -> None:
    """What is typed or piped reaches the command."""
    with Pillion(
        "run", "--", "sh", "-c", "read word; echo got $word", home=tmp_path, folder=tmp_path, stdin="hi\n"
    ) as run:
        assert run.wait() == 0
        run.until("got hi")


def test_an_application_from_start_to_end(tmp_path: Path) -> None:
    """Served, listed, invoked, published for, and stopped: the sidecar answers until the application's last word."""
    port = free_port()
    command = ["run", "-a", "orders", "-p", str(port), "--", sys.executable, "-c", ECHO]
    with Pillion(*command, home=tmp_path, folder=tmp_path) as run:
        api = f"http://127.0.0.1:{http_port(run.until('orders: HTTP'))}"
        run.until("serving")
        metadata = json.loads(fetch(f"{api}/v1.0/metadata"))
        assert metadata["id"] == "orders"

        [row] = json.loads(pillion(["list", "-o", "json"], home=tmp_path, folder=tmp_path).stdout)
        assert (row["appId"], row["appPort"], row["cliPid"]) == ("orders", port, run.process.pid)
        assert os.getsid(row["appPid"]) == row["appPid"]
        table = pillion(["list"], home=tmp_path, folder=tmp_path).stdout.splitlines()
        assert table[0].split("  ")[0] == "APP ID"
        assert table[1].startswith("orders  ")

        called = pillion(["invoke", "-a", "orders", "-m", "some/path?a=1", "-v", "GET"], home=tmp_path, folder=tmp_path)
        assert (called.returncode, called.stdout) == (0, "orders got /some/path?a=1\n")
        message = ["publish", "-i", "orders", "-t", "news", "-d", "{}", "-p"]
        sent = pillion([*message, "pubsub"], home=tmp_path, folder=tmp_path)
        assert (sent.returncode, sent.stderr) == (0, "✅  published\n")
        nowhere = pillion([*message, "nope"], home=tmp_path, folder=tmp_path)
        assert nowhere.returncode == 1
        assert "nope" in nowhere.stderr

        fetch(f"{api}/v1.0/state/statestore", b'[{"key": "k", "value": 1}]')
        stopped = pillion(["stop", "orders"], home=tmp_path, folder=tmp_path)
        assert (stopped.returncode, stopped.stderr) == (0, "✅  orders has stopped\n")
        assert run.wait() == 0
        run.until("last words 200")
    assert pillion(["list"], home=tmp_path, folder=tmp_path).stdout == "No sidecars are running.\n"
    assert (tmp_path / "state.sqlite").exists()


ANSWERING = """
import http.server, json, os, signal, sys, time


class Answering(http.server.BaseHTTPRequestHandler):
    def answer(self, document):
        body = json.dumps(document).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(handler):
    http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["APP_PORT"])), handler).serve_forever()
"""
"""How the applications below begin: they answer in JSON and say nothing of their requests."""
SLOW = (
    ANSWERING
    + """
TOPICS = [{"pubsubname": "pubsub", "topic": "work", "route": "/work", "deadLetterTopic": "dead"},
          {"pubsubname": "pubsub", "topic": "dead", "route": "/dead"}]


class Handler(Answering):
    def do_GET(self):
        self.answer(TOPICS if self.path == "/dapr/subscribe" else {})

    def do_POST(self):
        number = json.loads(self.rfile.read(int(self.headers["content-length"])))["data"]
        sys.stdout.write(f"begun {self.path} {number}\\n")  # in one piece: many threads write
        time.sleep(0.5)
        sys.stdout.write(f"handled {self.path} {number}\\n")
        self.answer({"status": "SUCCESS"})


serve(Handler)
"""
)
"""Takes half a second for a message, and ends at once when it is told to."""


def test_messages_are_finished_before_the_application_ends(tmp_path: Path) -> None:
    """A stop of the run makes no dead letter of a message that the application has begun."""
    command = ["run", "-a", "orders", "-p", str(free_port()), "--", sys.executable, "-c", SLOW]
    with Pillion(*command, home=tmp_path, folder=tmp_path) as run:
        api = f"http://127.0.0.1:{http_port(run.until('orders: HTTP'))}"
        for number in range(3):
            fetch(f"{api}/v1.0/publish/pubsub/work", str(number).encode())
        run.until("begun /work")
        run.signal(signal.SIGINT)
        assert run.wait() == 130
    begun, handled = (sum(f"{what} /work" in line for line in run.lines) for what in ("begun", "handled"))
    assert begun == handled >= 1
    with Pillion(*command, home=tmp_path, folder=tmp_path) as again:
        api = f"http://127.0.0.1:{http_port(again.until('orders: HTTP'))}"
        fetch(f"{api}/v1.0/publish/pubsub/work", b"3")
        again.until("handled /work 3")
        assert not any("/dead" in line for line in (*run.lines, *again.lines))
        again.signal(signal.SIGINT)
        assert again.wait() == 130


HOSTING = (
    ANSWERING
    + """

class Handler(Answering):
    def do_GET(self):
        self.answer({"entities": ["Cat"]} if self.path == "/dapr/config" else [])

    def do_PUT(self):
        self.answer({})

    def do_DELETE(self):
        sys.stdout.write(f"gone {self.path}\\n")
        self.answer({})


def end(*_):
    sys.stdout.write("told to end\\n")
    sys.stdout.flush()
    os._exit(0)


signal.signal(signal.SIGTERM, end)
serve(Handler)
"""
)
"""Hosts cats, and says which of them it was told to forget."""


def test_actors_are_gone_before_the_application_ends(tmp_path: Path) -> None:
    """A stop of the run lets an application part with its actors while it can."""
    command = ["run", "-a", "cats", "-p", str(free_port()), "--", sys.executable, "-c", HOSTING]
    with Pillion(*command, home=tmp_path, folder=tmp_path) as run:
        api = f"http://127.0.0.1:{http_port(run.until('cats: HTTP'))}"
        for number in range(3):
            fetch(f"{api}/v1.0/actors/Cat/{number}/method/stroke", b"")
        run.signal(signal.SIGINT)
        assert run.wait() == 130
        said = [line for line in run.lines if line.startswith(("gone", "told"))]
        assert sorted(said[:3]) == [f"gone /actors/Cat/{number}" for number in range(3)]
        assert said[3:] == ["told to end"]


def test_two_terminals_find_each_other(tmp_path: Path) -> None:
    """Two runs share registry and broker; the second chooses other ports than the first."""
    first_port, second_port = free_port(), free_port()
    with (
        Pillion("run", "-a", "one", "-p", str(first_port), "--", sys.executable, "-c", ECHO, home=tmp_path,
                folder=tmp_path) as one,
        Pillion("run", "-a", "two", "-p", str(second_port), "--", sys.executable, "-c", ECHO, home=tmp_path,
                folder=tmp_path) as two,
    ):  # fmt: skip
        ports = {name: http_port(run.until(f"{name}: HTTP")) for name, run in (("one", one), ("two", two))}
        one.until("serving")
        two.until("serving")
        assert ports["one"] != ports["two"]
        assert fetch(f"http://127.0.0.1:{ports['one']}/v1.0/invoke/two/method/x") == b"two got /x"
        assert fetch(f"http://127.0.0.1:{ports['two']}/v1.0/invoke/one/method/x") == b"one got /x"


def test_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    """A wrapper, its child and a child in a session of its own are gone when the run is."""
    stray = 'import os, time; os.setsid(); print("app-runs", flush=True); time.sleep(600)'
    script = f"{sys.executable} -c '{stray}' & sleep 600"
    with Pillion("run", "-a", "orders", "--", "sh", "-c", script, home=tmp_path, folder=tmp_path) as run:
        run.until("app-runs")
        eventually(lambda: len(run.descendants()) >= 5)  # the two of the script begin in any order
        run.signal(signal.SIGINT)
        assert run.wait() == 130
        assert run.descendants() == []


def test_ctrl_c_twice_does_not_wait(tmp_path: Path) -> None:
    """An application that ignores the first is killed on the second, before its five seconds are over."""
    with Pillion("run", "--", "sh", "-c", "trap '' TERM; echo app-runs; while :; do sleep 1; done", home=tmp_path,
                 folder=tmp_path) as run:  # fmt: skip
        run.until("app-runs")
        run.signal(signal.SIGINT)
        run.until("stopping (again to stop at once)")
        run.signal(signal.SIGINT)
        assert run.wait() == 130
        run.until_nothing_is_left()
        assert not any("killed" in line for line in run.lines)


def test_kill_9_leaves_nothing(tmp_path: Path) -> None:
    """The guard ends what its dead parent cannot; the list does not show the dead."""
    with Pillion(
        "run", "-a", "orders", "--", "sh", "-c", "echo app-runs; sleep 600", home=tmp_path, folder=tmp_path
    ) as run:
        run.until("app-runs")
        run.signal(signal.SIGKILL)
        run.wait()
        run.until_nothing_is_left()
    assert pillion(["list", "--json"], home=tmp_path, folder=tmp_path).stdout == "[]\n"


def test_without_its_guard_a_run_ends(tmp_path: Path) -> None:
    """Somebody kills the guard: the application is killed with it, and the run says so."""
    command = ["sh", "-c", "echo app-runs; sleep 600; true"]
    with Pillion("run", "-a", "orders", "--", *command, home=tmp_path, folder=tmp_path) as run:
        run.until("app-runs")
        listed = ["list", "--json"]  # the run knows that the application has started
        eventually(lambda: json.loads(pillion(listed, home=tmp_path, folder=tmp_path).stdout)[0]["appPid"] > 0)
        [guard] = [pid for pid in run.descendants() if b"guard.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        os.kill(guard, signal.SIGKILL)
        assert run.wait() == 128 + signal.SIGKILL
        run.until("orders was killed by SIGKILL")
        run.until_nothing_is_left()


def test_a_stop_during_the_start(tmp_path: Path) -> None:
    """Ctrl-C before anything serves: nothing is started any more, nothing is left."""
    document = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: s}\nspec:\n  type: state.redis\n"
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        (tmp_path / "s.yaml").write_text(
            f"{document}  metadata: [{{name: redisHost, value: '127.0.0.1:{silent.getsockname()[1]}'}}]\n"
        )
        command = ["run", "-a", "orders", "--resources-path", ".", "--", "echo", "started"]
        with Pillion(*command, home=tmp_path / "home", folder=tmp_path) as run:
            connection, _ = silent.accept()
            run.signal(signal.SIGINT)
            assert run.wait() == 130
            connection.close()
            assert "started" not in run.lines


def test_the_application_may_end_its_sidecar(tmp_path: Path) -> None:
    """The shutdown API ends the run, and with it an application that goes on."""
    with Pillion("run", "-a", "job", "--", "sleep", "600", home=tmp_path, folder=tmp_path) as run:
        port = http_port(run.until("job: HTTP"))
        fetch(f"http://127.0.0.1:{port}/v1.0/shutdown", b"")
        assert run.wait() == 0
        run.until("the sidecar of job was asked to shut down")


def test_a_sidecar_alone(tmp_path: Path) -> None:
    """Without a command the application is somebody else's, in a debugger perhaps."""
    with Pillion("run", "-a", "alone", home=tmp_path, folder=tmp_path) as run:
        port = http_port(run.until("alone: HTTP"))
        labels = json.loads(fetch(f"http://127.0.0.1:{port}/v1.0/metadata"))
        assert labels["id"] == "alone"
        run.signal(signal.SIGTERM)
        assert run.wait() == 0


def test_warnings_of_the_sidecar_are_seen(tmp_path: Path) -> None:
    """A resource that cannot be read is told on the console, with file and line; the rest is in a log."""
    (tmp_path / "bad.yaml").write_text("apiVersion: [dapr.io/v1alpha1\nkind: Component\n")
    command = ["run", "-a", "orders", "--resources-path", ".", "--", "true"]
    found = pillion(command, home=tmp_path / "home", folder=tmp_path)
    assert found.returncode == 0
    assert "== SIDECAR - orders ==" in found.stderr
    assert "bad.yaml:2: " in found.stderr
    assert "initialized" not in found.stderr
    shown = pillion(["logs", "orders", "--only", "sidecar"], home=tmp_path / "home", folder=tmp_path)
    assert "initialized" in shown.stdout


def test_mistakes_get_an_answer(tmp_path: Path) -> None:
    """Each in one line that says what to do, and never a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        for arguments, status, said in (
            (["run", "-H", port, "--", "true"], 1, "is taken by"),
            (["run", "--app-prot", "80"], 2, "--app-port"),
            (["run", "-a", "a", "--", "no-such-command"], 1, "command not found: no-such-command"),
            (["run", "-a", "a.b", "--", "true"], 1, "write 'a-b' instead"),
            (["run", "--resources-path", "nowhere", "--", "true"], 1, "nowhere does not exist"),
            (["run", "-f", "nowhere.yaml"], 1, "does not exist"),
            (["runn"], 2, "did you mean run?"),
            (["invoke", "-a", "nobody", "-m", "x"], 1, "no application nobody is running"),
            (["stop", "nobody"], 1, "no application nobody is running"),
            (["logs", "nobody"], 1, "no application nobody is running"),
            (["stop"], 2, "name the applications to stop"),
        ):
            found = pillion(arguments, home=tmp_path, folder=tmp_path)
            assert found.returncode == status, found
            assert said in found.stderr
            assert "Traceback" not in found.stderr


def test_policies_and_a_configuration_that_change(tmp_path: Path) -> None:
    """Policies change live. For a configuration the sidecar starts anew on its ports; the application goes on, and so
    does one that asks it all the time.
    """
    config, resources = tmp_path / "config.yaml", tmp_path / "resources"
    resources.mkdir()

    def write(feature: str) -> None:
        text = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: c\nspec:\n  features:\n"
        (tmp_path / "new.yaml").write_text(text + f"  - {{name: {feature}, enabled: true}}\n")
        (tmp_path / "new.yaml").rename(config)

    write("First")
    port = free_port()
    command = ["run", "-a", "orders", "-p", str(port), "--config", str(config)]
    command += ["--resources-path", str(resources), "--", sys.executable, "-c", ECHO]
    with Pillion(*command, home=tmp_path, folder=tmp_path) as run:
        api = f"http://127.0.0.1:{http_port(run.until('orders: HTTP'))}"
        run.until("serving")
        policies = resources / "policies.yaml"
        policies.write_text(
            "apiVersion: dapr.io/v1alpha1\nkind: Resiliency\nmetadata: {name: live}\n"
            "spec: {policies: {timeouts: {t: 5s}}}\n"
        )
        eventually(lambda: b'"live"' in fetch(f"{api}/v1.0/metadata"))
        for feature in ("Second", "Third"):
            write(feature)
            while feature not in json.loads(fetch(f"{api}/v1.0/metadata"))["enabledFeatures"]:
                pass  # every single call is answered
        eventually(lambda: fetch(f"{api}/v1.0/invoke/orders/method/x") == b"orders got /x")
        [row] = json.loads(pillion(["list", "-o", "json"], home=tmp_path, folder=tmp_path).stdout)
        assert row["appId"] == "orders"
        run.signal(signal.SIGTERM)
        assert run.wait() == 0
        run.until("last words 200")
