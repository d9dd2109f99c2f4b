"""Middleware about identity: bearer tokens, logins, tokens of our own; against a provider in this process."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hmac
import json
import time
from typing import TYPE_CHECKING, Any

import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from issuer import Issuer
from pillion.components import key_set
from pillion.components.middleware_bearer import Bearer
from pillion.components.middleware_client_credentials import ClientCredentials
from pillion.components.middleware_oauth2 import OAuth2, Store
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import Context, decode
from pillion.net.exchange import Request, Response
from pillion.testing.middleware_kit import MiddlewareKit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with Issuer() as running:
        yield running


def made(kind: Any, metadata: dict[str, str]) -> Any:
    return kind(decode(kind.Settings, metadata, where="test"), Context("test"))


def bearer(issuer: Issuer, **more: str) -> Any:
    return made(Bearer, {"issuer": issuer.url, "audience": "app", **more})


def credentials(issuer: Issuer, **more: str) -> Any:
    metadata = {
        "clientID": "me", "clientSecret": "s&cret", "scopes": "a,b", "tokenURL": issuer.url + "/token",
        "headerName": "X-Token", **more,
    }  # fmt: skip
    return made(ClientCredentials, metadata)


def oauth2(issuer: Issuer, **more: str) -> Any:
    metadata = {
        "clientID": "me", "clientSecret": "s&cret", "scopes": "a,b", "authURL": "https://login.example/auth?x=1",
        "tokenURL": issuer.url + "/token", "redirectURL": "http://127.0.0.1/back", **more,
    }  # fmt: skip
    return made(OAuth2, metadata)


async def status(middleware: Any, *headers: tuple[bytes, bytes], target: bytes = b"/x") -> tuple[int, list[Request]]:
    """The status of one request, and what passed."""
    seen: list[Request] = []

    async def destination(request: Request) -> Response:
        seen.append(request)
        return Response(200)

    return (await middleware(Request("GET", target, list(headers)), destination)).status, seen


def authorization(token: str) -> tuple[bytes, bytes]:
    return b"authorization", b"Bearer " + token.encode()


class _Kit(MiddlewareKit):
    """Starts the provider around each test of the kit."""

    def make(self, issuer: Issuer) -> Any:
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def middleware(self) -> AsyncIterator[Any]:
        with Issuer() as self.issuer:
            yield self.make(self.issuer)


class TestBearer(_Kit):
    refusal = 401

    def make(self, issuer: Issuer) -> Any:
        return bearer(issuer)

    def passing(self) -> Request:
        return Request("GET", b"/x", [authorization(self.issuer.token())])

    def refused(self) -> Request:
        return Request("GET", b"/x", [])


class TestClientCredentials(_Kit):
    def make(self, issuer: Issuer) -> Any:
        return credentials(issuer)


class TestOAuth2(_Kit):
    refusal = 302

    def make(self, issuer: Issuer) -> Any:
        return oauth2(issuer, pathFilter="^/private")

    def refused(self) -> Request:
        return Request("GET", b"/private", [])


def _hs256(issuer: Issuer) -> str:
    """A token whose shared secret is the public key: accepted by libraries that believe the token's own head."""
    head = base64.urlsafe_b64encode(b'{"alg":"HS256","kid":"first"}').rstrip(b"=")
    signed = head + b"." + issuer.token().split(".")[1].encode()
    secret = issuer.keys[-1].as_pem(private=False)
    return (signed + b"." + base64.urlsafe_b64encode(hmac.digest(secret, signed, "sha256")).rstrip(b"=")).decode()


def _unsigned(issuer: Issuer) -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"none"}').rstrip(b"=").decode()
    return head + "." + issuer.token().split(".")[1] + "."


