"""Tokens from an OAuth 2.0 token endpoint (RFC 6749 3.2, 5.1 and 2.3.1)."""

from __future__ import annotations

import base64
import json
import time
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote_plus, urlencode

from pillion.components.fetch import fetch
from pillion.components.regex import compiled
from pillion.errors import ComponentError, ConfigError
from pillion.wire.methods import BadMethod, guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

EXPIRY_MARGIN_S = 10.0
"""A token is not used in its last seconds: it has to arrive while it is valid."""
_TYPES = {"": "Bearer", "bearer": "Bearer", "mac": "MAC", "basic": "Basic"}


class Style(IntEnum):
    """How a client tells the token endpoint who it is: found out, in the body, in the header."""

    AUTO = 0
    PARAMETERS = 1
    HEADER = 2


@dataclass(frozen=True, slots=True)
class Token:
    """A token; `expires` is a reading of the monotonic clock, infinite when the endpoint did not say."""

    kind: str
    text: str = field(repr=False)
    expires: float

    @property
    def header(self) -> bytes:
        """The value of a header that carries it."""
        return f"{self.kind} {self.text}".encode()

    def valid(self, now: float) -> bool:
        return now < self.expires


class Refused(ComponentError):
    """The endpoint answered, but with no token."""


class Endpoint:
    """A token endpoint as one client uses it."""

    def __init__(self, url: str, client_id: str, client_secret: str, style: Style = Style.AUTO) -> None:
        self._url, self._client_id, self._client_secret = url, client_id, client_secret
        self._style = style

    async def ask(self, parameters: Sequence[tuple[str, str]]) -> Token:
        """Ask for a token. Raises `ComponentError`."""
        if self._style is not Style.AUTO:
            return await self._ask(parameters, self._style)
        try:
            token = await self._ask(parameters, Style.HEADER)
        except Refused:
            token = await self._ask(parameters, Style.PARAMETERS)
            self._style = Style.PARAMETERS
        else:
            self._style = Style.HEADER
        return token

    async def _ask(self, parameters: Sequence[tuple[str, str]], style: Style) -> Token:
        headers = [(b"content-type", b"application/x-www-form-urlencoded"), (b"accept", b"application/json")]
        form = list(parameters)
        if style is Style.HEADER:
            login = f"{quote_plus(self._client_id)}:{quote_plus(self._client_secret)}"
            headers.append((b"authorization", b"Basic " + base64.b64encode(login.encode())))
        else:
            form += [("client_id", self._client_id), ("client_secret", self._client_secret)]
        answer = await fetch(self._url, method="POST", headers=headers, body=urlencode(form).encode())
        if not 200 <= answer.status < 300:
            raise Refused(f"{self._url} answered {answer.status}")
        return _read(answer.body, answer.header(b"content-type"), self._url)


def _read(body: bytes, content_type: str, where: str) -> Token:
    try:
        if content_type.partition(";")[0].strip().lower() in ("application/x-www-form-urlencoded", "text/plain"):
            found: Any = dict(parse_qsl(body.decode("latin-1")))
        else:
            found = json.loads(body)
        text, kind = found["access_token"], found.get("token_type", "")
        seconds = float(found.get("expires_in") or 0)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused(f"{where} answered no token") from error
    if not isinstance(text, str) or not text or not text.isascii() or not text.isprintable():
        raise Refused(f"{where} answered no token")
    if not isinstance(kind, str) or not kind.isascii() or not (kind == "" or kind.isalnum()):
        raise Refused(f"{where} answered a token of an unknown type")
    expires = time.monotonic() + seconds - EXPIRY_MARGIN_S if seconds > 0 else float("inf")
    return Token(_TYPES.get(kind.lower(), kind), text, expires)


def path_filter(pattern: str) -> Callable[[bytes], bool]:
    """Return whether the middleware is for a target (path and query): all when `pattern` is empty.

    A path is matched as it came and as its route is found, so that no spelling gets around the middleware. Raises
    `ConfigError`.
    """
    if not pattern:
        return lambda target: True
    try:
        search = compiled(pattern).search
    except ValueError as error:
        raise ConfigError(f"metadata field 'pathFilter': {error}") from error

    def meant(target: bytes) -> bool:
        path = target.partition(b"?")[0]
        if search(path) is not None:
            return True
        try:
            return search(guarded(path.decode("utf-8", "replace")).encode()) is not None
        except BadMethod:
            return True

    return meant
