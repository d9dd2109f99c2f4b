"""Both pipelines through real sidecars (spec `runtime.md` 5)."""

from __future__ import annotations

import contextlib
import http.client
import json
from typing import TYPE_CHECKING, Any

from apps import HttpApp
from issuer import Issuer
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

PACKAGE = '''
"""Somebody's own middleware."""

from dataclasses import dataclass

from pillion.components.catalog import Entry
from pillion.kinds.component import setting

COMPONENTS = (Entry("middleware.http.stamp", "v1", "stamp:Stamp"),)


@dataclass(frozen=True)
class Settings:
    text: str = setting("stamped")


class Stamp:
    Settings = Settings

    def __init__(self, settings, context):
        self.text = settings.text.encode()

    async def open(self): ...

    async def ping(self): ...

    async def close(self): ...

    async def __call__(self, request, next):
        if request.header(b"x-fail"):
            raise ZeroDivisionError("on purpose")
        request.headers.append((b"x-stamp", self.text))
        response = await next(request)
        response.headers.append((b"x-stamp", self.text))
        return response
'''


def package(folder: Path) -> dict[str, str]:
    """Install the package above where only the sidecar finds it; return its environment."""
    site = folder / "site"
    info = site / "stamp-1.0.dist-info"
    info.mkdir(parents=True)
    (site / "stamp.py").write_text(PACKAGE)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: stamp\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[pillion.components]\nstamp = stamp:COMPONENTS\n")
    return {"PYTHONPATH": str(site)}


def configuration(folder: Path, *, http: tuple[str, ...] = (), app: tuple[str, ...] = ()) -> str:
    """A Configuration with handlers `name:type`; returns its path."""

    def handlers(names: tuple[str, ...]) -> list[dict[str, str]]:
        return [dict(zip(("name", "type"), name.split(":"), strict=True)) for name in names]

    spec: dict[str, Any] = {
        "httpPipeline": {"handlers": handlers(http)},
        "appHttpPipeline": {"handlers": handlers(app)},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps({"kind": "Configuration", "spec": spec}))
    return str(path)


def sidecar(
    folder: Path,
    components: Mapping[str, str],
    *,
    port: int = 0,
    env: Mapping[str, str] | None = None,
    **pipelines: Any,
) -> SidecarProcess:
    where = configuration(folder, **pipelines)
    resources = {f"{name}.yaml": text for name, text in components.items()}
    return SidecarProcess(folder, app_port=port, resources=resources, arguments=("--config", where), env=env)


@contextlib.contextmanager
def begun(one: SidecarProcess, path: str, status: int) -> Iterator[None]:
    """Start a sidecar whose pipeline keeps health probes out; it is there when `path` answers `status`."""
    try:
        one.start(ready=False).wait(path, status)
        yield
    finally:
        one.__exit__()


STORE = {"s": component("s", "state.in-memory")}


def test_members_run_in_order_before_the_route_is_chosen(tmp_path: Path) -> None:
    """An alias leads to a route that takes its body whole, and to one that streams; the check after it sees the path
    that the alias made; a body in capitals arrives in the store.
    """
    parts = {
        **STORE,
        "alias": component("alias", "middleware.http.routeralias", routes='{"/save": "/v1.0/state/s"}'),
        "check": component("check", "middleware.http.routerchecker", rule="^/v1.0/"),
        "upper": component("upper", "middleware.http.uppercase"),
    }
    members = (
        "alias:middleware.http.routeralias",
        "check:middleware.http.routerchecker",
        "upper:middleware.http.uppercase",
    )
    with sidecar(tmp_path, parts, http=members) as one:
        assert one.request("POST", "/save", b'[{"key":"a","value":"hello"}]').status == 204
        assert one.request("GET", "/v1.0/state/s/A").body == b'"HELLO"'
        assert one.request("GET", "/elsewhere").body == b"invalid router"
        assert one.request("GET", "/v1.0/state/s/none").status == 204


def test_a_changed_path_gets_its_body_as_its_route_wants_it(tmp_path: Path) -> None:
    """From streamed to whole: chunked, long, and too long, which is the error of that route. From whole to streamed."""
    routes = '{"/save": "/v1.0/state/s", "/v1.0/metadata/call": "/v1.0/invoke/app/method/x"}'
    parts = {**STORE, "alias": component("alias", "middleware.http.routeralias", routes=routes)}
    with HttpApp() as app, sidecar(tmp_path, parts, port=app.port, http=("alias:middleware.http.routeralias",)) as one:
        saved = [{"key": "k", "value": "x" * 200_000}]
        assert one.post_json("/save", saved).status == 204
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", one.http_port, timeout=60)) as connection:
            connection.request("POST", "/save", iter([b'[{"key":', b'"c","value":1}]']), encode_chunked=True)
            assert connection.getresponse().read() == b""
        assert one.request("GET", "/v1.0/state/s/c").body == b"1"
        assert len(one.request("GET", "/v1.0/state/s/k").body) == 200_002
        refused = one.request("POST", "/save", b"x" * (5 << 20))
        assert (refused.status, refused.json()["errorCode"]) == (400, "ERR_MALFORMED_REQUEST")
        assert one.request("PUT", "/v1.0/metadata/call", b"body").status == 200
        assert [(call.path, call.body) for call in app.calls] == [("/x", b"body")]


