"""Invocation of HTTP applications by HTTP clients, in one sidecar and through two (spec `http-api.md` 4.1)."""

from __future__ import annotations

import asyncio
import base64
import contextlib
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from yarl import URL

from invoke_apps import HttpApp
from mini_sidecar import MiniSidecar, Names, two
from pillion.kinds.invocation import InvokePolicy, Unsuccessful
from pillion.wire.trace import NONE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
REMOTE_ONLY = {
    "x-forwarded-for": "10.0.0.1",
    "x-forwarded-host": "host-front",
    "forwarded": "for=10.0.0.1;by=10.0.0.1;host=host-front",
    "dapr-caller-app-id": "front",
    "dapr-caller-namespace": "default",
    "dapr-callee-app-id": "back",
}


class Setup:
    def __init__(self, app: HttpApp, sidecar: MiniSidecar, callee: MiniSidecar, client: aiohttp.ClientSession) -> None:
        self.app, self.sidecar, self.callee, self.client = app, sidecar, callee, client
        self.invoke = f"{sidecar.url}/v1.0/invoke/back/method"

    @property
    def remote(self) -> bool:
        return self.sidecar is not self.callee


@contextlib.asynccontextmanager
async def setup(remote: bool, caller: dict[str, Any], settings: dict[str, Any]) -> AsyncIterator[Setup]:
    async with HttpApp().running() as app, aiohttp.ClientSession() as client:
        if remote:
            async with two(app.port, caller=caller, **settings) as (front, back):
                yield Setup(app, front, back, client)
                app.gate.set()
                async with asyncio.timeout(90):  # whatever happened, no call may be left on a channel
                    while any(lease.calls for lease in front.pool._leases.values()):  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
        else:
            async with MiniSidecar(Names(), "back", app.port, **settings, **caller) as back:
                yield Setup(app, back, back, client)


def run(
    remote: bool, test: Callable[[Setup], Awaitable[None]], *, caller: dict[str, Any] | None = None, **settings: Any
) -> None:
    """`caller` are settings of the sidecar that is asked, `settings` those of the one beside the application."""

    async def whole() -> None:
        async with setup(remote, caller or {}, settings) as parts:
            await test(parts)

    asyncio.run(whole())


def headers_of(shown: dict[str, Any]) -> dict[str, str]:
    return dict(shown["headers"])


both = pytest.mark.parametrize("remote", [False, True], ids=["one sidecar", "two sidecars"])


@both
def test_what_an_application_is_asked(remote: bool) -> None:
    """Verb, method and query pass; the callee learns of the caller only across sidecars; the trace is always there."""

    async def test(s: Setup) -> None:
        sent = {
            "X-Mine": "1",
            "Content-Type": "text/plain",
            "Connection": "keep-alive, X-Secret",
            "X-Secret": "s",
            "Proxy-Authorization": "p",
            "X-Data-Bin": "AAA=",
            "destination-app-id": "evil",
            "dapr-caller-app-id": "evil",
        }
        url = URL(s.invoke + "/a/../b%20c?x=1&y=%2F", encoded=True)
        async with s.client.put(url, data=b"body", headers=sent) as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"].startswith("application/json")
            shown = await answer.json()
        assert (shown["verb"], shown["target"], shown["body"]) == ("PUT", "/b%20c?x=1&y=%2F", "body")
        got = headers_of(shown)
        assert got["x-mine"] == "1"
        assert got["content-type"] == "text/plain"
        assert got["content-length"] == "4"
        assert got["traceparent"] == NONE
        assert got["host"] == f"127.0.0.1:{s.app.port}"
        assert not got.keys() & {"x-secret", "proxy-authorization", "x-data-bin", "destination-app-id", "dapr-app-id"}
        if s.remote:
            assert {name: got[name] for name in REMOTE_ONLY} == REMOTE_ONLY
            assert [value for name, value in shown["headers"] if name == "dapr-caller-app-id"] == ["front"]
        else:
            assert not got.keys() & (REMOTE_ONLY.keys() - {"dapr-caller-app-id"})

    run(remote, test)


