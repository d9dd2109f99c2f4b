"""Hot reload with real processes (spec `runtime.md` 2.8): files change while requests go on."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import grpc

from apps import WAIT_S, HttpApp
from pillion.wire.messages import runtime as m
from sidecars import Reply, SidecarProcess, component, eventually, rewrite

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from apps import Call


class Caller:
    """Asks one path again and again on a connection that is kept, or on new ones, and keeps the answers that were not
    as expected.
    """

    def __init__(
        self, sidecar: SidecarProcess, method: str, path: str, body: bytes, status: int, *, keep: bool = True
    ) -> None:
        self.asked = 0
        self.wrong: list[str] = []
        self._over = threading.Event()
        self._expected, self._keep = status, keep
        self._connection = http.client.HTTPConnection("127.0.0.1", sidecar.http_port, timeout=60)
        self._thread = threading.Thread(target=self._run, args=(method, path, body))

    def _run(self, method: str, path: str, body: bytes) -> None:
        while not self._over.is_set():
            try:
                self._connection.request(method, path, body, {"Content-Type": "application/json"})
                answer = self._connection.getresponse()
                text = answer.read()
            except (OSError, http.client.HTTPException) as error:
                self.wrong.append(repr(error))
                return
            if not self._keep:
                self._connection.close()
            self.asked += 1
            if answer.status != self._expected:
                self.wrong.append(f"{answer.status} {text!r}")

    def more(self, count: int = 20) -> None:
        """Wait for so many further answers."""
        wanted = self.asked + count
        eventually(lambda: self.asked >= wanted or bool(self.wrong))

    def __enter__(self) -> Caller:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._connection.close()


class GrpcCaller(Caller):
    """Reads the key `k` of a store over one channel, as official clients have it."""

    def __init__(self, sidecar: SidecarProcess, store: str) -> None:
        super().__init__(sidecar, "", "", b"", 0)
        self._address = f"127.0.0.1:{sidecar.grpc_port}"
        self._request = m.GetStateRequest(store_name=store, key="k").SerializeToString()

    def _run(self, method: str, path: str, body: bytes) -> None:
        with grpc.insecure_channel(self._address) as channel:
            call: Any = channel.unary_unary("/dapr.proto.runtime.v1.Dapr/GetState")
            while not self._over.is_set():
                try:
                    call(self._request, timeout=60)
                except grpc.RpcError as error:
                    self.wrong.append(repr(error))
                    return
                self.asked += 1


def names(sidecar: SidecarProcess) -> set[str]:
    return {row["name"] for row in sidecar.request("GET", "/v1.0/metadata").json().get("components", [])}


def folder(sidecar: SidecarProcess) -> Path:
    return sidecar.folder / f"resources-{sidecar.app_id}"


@contextlib.contextmanager
def quiet(*callers: Caller) -> Iterator[None]:
    """Run callers meanwhile; none of them may hear anything unexpected."""
    with contextlib.ExitStack() as stack:
        for caller in callers:
            stack.enter_context(caller)
        for caller in callers:
            caller.more()
        yield
        for caller in callers:
            caller.more()
    assert [caller.wrong for caller in callers] == [[] for _ in callers]


def save(word: str) -> bytes:
    return json.dumps([{"key": "k", "value": word}]).encode()


def test_components_come_change_and_go_while_requests_go_on(tmp_path: Path) -> None:
    """Not one request fails: neither of a store that nobody touches, nor of one that changes (SQLite, kept on disk)."""
    where = {"connectionString": str(tmp_path / "changing.db")}
    resources = {
        "still.yaml": component("still", "state.sqlite", connectionString=str(tmp_path / "still.db")),
        "changing.yaml": component("changing", "state.sqlite", **where),
    }
    with SidecarProcess(tmp_path, resources=resources) as sidecar:
        still = Caller(sidecar, "POST", "/v1.0/state/still", save("still"), 204)
        changing = Caller(sidecar, "POST", "/v1.0/state/changing", save("kept"), 204)
        with quiet(still, changing):
            files = folder(sidecar)
            rewrite(files / "new.yaml", component("new", "state.in-memory"))
            eventually(lambda: "new" in names(sidecar))
            assert sidecar.request("POST", "/v1.0/state/new", save("new")).status == 204
            for round_ in range(1, 4):
                rewrite(files / "changing.yaml", component("changing", "state.sqlite", **where, round=str(round_)))
                sidecar.wait_log("Component loaded: changing", 1 + round_)
            (files / "new.yaml").unlink()
            eventually(lambda: "new" not in names(sidecar))
            assert sidecar.request("GET", "/v1.0/state/new/k").json()["errorCode"] == "ERR_STATE_STORE_NOT_FOUND"
        assert sidecar.request("GET", "/v1.0/state/changing/k").json() == "kept"
        assert sidecar.log().count("Component loaded: still") == 1
        assert sidecar.stop() == 0


def test_a_broken_file_harms_nobody(tmp_path: Path) -> None:
    """It is told once with its place; a file that comes after it is taken, and so is the mended one."""
    resources = {"still.yaml": component("still", "state.in-memory")}
    with SidecarProcess(tmp_path, resources=resources) as sidecar:
        with quiet(Caller(sidecar, "POST", "/v1.0/state/still", save("still"), 204)):
            files = folder(sidecar)
            rewrite(files / "broken.yaml", "apiVersion: dapr.io/v1alpha1\nkind: [Component\n")
            sidecar.wait_log("broken.yaml:")
            rewrite(files / "other.yaml", component("other", "state.in-memory"))
            eventually(lambda: names(sidecar) == {"still", "other"})
            rewrite(files / "broken.yaml", component("mended", "state.in-memory"))
            eventually(lambda: names(sidecar) == {"still", "other", "mended"})
        assert sidecar.log().count("the document is ignored") == 1
        assert sidecar.log().count("Component loaded: still") == 1


def subscription(name: str, topic: str, route: str, pubsub: str = "ps") -> str:
    return (
        "apiVersion: dapr.io/v2alpha1\nkind: Subscription\n"
        f"metadata:\n  name: {name}\nspec:\n  pubsubname: {pubsub}\n  topic: {topic}\n  routes:\n    default: {route}\n"
    )


def test_subscriptions_and_their_broker(tmp_path: Path) -> None:
    """A subscription comes, changes its route and goes; its broker changes under it; no message is lost."""
    where = {"connectionString": str(tmp_path / "ps.db")}
    resources = {"ps.yaml": component("ps", "pubsub.sqlite", **where)}
    with HttpApp() as app, SidecarProcess(tmp_path, app_port=app.port, resources=resources) as sidecar:
        sidecar.wait("/v1.0/healthz")
        files = folder(sidecar)

        def arrives(value: int, path: str) -> None:
            assert sidecar.post_json("/v1.0/publish/ps/t", value).status == 204
            app.wait(lambda calls: any(call.path == path and call.json()["data"] == value for call in calls))

        rewrite(files / "sub.yaml", subscription("sub", "t", "/one"))
        sidecar.wait_log("is started")
        arrives(1, "/one")
        rewrite(files / "sub.yaml", subscription("sub", "t", "/two"))
        sidecar.wait_log("is started", 2)
        arrives(2, "/two")
        publishing = Caller(sidecar, "POST", "/v1.0/publish/ps/t", b"0", 204)
        with quiet(publishing):
            rewrite(files / "ps.yaml", component("ps", "pubsub.sqlite", **where, maxRetries="5"))
            sidecar.wait_log("is started", 3)
        arrives(3, "/two")
        app.wait(lambda calls: sum(call.json()["data"] == 0 for call in calls) >= publishing.asked)
        (files / "sub.yaml").unlink()
        eventually(lambda: sidecar.request("GET", "/v1.0/metadata").json().get("subscriptions", []) == [])
        assert sidecar.stop() == 0


def endpoint(url: str) -> str:
    return f"apiVersion: dapr.io/v1alpha1\nkind: HTTPEndpoint\nmetadata:\n  name: out\nspec:\n  baseUrl: {url}\n"


def answered(sidecar: SidecarProcess, app: HttpApp) -> bool:
    return sidecar.request("GET", "/v1.0/invoke/out/method/m").status == 200 and bool(app.calls)


def test_endpoints_without_a_restart(tmp_path: Path) -> None:
    """The reference restarts itself for an HTTPEndpoint; here it is exchanged, and requests go on."""
    resources = {"still.yaml": component("still", "state.in-memory")}
    with HttpApp() as one, HttpApp() as other, SidecarProcess(tmp_path, resources=resources) as sidecar:
        with quiet(Caller(sidecar, "POST", "/v1.0/state/still", save("still"), 204)):
            file = folder(sidecar) / "out.yaml"
            for app in (one, other):
                rewrite(file, endpoint(f"http://127.0.0.1:{app.port}"))
                eventually(partial(answered, sidecar, app))
            file.unlink()
            eventually(lambda: not sidecar.request("GET", "/v1.0/metadata").json().get("httpEndpoints"))
        assert "starting anew" not in sidecar.log()


def resiliency(retries: int) -> str:
    return f"""
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {{name: policies}}
spec:
  policies:
    retries:
      some: {{policy: constant, duration: 1ms, maxRetries: {retries}, matching: {{httpStatusCodes: '503'}}}}
  targets:
    apps:
      other: {{retry: some}}
    components:
      ps: {{inbound: {{retry: some}}}}
