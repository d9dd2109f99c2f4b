"""Servers without a sidecar: URLs in the path, HTTPEndpoint resources (spec `http-api.md` 4.1, `runtime.md` 2.5)."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import trustme
from aiohttp import web
from yarl import URL

from invoke_apps import LOCALHOST, HttpApp
from mini_sidecar import MiniSidecar, Names
from pillion.peers.endpoints import Endpoint
from ports import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pillion.kinds.invocation import InvokePolicy


def run(
    test: Callable[[MiniSidecar, HttpApp, aiohttp.ClientSession], Awaitable[None]],
    endpoints: Callable[[HttpApp], dict[str, Endpoint]] = lambda app: {},
    **settings: Any,
) -> None:
    async def whole() -> None:
        async with HttpApp().running() as app, aiohttp.ClientSession() as client:
            app.gate.set()
            async with MiniSidecar(Names(), "front", endpoints=endpoints(app), **settings) as front:
                await test(front, app, client)

    asyncio.run(whole())


def test_urls_in_the_path() -> None:
    """The URL may be written plainly or escaped; no token, no forwarding headers; redirects are the caller's."""

    async def test(front: MiniSidecar, app: HttpApp, client: aiohttp.ClientSession) -> None:
        base = f"http://{LOCALHOST}:{app.port}"
        for written in (base, base.replace(":", "%3A").replace("/", "%2F"), base + "/below"):
            url = URL(f"{front.url}/v1.0/invoke/{written}/method/a/b?q=1", encoded=True)
            async with client.post(url, data=b"body", headers={"X-Mine": "1"}) as got:
                assert got.status == 200, await got.text()
                shown = await got.json()
            headers = dict(shown["headers"])
            assert shown["target"] == ("/below" if written.endswith("/below") else "") + "/a/b?q=1"
            assert (shown["verb"], shown["body"], headers["x-mine"]) == ("POST", "body", "1")
            assert headers["host"] == f"{LOCALHOST}:{app.port}"
            assert not headers.keys() & {"dapr-api-token", "dapr-caller-app-id", "forwarded", "dapr-app-id"}
        url = URL(f"{front.url}/v1.0/invoke/{base}/method/redirect/302", encoded=True)
        async with client.get(url, allow_redirects=False) as got:
            assert got.status == 302
        async with client.get(f"{front.url}/m", headers={"dapr-app-id": base}) as got:
            assert (await got.json())["target"] == "/m"

    run(test)


def test_the_token_of_the_application_stays_at_home() -> None:
    """Differs from the reference on purpose: APP_API_TOKEN is not told to third parties."""

    async def whole() -> None:
        async with (
            HttpApp().running() as app,
            HttpApp().running() as outside,
            MiniSidecar(Names(), "front", app.port, app_token="secret") as front,
            aiohttp.ClientSession() as client,
        ):
            url = f"{front.url}/v1.0/invoke/http://{LOCALHOST}:{outside.port}/method/m"
            async with client.get(URL(url, encoded=True)) as got:
                assert "secret" not in await got.text()

    asyncio.run(whole())


def test_endpoints_by_name() -> None:
    """The base URL's path stays in front, its headers overwrite the caller's, redirects are followed."""

    def endpoints(app: HttpApp) -> dict[str, Endpoint]:
        base = f"http://{LOCALHOST}:{app.port}"
        headers = (("Authorization", "Bearer endpoint"), ("X-Extra", "e"))
        return {"weather": Endpoint("weather", base + "/api/", headers), "root": Endpoint("root", base)}

    async def test(front: MiniSidecar, app: HttpApp, client: aiohttp.ClientSession) -> None:
        async with client.get(
            f"{front.url}/v1.0/invoke/weather/method/today?q=1", headers={"authorization": "mine"}
        ) as got:
            shown = await got.json()
            assert shown["target"] == "/api/today?q=1"
            assert [value for name, value in shown["headers"] if name == "authorization"] == ["Bearer endpoint"]
            assert dict(shown["headers"])["x-extra"] == "e"
        for code, verb in ((302, "GET"), (307, "POST"), (308, "POST")):
            async with client.post(f"{front.url}/v1.0/invoke/root/method/redirect/{code}", data=b"body") as got:
                shown = await got.json()
                assert (shown["target"], shown["verb"]) == ("/landed?from=redirect", verb)
                assert shown["body"] == ("" if verb == "GET" else "body")
        async with client.get(f"{front.url}/v1.0/invoke/weather/method/status/503") as got:
            assert got.status == 200  # below /api everything is echoed
        async with client.get(f"{front.url}/v1.0/invoke/root/method/status/503") as got:
            assert (got.status, await got.read()) == (503, b"boom")
        async with client.get(f"{front.url}/v1.0/invoke/root/method/stream") as got:
            assert await got.read() == b"onetwo"

    run(test, endpoints)