@both
@pytest.mark.parametrize("verb", ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "PROPFIND"])
def test_verbs(remote: bool, verb: str) -> None:
    """Verbs pass through; unknown ones become POST where a header names the target. No body, no Content-Length."""

    async def test(s: Setup) -> None:
        async with s.client.request(verb, s.sidecar.url + "/m", headers={"dapr-app-id": "back"}) as answer:
            assert answer.status == 200
            if verb != "HEAD":
                shown = await answer.json()
                assert shown["verb"] == ("POST" if verb == "PROPFIND" else verb)
                assert shown["body"] == ""
                assert "transfer-encoding" not in headers_of(shown)
        assert s.app.calls == 1

    run(remote, test)


@both
def test_forms_of_naming_the_target(remote: bool) -> None:
    """A header wins, even on the invocation path, and the whole path is the method; then Basic; then the path."""

    async def test(s: Setup) -> None:
        login = "Basic " + base64.b64encode(b"DAPR-APP-ID:back").decode()
        for path, headers, target in (
            ("/orders/1?q=2", {"dapr-app-id": "back"}, "/orders/1?q=2"),
            ("/v1.0/invoke/nobody/method/m", {"dapr-app-id": "back"}, "/v1.0/invoke/nobody/method/m"),
            ("/orders/1", {"Authorization": login}, "/orders/1"),
            ("/v1.0/invoke/back.default/method/m", {}, "/m"),
            ("/v1.0/invoke/back/method/", {}, "/"),
        ):
            async with s.client.get(s.sidecar.url + path, headers=headers) as answer:
                assert answer.status == 200, await answer.text()
                shown = await answer.json()
                assert shown["target"] == target
                assert "dapr-app-id" not in headers_of(shown)
                assert headers_of(shown).get("authorization") == headers.get("Authorization")

    run(remote, test)


@both
def test_errors_before_the_application(remote: bool) -> None:
    """No target is 404, everything else that fails is 500; both with ERR_DIRECT_INVOKE."""

    async def test(s: Setup) -> None:
        for path, status, text in (
            ("/orders", 404, "app id"),
            ("/v1.0/invoke/back", 404, "app id"),
            ("/v1.0/invoke/a.b.c/method/m", 500, "failed to invoke, id: a.b.c, err: invalid app id a.b.c"),
            ("/v1.0/invoke/nobody/method/m", 500, "failed to invoke, id: nobody, err: couldn't find service: nobody"),
            ("/v1.0/invoke/back/method/a%23b", 500, "id: back, err: invalid method"),
            ("/v1.0/invoke/back/method/a%00b", 500, "invalid method"),
            ("/v1.0/invoke/back/method/a%25zz", 500, 'invalid URL escape "%zz"'),
        ):
            async with s.client.get(URL(s.sidecar.url + path, encoded=True)) as answer:
                shown = await answer.json()
                assert (answer.status, shown["errorCode"]) == (status, "ERR_DIRECT_INVOKE"), path
                assert text in shown["message"]
        assert s.app.calls == 0

    run(remote, test)