"""


def test_policies_change_while_requests_go_on(tmp_path: Path) -> None:
    """The reference restarts itself for a Resiliency; here the next call has the new policy: calls to applications and
    messages from a broker. Requests go on, and one in flight ends as it began.
    """
    held, going_on = threading.Event(), threading.Event()

    def answer(call: Call) -> tuple[int, dict[str, str], bytes]:
        if call.path == "/held":
            held.set()
            going_on.wait(WAIT_S)
            return 200, {}, b"held"
        return (503 if call.path in ("/failing", "/t") else 200), {}, b""

    resources = {"still.yaml": component("still", "state.in-memory"), "ps.yaml": component("ps", "pubsub.in-memory")}
    topics = [{"pubsubname": "ps", "topic": "t", "route": "/t", "deadLetterTopic": "dead"}]
    with (
        HttpApp(topics, answer) as app,
        SidecarProcess(tmp_path, "other", app_port=app.port) as other,
        SidecarProcess(tmp_path, app_port=app.port, resources=resources) as sidecar,
    ):
        for one in (other, sidecar):
            one.wait("/v1.0/healthz")
        headers = {"dapr-app-id": "other"}
        eventually(lambda: sidecar.request("GET", "/fine", headers=headers).status == 200)

        def tries(path: str) -> int:
            return sum(call.path == path for call in app.calls)

        def attempts(path: str) -> int:
            before = tries(path)
            assert sidecar.request("GET", path, headers=headers).status == 503
            return tries(path) - before

        assert attempts("/failing") == 1
        answers: list[Reply] = []
        waiting = threading.Thread(target=lambda: answers.append(sidecar.request("GET", "/held", headers=headers)))
        waiting.start()
        held.wait(WAIT_S)
        callers = (
            Caller(sidecar, "POST", "/v1.0/state/still", save("still"), 204),
            Caller(sidecar, "GET", "/v1.0/invoke/other/method/fine", b"", 200),
        )
        with quiet(*callers):
            for retries in (2, 4, 1):
                rewrite(folder(sidecar) / "resiliency.yaml", resiliency(retries))
                eventually(lambda retries=retries: attempts("/failing") == 1 + retries)  # type: ignore[misc]
                before = tries("/t")
                assert sidecar.post_json("/v1.0/publish/ps/t", {}).status == 204
                app.wait(lambda calls, wanted=before + 1 + retries: tries("/t") >= wanted)  # type: ignore[misc]
            assert sidecar.request("GET", "/v1.0/metadata").json()["resiliencies"] == [{"name": "policies"}]
            (folder(sidecar) / "resiliency.yaml").unlink()
            eventually(lambda: attempts("/failing") == 1)
        going_on.set()
        waiting.join()
        assert answers[0].body == b"held"
        assert "starting anew" not in sidecar.log()
        assert sidecar.stop() == 0


def configuration(feature: str) -> str:
    text = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: c\nspec:\n  features:\n"
    return text + f"  - {{name: {feature}, enabled: true}}\n"


def features(sidecar: SidecarProcess) -> list[str]:
    found: list[str] = sidecar.request("GET", "/v1.0/metadata").json()["enabledFeatures"]
    return found


def test_a_configuration_starts_the_sidecar_anew(tmp_path: Path) -> None:
    """In this process, on the same ports, as on SIGHUP; not for a broken one. Clients notice nothing: not those that
    keep a connection, not those that connect meanwhile, not one that waits for its answer.
    """
    held, going_on = threading.Event(), threading.Event()

    def answer(call: Call) -> tuple[int, dict[str, str], bytes]:
        if call.path == "/held":
            held.set()
            going_on.wait(WAIT_S)
        return 200, {}, b"held"

    config = tmp_path / "config.yaml"
    rewrite(config, configuration("First"))
    resources = {"still.yaml": component("still", "state.sqlite", connectionString=str(tmp_path / "still.db"))}
    arguments = ["--config", str(config)]
    with (
        HttpApp(answer=answer) as app,
        SidecarProcess(tmp_path, app_port=app.port, resources=resources, arguments=arguments) as sidecar,
    ):
        sidecar.wait("/v1.0/healthz")
        answers: list[Reply] = []
        asking = threading.Thread(target=lambda: answers.append(sidecar.request("GET", "/v1.0/invoke/app/method/held")))
        asking.start()
        held.wait(WAIT_S)
        assert sidecar.request("POST", "/v1.0/state/still", save("still")).status == 204
        with quiet(
            Caller(sidecar, "POST", "/v1.0/state/still", save("still"), 204),
            Caller(sidecar, "GET", "/v1.0/state/still/k", b"", 200, keep=False),
            GrpcCaller(sidecar, "still"),
        ):
            rewrite(config, configuration("Second"))
            sidecar.wait_log("starting anew")
            going_on.set()
            sidecar.wait_log("Init Elapsed", 2)
            assert "Second" in features(sidecar)
            rewrite(config, "spec: [\n")
            sidecar.wait_log("the configuration is left as it is")
            sidecar.kill(signal.SIGHUP)
            rewrite(config, configuration("Third"))
            eventually(lambda: "Third" in features(sidecar))
        asking.join()
        assert answers[0].body == b"held"
        assert sidecar.stop() == 0


def test_what_ends_the_sidecar(tmp_path: Path) -> None:
    """A component that cannot start, unless it says `ignoreErrors`; two of one name."""
    resources = {"still.yaml": component("still", "state.in-memory")}
    broken = component("broken", "state.nonesuch")
    with SidecarProcess(tmp_path, "first", resources=resources) as sidecar:
        rewrite(folder(sidecar) / "broken.yaml", broken.replace("spec:", "spec:\n  ignoreErrors: true"))
        sidecar.wait_log("Ignoring error processing component")
        rewrite(folder(sidecar) / "broken.yaml", broken)
        assert sidecar.process is not None
        assert sidecar.process.wait(60) == 1
        assert "Fatal error from runtime: [CREATE_COMPONENT_FAILURE]" in sidecar.log()
    with SidecarProcess(tmp_path, "second", resources=resources) as sidecar:
        rewrite(folder(sidecar) / "twice.yaml", component("still", "state.in-memory"))
        assert sidecar.process is not None
        assert sidecar.process.wait(60) == 1
        assert "duplicate definition of Component name still" in sidecar.log()


def test_a_second_store_for_actors_waits_for_the_first_to_go(tmp_path: Path) -> None:
    resources = {"one.yaml": component("one", "state.in-memory", actorStateStore="true")}
    with SidecarProcess(tmp_path, resources=resources) as sidecar:
        files = folder(sidecar)
        rewrite(files / "two.yaml", component("two", "state.in-memory", actorStateStore="true"))
        sidecar.wait_log("component two is put off")
        assert names(sidecar) == {"one"}
        (files / "one.yaml").unlink()
        eventually(lambda: names(sidecar) == {"two"})


def test_what_could_not_start_is_tried_again(tmp_path: Path) -> None:
    """At each `--hot-reload-reconcile-interval`, without any file of a resource being touched."""
    secrets = tmp_path / "secrets.json"
    text = component("vault", "secretstores.local.file", secretsFile=str(secrets))
    resources = {"vault.yaml": text.replace("spec:", "spec:\n  ignoreErrors: true")}
    arguments = ["--hot-reload-reconcile-interval", "100ms"]
    with SidecarProcess(tmp_path, resources=resources, arguments=arguments) as sidecar:
        sidecar.wait_log("Ignoring error processing component")
        rewrite(secrets, '{"k": "hush"}')
        eventually(lambda: names(sidecar) == {"vault"})
        assert sidecar.request("GET", "/v1.0/secrets/vault/k").json() == {"k": "hush"}


def test_switched_off(tmp_path: Path) -> None:
    """With `HotReload` disabled files are read once, and once more on SIGHUP."""
    config = tmp_path / "config.yaml"
    config.write_text(
        "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: c\nspec:\n"
        "  features:\n  - name: HotReload\n    enabled: false\n"
    )
    with SidecarProcess(tmp_path, arguments=["--config", str(config)]) as sidecar:
        sidecar.wait("/v1.0/healthz")
        rewrite(folder(sidecar) / "new.yaml", component("new", "state.in-memory"))
        assert sidecar.process is not None
        sidecar.kill(1)
        sidecar.wait_log("Init Elapsed", 2)
        assert names(sidecar) == {"new"}
        assert sidecar.log().index("restarting on SIGHUP") < sidecar.log().index("Component loaded: new")
