"""`middleware.http.oauth2clientcredentials`: requests carry a token of the sidecar's own (RFC 6749 4.4)."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from pillion.components.tokens import Endpoint, Style, Token, path_filter
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import setting
from pillion.net.middleware import plain, set_header
from pillion.wire.http1 import is_token

if TYPE_CHECKING:
    from pillion.kinds.component import Context
    from pillion.net.exchange import Request, Response
    from pillion.net.middleware import Next

log = logging.getLogger("pillion.components.oauth2clientcredentials")


@dataclass(frozen=True)
class ClientCredentialsSettings:
    client_id: str = setting(key="clientID", help="the client's name at the provider")
    client_secret: str = setting(secret=True, help="and its secret")
    scopes: str = setting(help="what is asked for; separated by commas")
    token_url: str = setting(key="tokenURL", help="the token endpoint")
    header_name: str = setting(help="the header that carries the token")
    endpoint_params_query: str = setting("", help="further parameters for the endpoint, as a query string")
    auth_style: int = setting(0, help="0 finds out, 1 sends id and secret in the body, 2 in the header")
    path_filter: str = setting("", help="only for paths in which this expression (RE2) is found")


class ClientCredentials:
    """The middleware. One token serves all until shortly before it expires; one request fetches, the others wait."""

    Settings = ClientCredentialsSettings

    def __init__(self, settings: ClientCredentialsSettings, context: Context) -> None:
        if settings.auth_style not in (0, 1, 2):
            raise ConfigError("metadata field 'authStyle' must be 0, 1 or 2")
        self._header = settings.header_name.strip().lower().encode("latin-1", "replace")
        if not is_token(self._header):
            raise ConfigError("metadata field 'headerName' is no name of a header")
        self._endpoint = Endpoint(
            settings.token_url, settings.client_id, settings.client_secret, Style(settings.auth_style)
        )
        scopes = " ".join(scope.strip() for scope in settings.scopes.split(","))
        further = parse_qsl(settings.endpoint_params_query, keep_blank_values=True)
        self._parameters = [("grant_type", "client_credentials"), ("scope", scopes), *further]
        self._meant = path_filter(settings.path_filter)
        self._token: Token | None = None
        self._fetching: asyncio.Task[Token] | None = None

    async def open(self) -> None: ...

    async def ping(self) -> None:
        await self._current()

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    async def __call__(self, request: Request, next: Next) -> Response:
        if self._meant(request.target):
            try:
                token = await self._current()
            except ComponentError as error:
                log.error("no token: %s", error)
                return plain(500)
            set_header(request, self._header, token.header)
        return await next(request)

    async def _current(self) -> Token:
        token = self._token
        if token is not None and token.valid(time.monotonic()):
            return token
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.get_running_loop().create_task(self._endpoint.ask(self._parameters))
            self._fetching.add_done_callback(lambda task: task.cancelled() or task.exception())
        self._token = token = await asyncio.shield(self._fetching)
        return token