def test_middleware_of_another_package_in_both_directions(tmp_path: Path) -> None:
    """Found by its entry point, like ours. The application's side sees what the outward pipeline adds - also calls to
    servers outside -; health probes do not pass through it; what fails is 500 in plain text and gets nowhere.
    """
    parts = {
        "in": component("in", "middleware.http.stamp", text="in"),
        "out": component("out", "middleware.http.stamp", text="out"),
    }
    pipelines = {"http": ("in:Middleware.Http.Stamp",), "app": ("out:middleware.http.stamp",)}
    with HttpApp() as app, sidecar(tmp_path, parts, port=app.port, env=package(tmp_path), **pipelines) as one:
        answer = one.request("GET", "/v1.0/invoke/app/method/x")
        assert answer.status == 200
        assert answer.headers["x-stamp"] in ("in", "out, in", "out")
        outside = one.request("GET", f"/v1.0/invoke/http://127.0.0.1:{app.port}/method/y")
        assert outside.status == 200
        assert [(call.path, call.headers["x-stamp"]) for call in app.calls] == [("/x", "out"), ("/y", "out")]
        failed = one.request("GET", "/v1.0/invoke/app/method/z", headers={"x-fail": "1"})
        assert (failed.status, failed.body) == (500, b"Internal Server Error")
        assert failed.headers["content-type"] == "text/plain; charset=utf-8"
        assert len(app.calls) == 2
        assert "ZeroDivisionError: on purpose" in one.log()


def test_a_handler_without_a_component_is_left_out_and_told(tmp_path: Path) -> None:
    """As in the reference, but not in silence; a version that is not loaded is no match."""
    with sidecar(tmp_path, STORE, http=("gone:middleware.http.bearer",)) as one:
        assert one.request("GET", "/v1.0/state/s/none").status == 204
        assert "httpPipeline: no loaded component is gone (middleware.http.bearer/v1)" in one.log()


def test_the_token_is_asked_for_before_the_pipeline(tmp_path: Path) -> None:
    """Strangers do not reach any member."""
    parts = {**STORE, "check": component("check", "middleware.http.routerchecker", rule="^never$")}
    one = sidecar(tmp_path, parts, http=("check:middleware.http.routerchecker",), env={"DAPR_API_TOKEN": "t"})
    with begun(one, "/v1.0/healthz", 400):  # health probes need no token, but pass through the pipeline
        assert one.request("GET", "/v1.0/state/s/k").status == 401
        assert one.request("GET", "/v1.0/state/s/k", headers={"dapr-api-token": "t"}).status == 400


def test_a_bearer_token_opens_the_api(tmp_path: Path) -> None:
    """Keys are discovered at start; without a token 401, also for health probes; with one the request passes."""
    with Issuer() as issuer:
        door = component("door", "middleware.http.bearer", issuerURL=issuer.url, clientID="app")
        one = sidecar(tmp_path, {**STORE, "door": door}, http=("door:middleware.http.bearer",))
        with begun(one, "/v1.0/healthz", 401):
            token = {"Authorization": f"Bearer {issuer.token()}"}
            assert one.post_json("/v1.0/state/s", [{"key": "k", "value": 1}], **token).status == 204
            refused = one.post_json("/v1.0/state/s", [{"key": "k", "value": 2}], Authorization="Bearer x")
            assert (refused.status, refused.body) == (401, b"Unauthorized")
            assert one.request("GET", "/v1.0/state/s/k", headers=token).body == b"1"


def test_the_application_is_called_with_a_token_of_the_sidecar(tmp_path: Path) -> None:
    """oauth2clientcredentials on the way to the application; when there is no token the application is not called."""
    with Issuer() as issuer, HttpApp() as app:
        own = component(
            "own", "middleware.http.oauth2clientcredentials", clientID="me", clientSecret="s&cret", scopes="a",
            tokenURL=issuer.url + "/token", headerName="X-Token", pathFilter="^/guarded",
        )  # fmt: skip
        kind = "own:middleware.http.oauth2clientcredentials"
        with sidecar(tmp_path, {"own": own}, port=app.port, app=(kind,)) as one:
            assert one.request("GET", "/v1.0/invoke/app/method/guarded").status == 200
            assert one.request("GET", "/v1.0/invoke/app/method/open").status == 200
            assert [call.headers.get("x-token") for call in app.calls] == ["Bearer t1", None]


def test_the_rate_limit_counts_each_client_and_path(tmp_path: Path) -> None:
    """429 once the burst is used up; another path has its own."""
    parts = {**STORE, "limit": component("limit", "middleware.http.ratelimit", maxRequestsPerSecond="0.01")}
    one = sidecar(tmp_path, parts, http=("limit:middleware.http.ratelimit",))
    with begun(one, "/v1.0/state/s/none", 204):
        assert one.request("GET", "/v1.0/state/s/a").status == 204
        refused = one.request("GET", "/v1.0/state/s/a", headers={"X-Forwarded-For": "8.8.8.8"})
        assert (refused.status, refused.body) == (429, b"You have reached maximum request limit.")
        assert one.request("GET", "/v1.0/state/s/b").status == 204