def _of_another_key(issuer: Issuer) -> str:
    claims = {"iss": issuer.url, "aud": "app", "exp": int(time.time()) + 60}
    return jwt.encode({"alg": "RS256", "kid": "first"}, claims, RSAKey.generate_key(2048))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda i: i.token(), 200),
        (lambda i: i.token(aud=["other", "app"]), 200),
        (lambda i: i.token(exp=int(time.time()) - 200), 200),  # within the skew
        (lambda i: i.token(exp=None), 200),  # an expiry is not required (spec)
        (lambda i: i.token(nbf=int(time.time()) + 200), 200),
        (lambda i: i.token(exp=int(time.time()) - 400), 401),
        (lambda i: i.token(nbf=int(time.time()) + 400), 401),
        (lambda i: i.token(iat=int(time.time()) + 400), 401),
        (lambda i: i.token(exp="tomorrow"), 401),
        (lambda i: i.token(exp=True), 401),
        (lambda i: i.token(iss=i.url + "/"), 401),
        (lambda i: i.token(iss=None), 401),
        (lambda i: i.token(aud="apps"), 401),
        (lambda i: i.token(aud=None), 401),
        (lambda i: i.token(aud={"app": 1}), 401),
        (lambda i: i.token()[:-4] + "AAAA", 401),
        (lambda i: i.token(head={"kid": "unknown"}), 401),
        (lambda i: "x", 401),
        (lambda i: "", 401),
        (lambda i: "é", 401),
        (lambda i: "x" * 20_000, 401),
        (_hs256, 401),
        (_unsigned, 401),
        (_of_another_key, 401),
    ],
)  # fmt: skip
def test_which_tokens_are_accepted(issuer: Issuer, make: Callable[[Issuer], str], expected: int) -> None:
    """RFC 7519 4.1 with five minutes of skew; asked twice the answer is the same."""

    async def run() -> None:
        middleware = bearer(issuer)
        await middleware.open()
        for _ in range(2):
            assert (await status(middleware, authorization(make(issuer))))[0] == expected
        await middleware.close()

    asyncio.run(run())


def test_other_authorization_headers_are_refused(issuer: Issuer) -> None:
    """Another scheme; two headers, of which an application might believe the second."""

    async def run() -> None:
        middleware = bearer(issuer, jwksURL=issuer.url + "/keys")
        await middleware.open()
        good = authorization(issuer.token())
        assert (await status(middleware, (b"authorization", b"Basic eDp5")))[0] == 401
        assert (await status(middleware, good, (b"authorization", b"Basic eDp5")))[0] == 401
        code, passed = await status(middleware, (b"authorization", good[1].replace(b"Bearer", b"bearer")))
        assert code == 200
        assert passed[0].header(b"authorization")  # the application may look at it again
        await middleware.close()

    asyncio.run(run())


def test_new_keys_are_fetched_once_for_all_who_wait(issuer: Issuer) -> None:
    """A rotated key is found when keys may be fetched anew; before that its tokens are refused without asking. Tokens
    of the old key, remembered as valid, are forgotten with it. A provider in trouble is 500; keys known so far
    serve.
    """

    async def run() -> None:
        middleware = bearer(issuer)
        await middleware.open()
        old = authorization(issuer.token())
        assert (await status(middleware, old))[0] == 200
        issuer.rotate()
        new = authorization(issuer.token())
        fetched = len(issuer.calls)
        assert (await status(middleware, new))[0] == 401
        assert len(issuer.calls) == fetched
        middleware._keys._fetched -= key_set.REFRESH_S  # ten minutes later
        answers = await asyncio.gather(*(status(middleware, new) for _ in range(10)))
        assert {code for code, _ in answers} <= {200, 401}
        assert len(issuer.calls) == fetched + 1
        assert (await status(middleware, new))[0] == 200
        assert (await status(middleware, old))[0] == 401
        issuer.broken = True
        middleware._keys._fetched -= key_set.REFRESH_S
        assert (await status(middleware, authorization(issuer.token(head={"kid": "x"}))))[0] == 500
        assert (await status(middleware, new))[0] == 200
        await middleware.close()

    asyncio.run(run())