def test_redirects_to_elsewhere_lose_the_secrets() -> None:
    async def whole() -> None:
        async with contextlib.AsyncExitStack() as stack:
            outside = await stack.enter_async_context(HttpApp().running())
            base = await stack.enter_async_context(redirecting(f"http://{LOCALHOST}:{outside.port}/elsewhere"))
            client = await stack.enter_async_context(aiohttp.ClientSession())
            endpoint = Endpoint("e", base, (("X-Key", "secret"),))
            front = await stack.enter_async_context(MiniSidecar(Names(), "front", endpoints={"e": endpoint}))
            async with client.get(
                f"{front.url}/v1.0/invoke/e/method/away", headers={"Authorization": "secret", "X-Mine": "1"}
            ) as got:
                text = await got.text()
                assert '"x-mine", "1"' in text
                assert "secret" not in text
            async with client.get(f"{front.url}/v1.0/invoke/e/method/loop") as got:
                assert got.status == 500
                assert "redirects" in (await got.json())["message"]

    asyncio.run(whole())


@contextlib.asynccontextmanager
async def redirecting(target: str) -> AsyncIterator[str]:
    async def away(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": target})

    async def loop(request: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": "/loop"})

    app = web.Application()
    app.router.add_get("/away", away)
    app.router.add_get("/loop", loop)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, LOCALHOST, 0).start()
    try:
        yield f"http://{LOCALHOST}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def test_endpoints_with_tls_of_their_own() -> None:
    """A private root and a client certificate; without them the server is not trusted."""

    async def whole() -> None:
        authority = trustme.CA()
        server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("localhost").configure_cert(server_tls)
        authority.configure_trust(server_tls)
        server_tls.verify_mode = ssl.CERT_REQUIRED
        mine = authority.issue_cert("front.example")

        async def hello(request: web.Request) -> web.Response:
            assert request.transport is not None
            return web.Response(text=str(bool(request.transport.get_extra_info("peercert"))))

        app = web.Application()
        app.router.add_get("/hello", hello)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, LOCALHOST, 0, ssl_context=server_tls).start()
        base = f"https://localhost:{runner.addresses[0][1]}"
        endpoints = {
            "private": Endpoint(
                "private",
                base,
                root_ca=authority.cert_pem.bytes().decode(),
                certificate=b"".join(blob.bytes() for blob in mine.cert_chain_pems).decode(),
                private_key=mine.private_key_pem.bytes().decode(),
            ),
            "untrusted": Endpoint("untrusted", base),
            "broken": Endpoint("broken", base, root_ca="no certificate"),
        }
        async with MiniSidecar(Names(), "front", endpoints=endpoints) as front, aiohttp.ClientSession() as client:
            for name, status, text in (
                ("private", 200, "True"),
                ("untrusted", 500, "verify failed"),
                ("broken", 500, ""),
            ):
                async with client.get(f"{front.url}/v1.0/invoke/{name}/method/hello") as got:
                    assert got.status == status, await got.text()
                    assert text in await got.text()
        await runner.cleanup()

    asyncio.run(whole())


def test_what_is_not_there() -> None:
    async def test(front: MiniSidecar, app: HttpApp, client: aiohttp.ClientSession) -> None:
        for base in (f"http://{LOCALHOST}:1", "http://", "https://[", "http://a b", "http://x:99999"):
            url = URL(f"{front.url}/m", encoded=True)
            async with client.get(url, headers={"dapr-app-id": base}) as got:
                assert got.status == 500, base
                assert (await got.json())["errorCode"] == "ERR_DIRECT_INVOKE"

    run(test)


@pytest.mark.parametrize("as_url", [False, True])
def test_a_server_that_opens_late(as_url: bool) -> None:
    """Spec `runtime.md` 4.3: what could not be connected to is tried again, with any verb, since nothing was sent; not
    when a policy targets the name, nor a body without a length.
    """

    async def whole() -> None:
        port = free_port()
        base = f"http://{LOCALHOST}:{port}"
        names, endpoints = Names(), {"out": Endpoint("out", base)}
        path = f"/v1.0/invoke/{base if as_url else 'out'}/method/m"
        async with (
            aiohttp.ClientSession() as client,
            MiniSidecar(names, "patient", endpoints=endpoints, retries=10_000) as patient,
            MiniSidecar(names, "short", endpoints=endpoints) as short,
            MiniSidecar(names, "told", endpoints=endpoints, retries=10_000, policies=Explicit()) as told,
        ):
            waiting = asyncio.create_task(client.post(URL(patient.url + path, encoded=True), data=b"once"))
            for url in (short.url, told.url):  # three times in vain, or not at all
                async with client.post(URL(url + path, encoded=True), data=b"x") as got:
                    assert (got.status, (await got.json())["errorCode"]) == (500, "ERR_DIRECT_INVOKE")

            async def chunks() -> AsyncIterator[bytes]:
                yield b"x"

            async with client.post(URL(patient.url + path, encoded=True), data=chunks()) as got:
                assert got.status == 500
            assert not waiting.done()
            async with HttpApp().running(port) as app:
                app.gate.set()
                async with await waiting as got:
                    assert (await got.json())["body"] == "once"
                assert app.calls == 1

    asyncio.run(whole())


class Explicit:
    """Policies in which everybody is named, without any policy."""

    def find(self, app_id: str, method: str) -> tuple[InvokePolicy | None, bool]:
        return None, False
