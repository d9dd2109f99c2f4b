"""Every middleware of ours passes the kit, and does what its page says."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from pillion.components.middleware_checker import RouterChecker
from pillion.components.middleware_ratelimit import Buckets, RateLimit, client_of
from pillion.components.middleware_routes import RouterAlias
from pillion.components.middleware_uppercase import Uppercase, upper
from pillion.errors import ConfigError
from pillion.kinds.component import Context, decode
from pillion.net.exchange import Request, Response
from pillion.testing.middleware_kit import MiddlewareKit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager


def made(kind: Any, **metadata: str) -> Any:
    """A middleware from metadata, as the loader makes it; keys may be given with `__` for `/`."""
    return kind(decode(kind.Settings, metadata, where="test"), Context("test"))


async def passed(middleware: Any, request: Request, answer: Response | None = None) -> tuple[Request | None, Response]:
    """What arrives behind the middleware, and what comes back."""
    seen: list[Request] = []

    async def destination(request: Request) -> Response:
        seen.append(request)
        return answer or Response(200)

    response = await middleware(request, destination)
    return (seen[0] if seen else None), response


class TestUppercase(MiddlewareKit):
    def middleware(self) -> AbstractAsyncContextManager[Any]:
        return contextlib.nullcontext(made(Uppercase, direction="both"))


class TestRouterAlias(MiddlewareKit):
    def middleware(self) -> AbstractAsyncContextManager[Any]:
        return contextlib.nullcontext(made(RouterAlias, routes='{"/path": "/other"}'))


class TestRouterChecker(MiddlewareKit):
    refusal = 400

    def middleware(self) -> AbstractAsyncContextManager[Any]:
        return contextlib.nullcontext(made(RouterChecker, rule=r"^/path\?"))

    def refused(self) -> Request:
        return Request("GET", b"/other", [])


class TestRateLimit(MiddlewareKit):
    refusal = 429

    def middleware(self) -> AbstractAsyncContextManager[Any]:
        return contextlib.nullcontext(made(RateLimit, maxRequestsPerSecond="8"))

    def test_a_refused_request_is_not_passed_on(self) -> None:
        """The burst passes, the next is refused with the limit in its headers; another path, another bucket."""

        async def run() -> None:
            limit = made(RateLimit, maxRequestsPerSecond="0.001")
            first, answer = await passed(limit, self.passing())
            assert first is not None
            assert (b"ratelimit-remaining", b"0") in answer.headers
            again, answer = await passed(limit, self.passing())
            assert again is None
            assert (answer.status, answer.body) == (429, b"You have reached maximum request limit.")
            assert (b"ratelimit-limit", b"1") in answer.headers
            for spelling in (b"//path", b"/%70ath", b"/x/../path?other"):
                assert (await passed(limit, Request("GET", spelling, [], peer=("127.0.0.1", 1))))[0] is None
            assert (await passed(limit, Request("GET", b"/else", [], peer=("127.0.0.1", 1))))[0] is not None
            assert (await passed(limit, Request("GET", b"/path", [], peer=("127.0.0.2", 1))))[0] is not None

        asyncio.run(run())


def test_buckets_refill_and_are_bounded() -> None:
    """Two a second: a burst of two, half a second for the next. A million clients are no million buckets."""
    buckets = Buckets(2, most=100)
    key = ("a", "/")
    assert [buckets.take(key, 0.0) for _ in range(3)] == [1.0, 0.0, None]
    assert buckets.take(key, 0.4) is None
    assert buckets.take(key, 0.5) == 0.0
    assert buckets.take(key, 100.0) == 1.0  # no more than the burst
    for number in range(1000):
        buckets.take((str(number), "/"), 100.0)
    assert len(buckets) == 100


def test_headers_name_a_client_only_where_there_is_no_address() -> None:
    """Anybody may write X-Forwarded-For."""
    headers = [(b"x-forwarded-for", b"1.2.3.4, 5.6.7.8"), (b"x-real-ip", b"9.9.9.9")]
    assert client_of(Request("GET", b"/", headers, peer=("127.0.0.1", 1))) == "127.0.0.1"
    assert client_of(Request("GET", b"/", headers)) == "1.2.3.4"
    assert client_of(Request("GET", b"/", headers[1:])) == "9.9.9.9"
    assert client_of(Request("GET", b"/", [])) == ""


@pytest.mark.parametrize("rate", ["0", "-1", "nan", "inf"])
def test_a_rate_must_be_one(rate: str) -> None:
    with pytest.raises(ConfigError, match="above 0"):
        made(RateLimit, maxRequestsPerSecond=rate)


ALIASES = """
/mall/activity/info: /v1.0/invoke/srv.default/method/mall/activity/info
/mall/activity/info/{id}: /v1.0/invoke/srv.default/method/mall/activity/info
/k/{store}/{key}: /v1.0/state/s?a=b
/n/{number:[0-9]{2,3}}: /numbers
/v{major}.{minor:[0-9]+}/x: /versions
"""


@pytest.mark.parametrize(
    ("target", "becomes"),
    [
        (b"/mall/activity/info", b"/v1.0/invoke/srv.default/method/mall/activity/info"),
        (b"/mall/activity/info?x=1&x=2", b"/v1.0/invoke/srv.default/method/mall/activity/info?x=1&x=2"),
        (b"/mall/activity/info/7?x=1", b"/v1.0/invoke/srv.default/method/mall/activity/info?x=1&id=7"),
        (b"/k/a%2Fb/%E2%82%AC%26c", b"/v1.0/state/s?a=b&store=a%2Fb&key=%E2%82%AC%26c"),
        (b"/k/a/\xff", b"/v1.0/state/s?a=b&store=a&key=%FF"),
        (b"/n/123", b"/numbers?number=123"),
        (b"/n/1234", b"/n/1234"),
        (b"/v1.2/x", b"/versions?major=1&minor=2"),
        (b"/v1.x/x", b"/v1.x/x"),
        (b"/k//x", b"/k//x"),
        (b"*", b"*"),
        (b"/mall/activity/info/", b"/mall/activity/info/"),
    ],
)
def test_aliases(target: bytes, becomes: bytes) -> None:
    """The first that matches replaces the path, what it captured joins the query; others pass unchanged."""

    async def run() -> None:
        for middleware in (
            made(RouterAlias, routes=ALIASES),
            made(RouterAlias, **dict(line.split(": ") for line in ALIASES.strip().splitlines())),
        ):
            seen, _ = await passed(middleware, Request("GET", target, []))
            assert seen is not None
            assert seen.target == becomes

    asyncio.run(run())


@pytest.mark.parametrize("routes", ["[1]", "{", "/a: b", "/{a: /b", "/{a:(}: /b", "/{a:(x)}: /b", "/a: 7", "x: /y"])
def test_aliases_that_cannot_be_meant(routes: str) -> None:
    with pytest.raises(ConfigError, match="routes"):
        made(RouterAlias, routes=routes)


def test_a_rule_that_is_no_expression_is_named() -> None:
    with pytest.raises(ConfigError, match=r"'rule'.*no regular expression"):
        made(RouterChecker, rule="(")


def test_capitals_are_put_where_asked_for() -> None:
    """Requests by default; text over piece borders, bytes that are no text, letters without a capital of one char."""

    async def run() -> None:
        seen, answer = await passed(made(Uppercase), Request("POST", b"/", [], b"a"), Response(200, [], b"b"))
        assert seen is not None
        assert (seen.body, answer.body) == (b"A", b"b")

        async def pieces() -> AsyncIterator[bytes]:
            for piece in (b"caf", b"\xc3", b"\xa9 ", b"\xff!"):
                yield piece

        headers = [(b"content-length", b"7"), (b"x", b"y")]
        seen, answer = await passed(
            made(Uppercase, direction="response"), Request("POST", b"/", [], b"a"), Response(200, headers, pieces())
        )
        assert seen is not None
        assert seen.body == b"a"
        assert answer.headers == [(b"x", b"y")]
        assert not isinstance(answer.body, bytes)
        assert b"".join([piece async for piece in answer.body]) == "CAFÉ ".encode() + b"\xff!"

    asyncio.run(run())
    assert upper("straße".encode()) == "STRAßE".encode()
