"""`middleware.http.bearer`: only requests with a valid token of one issuer for one audience pass (RFC 6750, RFC 7519).

A token that was found valid is remembered by its digest until it expires or the issuer's keys change, so a client that
repeats itself costs no signature check.
"""

from __future__ import annotations

import hashlib
import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from joserfc import jws, jwt
from joserfc.errors import JoseError

from pillion.components.key_set import Keys, discover
from pillion.errors import ComponentError
from pillion.kinds.component import setting
from pillion.net.middleware import plain

if TYPE_CHECKING:
    from pillion.kinds.component import Context
    from pillion.net.exchange import Request, Response
    from pillion.net.middleware import Next

log = logging.getLogger("pillion.components.bearer")
SKEW_S = 300.0
"""How far the clocks of issuer and sidecar may be apart."""
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA", "Ed25519"]
"""Signatures with public keys only: a token must not choose a public key as its shared secret."""
REMEMBERED = 4096
LONGEST = 16384
"""Bytes of a token."""
FOREVER = float("inf")


@dataclass(frozen=True)
class BearerSettings:
    issuer: str = setting(aliases=("issuerURL",), help="the issuer, as in the claim `iss`")
    audience: str = setting(aliases=("clientID",), help="one of the audiences in the claim `aud`")
    jwks_url: str = setting("", key="jwksURL", help="where the issuer's keys are; else the issuer is asked")


class Invalid(Exception):
    """A token is not accepted; the text is for the log only."""


class Bearer:
    """The middleware."""

    Settings = BearerSettings

    def __init__(self, settings: BearerSettings, context: Context) -> None:
        self._issuer, self._audience = settings.issuer, settings.audience
        self._keys = Keys(settings.jwks_url)
        self._valid: dict[bytes, float] = {}
        self._generation = 0

    async def open(self) -> None:
        if not self._keys.url:
            url = (await discover(self._issuer)).get("jwks_uri")
            if not isinstance(url, str):
                raise ComponentError(f"the issuer {self._issuer} does not tell its jwks_uri")
            self._keys.url = url
        await self._keys.open()

    async def ping(self) -> None:
        await self._keys.renew()

    async def close(self) -> None:
        await self._keys.close()

    async def __call__(self, request: Request, next: Next) -> Response:
        given = [value for name, value in request.headers if name == b"authorization"]
        if len(given) != 1 or len(given[0]) > LONGEST or given[0][:7].lower() != b"bearer ":
            return plain(401)  # of two, somebody behind us might believe the other
        token = given[0][7:].strip()
        digest = hashlib.sha256(token).digest()
        if self._keys.generation != self._generation:
            self._valid.clear()
            self._generation = self._keys.generation
        until = self._valid.get(digest)
        if until is None or until < time.time() or self._keys.stale:
            try:
                until = await self._check(token)
            except Invalid as error:
                log.debug("a token was refused: %s", error)
                return plain(401)
            except ComponentError as error:
                log.error("tokens cannot be checked: %s", error)
                return plain(500)
            if len(self._valid) >= REMEMBERED:
                self._valid.clear()
            self._valid[digest] = until
        return await next(request)

    async def _check(self, token: bytes) -> float:
        """Return until when a token is valid, skew included. Raises `Invalid`, and `ComponentError` without keys."""
        try:
            text = token.decode("ascii")
            kid = _kid(text)
        except (JoseError, ValueError, TypeError) as error:
            raise Invalid(str(error)) from error
        keys = await self._keys.find(kid)
        try:
            claims = jwt.decode(text, keys, algorithms=ALGORITHMS).claims
        except (JoseError, ValueError, TypeError) as error:
            raise Invalid(f"{type(error).__name__} {error}") from error
        return check_claims(claims, self._issuer, self._audience, time.time())


def _kid(text: str) -> str | None:
    """Return the key id in a token's head, whose signature nobody has checked yet."""
    kid = jws.extract_compact(text.encode()).headers().get("kid")
    return kid if isinstance(kid, str) else None


def check_claims(claims: dict[str, Any], issuer: str, audience: str, now: float) -> float:
    """Return until when the claims hold at most. Raises `Invalid` (RFC 7519 4.1)."""
    if claims.get("iss") != issuer:
        raise Invalid("another issuer")
    meant = claims.get("aud")
    if audience not in (meant if isinstance(meant, list) else [meant]):
        raise Invalid("another audience")
    times = {name: claims[name] for name in ("exp", "nbf", "iat") if name in claims}
    for name, value in times.items():
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise Invalid(f"{name} is no time")
    until = times.get("exp", FOREVER) + SKEW_S
    if now >= until:
        raise Invalid("expired")
    if now < max(times.get("nbf", 0), times.get("iat", 0)) - SKEW_S:
        raise Invalid("not valid yet")
    return float(until)