def test_a_provider_that_is_not_what_it_says_stops_the_component(issuer: Issuer) -> None:
    """The issuer of the description must be the same text (OpenID Connect Discovery 1.0, 4.3); no keys, no start."""

    async def run(middleware: Any, text: str) -> None:
        with pytest.raises(ComponentError, match=text):
            await middleware.open()
        await middleware.close()

    issuer.named = issuer.url + "/"
    asyncio.run(run(bearer(issuer), "describes the issuer"))
    asyncio.run(run(bearer(issuer, jwksURL=issuer.url + "/nowhere"), "answered 404"))
    asyncio.run(run(bearer(issuer, jwksURL="ftp://x"), "cannot be asked"))
    issuer.broken = True
    asyncio.run(run(bearer(issuer), "answered 503"))


@pytest.mark.parametrize(
    ("text", "kids"),
    [
        (b'{"keys":[{"kty":"oct","k":"AAAA","kid":"o"},{"kty":"new"},7,RSA]}', ["r"]),
        (b'{"keys":[]}', None),
        (b'{"keys":7}', None),
        (b"[]", None),
        (b"", None),
    ],
)
def test_strange_key_sets(text: bytes, kids: list[str] | None) -> None:
    """Shared secrets and unknown kinds are left out; what is no set is an error."""
    rsa = RSAKey.generate_key(2048, parameters={"kid": "r"}).as_dict(private=False)
    text = text.replace(b"RSA", json.dumps(rsa).encode())
    if kids is None:
        with pytest.raises(ComponentError):
            key_set.read_keys(text, "here")
    else:
        assert [key.kid for key in key_set.read_keys(text, "here").keys] == kids


def test_one_token_serves_all_until_it_expires(issuer: Issuer) -> None:
    """Ten at once ask once; what the client sent in the header is replaced; a short-lived token is fetched anew."""

    async def run() -> None:
        middleware = credentials(issuer, endpointParamsQuery="resource=r&resource=q")
        answers = await asyncio.gather(*(status(middleware, (b"x-token", b"forged")) for _ in range(10)))
        assert {code for code, _ in answers} == {200}
        assert {tuple(v for n, v in seen[0].headers if n == b"x-token") for _, seen in answers} == {(b"Bearer t1",)}
        assert len(issuer.grants) == 1
        assert issuer.grants[0]["scope"] == "a b"
        assert issuer.grants[0]["resource"] == "r"
        await middleware.close()
        issuer.lifetime_s = 5  # within the margin: never used twice
        middleware = credentials(issuer)
        for count in (2, 3):
            assert (await status(middleware))[0] == 200
            assert len(issuer.grants) == count
        await middleware.close()

    asyncio.run(run())


@pytest.mark.parametrize(
    ("style", "refused", "used"),
    [("0", "", "header"), ("0", "header", "parameters"), ("1", "", "parameters"), ("2", "", "header")],
)
def test_styles_of_authentication(issuer: Issuer, style: str, refused: str, used: str) -> None:
    """0 finds out, 1 the body, 2 the header (RFC 6749 2.3.1)."""

    async def run() -> None:
        issuer.refused_styles = {refused}
        middleware = credentials(issuer, authStyle=style)
        assert (await status(middleware))[0] == 200
        assert issuer.grants[-1]["style"] == used
        await middleware.close()

    asyncio.run(run())


def test_without_a_token_nothing_is_passed_on(issuer: Issuer) -> None:
    """500, where the reference answers an empty 200; paths that are not meant pass as they are."""

    async def run() -> None:
        issuer.broken = True
        middleware = credentials(issuer, pathFilter="^/out")
        assert await status(middleware, target=b"/out/x") == (500, [])
        assert await status(middleware, target=b"//out/x") == (500, [])  # another spelling of the same path
        code, seen = await status(middleware, target=b"/else")
        assert code == 200
        assert seen[0].header(b"x-token") is None
        await middleware.close()

    asyncio.run(run())


async def _visit(middleware: Any, target: bytes, cookie: str = "", host: bytes = b"me.example") -> Response:
    async def destination(request: Request) -> Response:
        return Response(200, [], request.header(b"authorization") or b"")

    headers = [(b"host", host)] + ([(b"cookie", f"a=b; {cookie}".encode())] if cookie else [])
    response: Response = await middleware(Request("GET", target, headers), destination)
    return response


