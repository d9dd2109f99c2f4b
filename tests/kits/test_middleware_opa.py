"""`middleware.http.opa`: what policies see and what becomes of what they say."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest

from pillion.components.middleware_opa import Opa, Undecided, Verdict, facts, verdict
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import Context, decode
from pillion.net.exchange import BodyTooLarge, Request, Response
from pillion.testing.middleware_kit import MiddlewareKit

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

POLICY = """
package http

default allow = false

allow { input.request.path_parts[0] == "path" }

allow = {"allow": true, "additional_headers": {"X-User": user}} {
  input.request.path == "/me"
  user := input.request.headers["X-Name"]
}

allow = {"status_code": 301, "additional_headers": {"location": "https://example/"}} {
  input.request.path == "/moved"
}

allow = "perhaps" { input.request.path == "/odd" }

allow { input.request.body == "sesame" }
"""


def opa(**metadata: str) -> Any:
    metadata.setdefault("rego", POLICY)
    return Opa(decode(Opa.Settings, metadata, where="test"), Context("test"))


class TestOpa(MiddlewareKit):
    refusal = 403

    def middleware(self) -> AbstractAsyncContextManager[Any]:
        return contextlib.nullcontext(opa())

    def refused(self) -> Request:
        return Request("GET", b"/else", [])


def test_verdicts_of_a_policy() -> None:
    """true, false, an object that allows and adds to the request, one that denies and adds to the answer, nonsense; a
    body only where it is asked for, and one that cannot be had is no reason to let a request through.
    """

    async def run() -> None:
        middleware = opa(includedHeaders="x-name, authorization", defaultStatus="418", readBody="true")
        await middleware.open()
        seen: list[Request] = []

        async def destination(request: Request) -> Response:
            seen.append(request)
            return Response(200)

        async def ask(target: bytes, *headers: tuple[bytes, bytes], body: bytes = b"") -> Response:
            response: Response = await middleware(Request("POST", target, list(headers), body), destination)
            return response

        assert (await ask(b"/path/x")).status == 200
        assert (await ask(b"/x")).status == 418
        assert (await ask(b"/me", (b"x-name", b"ann"), (b"x-user", b"forged"))).status == 200
        assert [value for name, value in seen[-1].headers if name == b"x-user"] == [b"ann"]
        moved = await ask(b"/moved")
        assert (moved.status, moved.body) == (301, b"Moved Permanently")
        assert (b"location", b"https://example/") in moved.headers
        assert (await ask(b"/x", body=b"sesame")).status == 200
        odd = await ask(b"/odd")
        assert (odd.status, dict(odd.headers)[b"x-dapr-opa-error"]) == (418, b"true")
        with pytest.raises(BodyTooLarge):
            await middleware(Request("POST", b"/path", [], failure=BodyTooLarge()), destination)
        await middleware.close()
        assert (await ask(b"/path/x")).status == 418

    asyncio.run(run())


def test_what_a_policy_knows_of_a_request() -> None:
    request = Request("PUT", b"/a%20b//c/?x=1&x=2&y=&z=%FF", [(b"x-one", b"1"), (b"x-one", b"2"), (b"cookie", b"c")])
    assert facts(request, "text", ["x-one", "x-none"]) == {
        "method": "PUT",
        "path": "/a b//c/",
        "path_parts": ["a b", "", "c"],
        "raw_query": "x=1&x=2&y=&z=%FF",
        "query": {"x": ["1", "2"], "y": [""], "z": ["\ufffd"]},
        "headers": {"x-one": "1, 2", "X-One": "1, 2"},
        "scheme": "",
        "body": "text",
    }
    assert facts(Request("GET", b"/", []), "", [])["path_parts"] == [""]


@pytest.mark.parametrize(
    ("said", "means"),
    [
        (True, Verdict(True, 403)),
        (False, Verdict(False, 403)),
        ({}, Verdict(False, 403)),
        ({"allow": True, "status_code": 0}, Verdict(True, 0)),
        ({"allow": False, "status_code": 404}, Verdict(False, 404)),
        ({"additional_headers": {"a": "b"}}, Verdict(False, 403, {"a": "b"})),
        (1, None),
        (None, None),
        ([True], None),
        ({"allow": "yes"}, None),
        ({"status_code": "404"}, None),
        ({"status_code": 7}, None),
        ({"additional_headers": ["a"]}, None),
        ({"allow": True, "additional_headers": {"a": 1}}, None),
        ({"allow": True, "additional_headers": {"a b": "c"}}, None),
        ({"allow": True, "additional_headers": {"a": "b\r\nc: d"}}, None),
    ],
)
def test_values_that_are_verdicts(said: Any, means: Verdict | None) -> None:
    """Wrong types are errors, never permissions."""
    if means is None:
        with pytest.raises(Undecided):
            verdict(said, 403)
    else:
        assert verdict(said, 403) == means


@pytest.mark.parametrize("rego", ["package http\nallow {", "package http\nallow = = 1"])
def test_a_policy_that_cannot_be_compiled_stops_the_component(rego: str) -> None:
    async def run() -> None:
        middleware = opa(rego=rego)
        with pytest.raises(ComponentError, match="cannot be compiled"):
            await middleware.open()
        await middleware.close()

    asyncio.run(run())


def test_a_policy_of_another_package_denies_everything() -> None:
    """Undefined is the error path."""

    async def run() -> None:
        middleware = opa(rego="package other\nallow = true")
        await middleware.open()

        async def destination(request: Request) -> Response:
            raise AssertionError("passed")

        response = await middleware(Request("GET", b"/", []), destination)
        assert (response.status, dict(response.headers)[b"x-dapr-opa-error"]) == (403, b"true")
        await middleware.close()

    asyncio.run(run())


def test_a_status_must_be_one() -> None:
    with pytest.raises(ConfigError, match="defaultStatus"):
        opa(defaultStatus="7")