@both
def test_answers_pass_as_they_are(remote: bool) -> None:
    """Headers are appended, hop-by-hop ones not; an unsuccessful answer keeps its body and gets a type and a length."""

    async def test(s: Setup) -> None:
        async with s.client.get(s.invoke + "/headers") as answer:
            assert answer.headers.getall("Set-Cookie") == ["a=1", "b=2"]
            assert answer.headers["X-Mine"] == "yes"
            assert "Keep-Alive" not in answer.headers
        for code in (404, 500, 503):
            async with s.client.post(f"{s.invoke}/status/{code}", data=b"x") as answer:
                assert (answer.status, await answer.read()) == (code, b"boom")
                assert answer.headers["Content-Length"] == "4"
        async with s.client.get(f"{s.invoke}/redirect/302", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (302, "/landed?from=redirect")
        assert s.app.calls == 3

    run(remote, test)


@both
def test_trace_context_and_baggage_pass(remote: bool) -> None:
    """The caller's context reaches the application unchanged; an invalid one becomes none; a long state is dropped."""

    async def test(s: Setup) -> None:
        sent = {"traceparent": PARENT, "tracestate": "a=b", "baggage": "k=v"}
        async with s.client.get(s.invoke + "/m", headers=sent) as answer:
            got = headers_of(await answer.json())
            assert {name: got[name] for name in sent} == sent
        async with s.client.get(s.invoke + "/m", headers={"traceparent": "00-zz", "tracestate": "a=b"}) as answer:
            got = headers_of(await answer.json())
            assert got["traceparent"] == NONE
            assert "tracestate" not in got
        async with s.client.get(
            s.invoke + "/m", headers={"traceparent": PARENT, "tracestate": "a=" + "b" * 511}
        ) as answer:
            assert "tracestate" not in headers_of(await answer.json())

    run(remote, test)


@both
def test_the_applications_token(remote: bool) -> None:
    """APP_API_TOKEN overwrites what a client sends under its name."""

    async def test(s: Setup) -> None:
        async with s.client.get(s.invoke + "/m", headers={"dapr-api-token": "forged"}) as answer:
            shown = await answer.json()
        assert [value for name, value in shown["headers"] if name == "dapr-api-token"] == ["app-secret"]

    run(remote, test, app_token="app-secret")


@both
def test_answers_stream(remote: bool) -> None:
    """Each piece is there before the next one was written."""

    async def test(s: Setup) -> None:
        async with s.client.get(s.invoke + "/stream") as answer:
            assert await answer.content.readany() == b"one"
            s.app.gate.set()
            assert await answer.content.read() == b"two"

    run(remote, test)


@both
def test_requests_stream_in_chunks(remote: bool) -> None:
    """A chunked body reaches the application while it is written, stays chunked, and is not collected anywhere."""

    async def test(s: Setup) -> None:
        s.app.gate.set()

        async def pieces() -> AsyncIterator[bytes]:
            yield b"a" * 1000
            await s.app.reached.wait()
            yield b"b" * 100_000

        async with s.client.post(s.invoke + "/upload", data=pieces()) as answer:
            assert await answer.json() == {"size": 101_000, "framing": "chunked"}

    run(remote, test)


@both
def test_a_slow_reader_holds_the_writer(remote: bool) -> None:
    """Back-pressure: what an application does not read is not buffered without end on the way."""

    async def test(s: Setup) -> None:
        given = 0

        async def pieces() -> AsyncIterator[bytes]:
            nonlocal given
            while given < 64 << 20:
                given += 65536
                yield b"x" * 65536

        upload = asyncio.ensure_future(s.client.post(s.invoke + "/upload", data=pieces()).__aenter__())
        await s.app.reached.wait()
        before = -1
        while before != given:  # until the writer stands still
            before = given
            await asyncio.sleep(0.2)
        assert given < 32 << 20
        upload.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await upload

    run(remote, test, max_body=0)


@both
def test_a_client_that_leaves_frees_the_application(remote: bool) -> None:
    """A reader that goes away ends the call all the way through."""

    async def test(s: Setup) -> None:
        answer = await s.client.get(s.invoke + "/endless")
        await answer.content.readany()
        answer.close()
        await asyncio.wait_for(s.app.gone.wait(), 90)

    run(remote, test)


@both
@pytest.mark.parametrize("size", [0, 1, 2048, 65535, 65536, 65537, 200_000, 1_000_000])
def test_bodies_of_any_size(remote: bool, size: int) -> None:
    async def test(s: Setup) -> None:
        s.app.gate.set()
        async with s.client.get(f"{s.invoke}/big/{size}") as answer:
            assert await answer.read() == b"x" * size
        async with s.client.post(s.invoke + "/upload", data=b"y" * size) as answer:
            assert await answer.json() == {"size": size, "framing": "length"}

    run(remote, test)


@both
def test_the_limit_of_bodies(remote: bool) -> None:
    """`--max-body-size` bounds what clients send, with 500 ERR_DIRECT_INVOKE, and not what applications answer."""

    async def test(s: Setup) -> None:
        s.app.gate.set()

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b"x" * 1000

        for data in (b"x" * 20_000, pieces()):
            async with s.client.post(s.sidecar.url + "/v1.0/invoke/back/method/upload", data=data) as answer:
                assert answer.status == 500
                shown = await answer.json()
                assert shown["errorCode"] == "ERR_DIRECT_INVOKE"
                assert "stream too large" in shown["message"]
        async with s.client.get(s.invoke + "/big/100000") as answer:
            assert len(await answer.read()) == 100_000

    run(remote, test, max_body=10_000)


@both
def test_event_streams(remote: bool) -> None:
    """`Accept: text/event-stream`: live, with the type, no caching, and a connection that is said to be kept."""

    async def test(s: Setup) -> None:
        async with s.client.get(s.invoke + "/events", headers={"Accept": " Text/Event-Stream"}) as answer:
            assert answer.status == 200
            assert answer.headers["Content-Type"] == "text/event-stream"
            assert answer.headers["Cache-Control"] == "no-cache"
            assert answer.headers["Connection"] == "keep-alive"
            assert answer.headers["X-Kind"] == "live"
            assert await answer.content.readany() == b"data: 1\n\n"
            s.app.gate.set()
            assert await answer.content.read() == b"data: 2\n\n"
        async with s.client.get(s.invoke + "/big/5", headers={"Accept": "text/event-stream"}) as answer:
            assert (answer.headers["Connection"], await answer.text()) == ("keep-alive", "xxxxx")
        last = {"Accept": "text/event-stream", "Connection": "close"}
        async with s.client.get(s.invoke + "/big/5", headers=last) as answer:
            assert (answer.headers["Connection"], len(await answer.read())) == ("close", 5)
        async with s.client.get(s.invoke + "/status/404", headers={"Accept": "text/event-stream"}) as answer:
            # Across sidecars an event stream has no status of its own: the failure is the invocation's.
            assert answer.status == (500 if s.remote else 404)

    run(remote, test)


class Policies:
    """A stand-in for resiliency: up to four attempts, of unsuccessful answers too, or a timeout."""

    def __init__(self, timeout_s: float | None = None) -> None:
        self.timeout_s = timeout_s
        self.asked: list[tuple[str, str]] = []

    def find(self, app_id: str, method: str) -> tuple[InvokePolicy | None, bool]:
        self.asked.append((app_id, method))
        return self._run, False

    async def _run(self, attempt: Any, *, replayable: bool) -> Any:
        async with asyncio.timeout(self.timeout_s):
            for _ in range(3 if replayable else 0):
                with contextlib.suppress(Unsuccessful):
                    return await attempt()
            return await attempt()


@both
def test_policies_see_unsuccessful_answers(remote: bool) -> None:
    """A target's policy replaces the built-in retry; the last answer is the client's. Chunked requests go once."""
    policies = Policies()

    async def test(s: Setup) -> None:
        async with s.client.post(s.invoke + "/status/503", data=b"x") as answer:
            assert (answer.status, await answer.read()) == (503, b"boom")
        assert s.app.calls == 4

        async def pieces() -> AsyncIterator[bytes]:
            yield b"a"
            await asyncio.sleep(0)
            yield b"b"

        async with s.client.post(s.invoke + "/status/503", data=pieces()) as answer:
            assert (answer.status, await answer.read()) == (503, b"boom")
        assert s.app.calls == 5
        async with s.client.post(s.invoke + "/m", data=b"x") as answer:
            assert answer.status == 200
        assert s.app.calls == 6
        assert policies.asked[0] == ("back", "status/503")

    run(remote, test, caller={"policies": policies})


@both
def test_a_timeout_of_a_policy(remote: bool) -> None:
    async def test(s: Setup) -> None:
        async with s.client.post(s.invoke + "/upload", data=b"x") as answer:
            assert answer.status == 500
            assert "context deadline exceeded" in (await answer.json())["message"]

    run(remote, test, caller={"policies": Policies(0.1)})


@both
def test_an_application_that_is_not_there(remote: bool) -> None:
    async def test(s: Setup) -> None:
        assert s.callee.app is not None
        s.callee.app.healthy = False
        async with s.client.get(s.invoke + "/m") as answer:
            shown = await answer.json()
            assert answer.status == 500
            assert "app is not in a healthy state" in shown["message"]
        s.callee.app, gone = None, s.callee.app
        async with s.client.get(s.invoke + "/m") as answer:
            shown = await answer.json()
            assert answer.status == 500
            assert "app channel" in shown["message"]
        s.callee.app = gone

    run(remote, test)