def _header(response: Response, name: bytes) -> str:
    return dict(response.headers)[name].decode()


def test_a_browser_logs_in_and_comes_back(issuer: Issuer) -> None:
    """302 to the login with state and challenge; back with the code: 302 to where it wanted to go; then its token is in
    the header. A code serves once, a state is good for the browser that got it.
    """

    async def run() -> None:
        middleware = oauth2(issuer)
        away = await _visit(middleware, b"/page?x=1")
        assert away.status == 302
        location = _header(away, b"location")
        assert location.startswith("https://login.example/auth?x=1&response_type=code&client_id=me&redirect_uri=http")
        assert "scope=a+b" in location
        cookie = _header(away, b"set-cookie")
        assert "HttpOnly; SameSite=Lax" in cookie
        cookie = cookie.partition(";")[0]
        query = issuer.authorize(location)

        stranger = await _visit(middleware, b"/back?" + query.encode(), cookie + "x")
        assert (stranger.status, stranger.body) == (400, b"invalid state")
        wrong = await _visit(middleware, b"/back?code=x&state=y", cookie)
        assert (wrong.status, wrong.body) == (400, b"invalid state")
        denied = await _visit(middleware, b"/back?error=denied&" + query.partition("&")[2].encode(), cookie)
        assert (denied.status, denied.body) == (400, b"code not found")

        back = await _visit(middleware, b"/back?" + query.encode(), cookie)
        assert (back.status, _header(back, b"location")) == (302, "/page?x=1")
        session = _header(back, b"set-cookie").partition(";")[0]
        assert session != cookie
        assert (await _visit(middleware, b"/page?x=1", session)).body == b"Bearer t1"
        assert (await _visit(middleware, b"/page?state=mine", session)).body == b"Bearer t1"
        assert (await _visit(middleware, b"/back?" + query.encode(), cookie)).status == 400
        assert (await _visit(middleware, b"/page", cookie)).status == 302

    asyncio.run(run())


def test_where_a_login_leads_to(issuer: Issuer) -> None:
    """Never to another host; with forceHTTPS to https, unless the host is none. A failed exchange is 500."""

    async def run() -> None:
        for target, host, force, leads in [
            (b"//evil.example/x", b"me.example", "false", "/evil.example/x"),
            (b"/\\evil.example", b"me.example", "false", "/evil.example"),
            (b"/x", b"me.example:80", "true", "https://me.example:80/x"),
            (b"/x", b"me.example/@evil", "true", "/x"),
        ]:
            middleware = oauth2(issuer, forceHTTPS=force)
            away = await _visit(middleware, target, host=host)
            cookie = _header(away, b"set-cookie")
            assert ("Secure" in cookie) is (force == "true")
            query = issuer.authorize(_header(away, b"location"))
            back = await _visit(middleware, b"/back?" + query.encode(), cookie.partition(";")[0])
            assert _header(back, b"location") == leads
        issuer.broken = True
        away = await _visit(middleware, b"/x")
        query = issuer.authorize(_header(away, b"location"))
        failed = await _visit(middleware, b"/b?" + query.encode(), _header(away, b"set-cookie").partition(";")[0])
        assert failed.status == 500

    asyncio.run(run())


def test_stores_are_bounded_and_forget() -> None:
    store: Store[int] = Store(2)
    names = [store.put(number, 10.0) for number in range(3)]
    assert [store.get(name, 5.0) for name in names] == [None, 1, 2]
    assert store.get(names[1], 10.0) is None
    assert len(store) == 1


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [
        (oauth2, {"authURL": "javascript:x"}),
        (oauth2, {"authHeaderName": "a b"}),
        (oauth2, {"pathFilter": "("}),
        (credentials, {"authStyle": "3"}),
        (credentials, {"headerName": "a:"}),
        (bearer, {"audience": ""}),
    ],
)
def test_settings_that_cannot_be_meant(issuer: Issuer, kind: Any, wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        kind(issuer, **wrong)
