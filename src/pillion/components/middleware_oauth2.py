"""`middleware.http.oauth2`: browsers log in at a provider before their requests pass (RFC 6749 4.1, RFC 7636).

A browser is known by a cookie that says nothing; what it stands for stays here, in memory and bounded. Those who
have not logged in yet cannot push out those who have.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import re
import secrets
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar
from urllib.parse import parse_qsl, urlencode

from pillion.components.tokens import Endpoint, Token, path_filter
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import setting
from pillion.net.exchange import Response
from pillion.net.middleware import plain, set_header
from pillion.wire.http1 import is_token

if TYPE_CHECKING:
    from pillion.kinds.component import Context
    from pillion.net.exchange import Request
    from pillion.net.middleware import Next

log = logging.getLogger("pillion.components.oauth2")
LOGIN_S = 600.0
"""How long a login may take."""
SESSION_S = 24 * 3600.0
"""How long a login lasts at most, when its token says nothing shorter."""
MOST_LOGINS, MOST_SESSIONS = 4096, 16384
LONGEST_TARGET = 4096
_HOST = re.compile(rb"[A-Za-z0-9.\-]+(:\d+)?|\[[0-9A-Fa-f:.]+\](:\d+)?")

V = TypeVar("V")


@dataclass(frozen=True)
class OAuth2Settings:
    client_id: str = setting("", key="clientID", help="the client's name at the provider")
    client_secret: str = setting("", secret=True, help="and its secret")
    scopes: str = setting("", help="what is asked for; separated by commas")
    auth_url: str = setting("", key="authURL", help="where browsers log in")
    token_url: str = setting("", key="tokenURL", help="the token endpoint")
    auth_header_name: str = setting("Authorization", help="the header that carries the token")
    redirect_url: str = setting("", key="redirectURL", help="where the provider sends browsers back to")
    force_https: bool = setting(False, key="forceHTTPS", help="after the login go on with https")
    path_filter: str = setting("", help="only for paths in which this expression (RE2) is found")


@dataclass(frozen=True, slots=True)
class Login:
    """A login on its way: what the provider has to send back, and where the browser wanted to go."""

    state: str = field(repr=False)
    verifier: str = field(repr=False)
    target: bytes


class Store(Generic[V]):
    """Values by unguessable name, each for a time, at most `most`: the oldest makes room. Pure: the time is given."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._kept: OrderedDict[str, tuple[V, float]] = OrderedDict()

    def put(self, value: V, until: float) -> str:
        name = secrets.token_urlsafe(32)
        self._kept[name] = value, until
        if len(self._kept) > self._most:
            self._kept.popitem(last=False)
        return name

    def get(self, name: str, now: float) -> V | None:
        found = self._kept.get(name)
        if found is not None and found[1] <= now:
            del self._kept[name]
            return None
        return None if found is None else found[0]

    def drop(self, name: str) -> None:
        self._kept.pop(name, None)

    def __len__(self) -> int:
        return len(self._kept)


class OAuth2:
    """The middleware."""

    Settings = OAuth2Settings

    def __init__(self, settings: OAuth2Settings, context: Context) -> None:
        for name, value in (("authURL", settings.auth_url), ("tokenURL", settings.token_url)):
            if not value.startswith(("http://", "https://")):
                raise ConfigError(f"metadata field {name!r} must be an http or https URL")
        self._header = settings.auth_header_name.strip().lower().encode("latin-1", "replace")
        if not is_token(self._header):
            raise ConfigError("metadata field 'authHeaderName' is no name of a header")
        self._settings = settings
        self._endpoint = Endpoint(settings.token_url, settings.client_id, settings.client_secret)
        self._meant = path_filter(settings.path_filter)
        digest = hashlib.sha256(f"{context.app_id}/{context.name}".encode()).hexdigest()[:12]
        self._cookie = f"pillion-oauth2-{digest}"
        self._logins: Store[Login] = Store(MOST_LOGINS)
        self._sessions: Store[Token] = Store(MOST_SESSIONS)

    async def open(self) -> None: ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...

    async def __call__(self, request: Request, next: Next) -> Response:
        if not self._meant(request.target):
            return await next(request)
        now = time.monotonic()
        name = _cookie(request, self._cookie)
        token = self._sessions.get(name, now)
        if token is not None:
            set_header(request, self._header, token.header)
            return await next(request)
        query = dict(parse_qsl(request.target.partition(b"?")[2].decode("latin-1")))
        if "state" not in query:
            return self._send_away(request, now)
        return await self._came_back(name, query, now)

    def _send_away(self, request: Request, now: float) -> Response:
        target = request.target if request.target.startswith(b"/") and len(request.target) <= LONGEST_TARGET else b"/"
        target = b"/" + target.lstrip(b"/\\")  # `//host` would lead elsewhere
        host = request.header(b"host") or b""
        if self._settings.force_https and _HOST.fullmatch(host):
            target = b"https://" + host + target
        login = Login(secrets.token_urlsafe(24), secrets.token_urlsafe(48), target)
        name = self._logins.put(login, now + LOGIN_S)
        challenge = base64.urlsafe_b64encode(hashlib.sha256(login.verifier.encode()).digest()).rstrip(b"=").decode()
        parameters = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": self._settings.redirect_url,
            "scope": " ".join(scope.strip() for scope in self._settings.scopes.split(",")),
            "state": login.state,
            "code_challenge": challenge,
            "code_challenge_method": "S256",
        }
        joint = "&" if "?" in self._settings.auth_url else "?"
        there = self._settings.auth_url + joint + urlencode({k: v for k, v in parameters.items() if v})
        return self._redirect(there.encode(), name, LOGIN_S)

    async def _came_back(self, name: str, query: dict[str, str], now: float) -> Response:
        login = self._logins.get(name, now)
        if login is None or not hmac.compare_digest(query["state"].encode(), login.state.encode()):
            return plain(400, "invalid state")
        if not query.get("code"):
            return plain(400, "code not found")
        self._logins.drop(name)
        parameters = [("grant_type", "authorization_code"), ("code", query["code"]), ("code_verifier", login.verifier)]
        if self._settings.redirect_url:
            parameters.append(("redirect_uri", self._settings.redirect_url))
        try:
            token = await self._endpoint.ask(parameters)
        except ComponentError as error:
            log.error("the code of a login was not exchanged: %s", error)
            return plain(500)
        until = min(token.expires, now + SESSION_S)
        return self._redirect(login.target, self._sessions.put(token, until), SESSION_S)

    def _redirect(self, there: bytes, cookie: str, lasts_s: float) -> Response:
        secure = "; Secure" if self._settings.force_https else ""
        text = f"{self._cookie}={cookie}; Path=/; Max-Age={int(lasts_s)}; HttpOnly; SameSite=Lax{secure}"
        headers = [(b"location", there), (b"set-cookie", text.encode()), (b"cache-control", b"no-store")]
        return Response(302, headers)


def _cookie(request: Request, name: str) -> str:
    for header, value in request.headers:
        if header == b"cookie":
            for pair in value.decode("latin-1").split(";"):
                key, _, text = pair.strip().partition("=")
                if key == name:
                    return text
    return ""
