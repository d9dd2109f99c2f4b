"""The public keys of an identity provider, as they change (RFC 7517, OpenID Connect Discovery 1.0).

Old keys serve while new ones are fetched; one fetch at a time, however many wait for it. A provider is asked for
keys it did not have no more often than every ten minutes, so tokens with invented key ids cannot make us ask.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING, Any

from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, KeySet

from pillion.components.fetch import fetch
from pillion.errors import ComponentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from joserfc.jwk import Key

REFRESH_S = 600.0
"""The least time between two fetches."""
MOST_KEYS = 256


class Keys:
    """The keys behind `url`. `generation` grows with each fetch: what was derived from old keys can be dropped."""

    def __init__(self, url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self.generation = 0
        self.current: KeySet | None = None
        self._clock = clock
        self._fetched = 0.0
        self._fetching: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Fetch for the first time. Raises `ComponentError`."""
        await self._fetch()

    async def close(self) -> None:
        if self._fetching is not None:
            self._fetching.cancel()
            await asyncio.gather(self._fetching, return_exceptions=True)

    @property
    def stale(self) -> bool:
        """Whether the keys may be fetched anew."""
        return self._clock() - self._fetched >= REFRESH_S

    def renew(self) -> asyncio.Task[None]:
        """Begin to fetch the keys anew, or join who does; the task raises `ComponentError`."""
        if self._fetching is None or self._fetching.done():
            self._fetching = asyncio.get_running_loop().create_task(self._fetch())
            self._fetching.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._fetching

    async def find(self, kid: str | None) -> KeySet:
        """Return the keys, fetched anew where they do not have `kid` and may be. Raises `ComponentError`."""
        keys = self.current
        if self.stale:
            task = self.renew()
            if keys is None or not _has(keys, kid):
                await asyncio.shield(task)
                keys = self.current
        if keys is None:
            raise ComponentError(f"no keys of {self.url} are there")
        return keys

    async def _fetch(self) -> None:
        self._fetched = self._clock()  # also of a fetch that fails: a provider in trouble is left alone
        answer = await fetch(self.url, headers=[(b"accept", b"application/json")])
        if answer.status != 200:
            raise ComponentError(f"{self.url} answered {answer.status} instead of keys")
        self.current = read_keys(answer.body, self.url)
        self.generation += 1


def _has(keys: KeySet, kid: str | None) -> bool:
    return kid is None or any(key.kid == kid for key in keys.keys)


def read_keys(text: bytes, where: str) -> KeySet:
    """Return the public keys for signatures in a JWK set; kinds nobody knows are left out. Raises `ComponentError`."""
    try:
        listed = json.loads(text)["keys"]
        assert isinstance(listed, list)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise ComponentError(f"{where} is no set of keys") from error
    found: list[Key] = []
    for item in listed[:MOST_KEYS]:
        if not isinstance(item, dict) or item.get("kty") == "oct" or item.get("use", "sig") != "sig":
            continue  # a shared secret does not belong into a public document
        try:
            found.append(JWKRegistry.import_key(item))
        except (JoseError, ValueError, KeyError, TypeError):
            continue
    if not found:
        raise ComponentError(f"{where} has no key for signatures")
    return KeySet(found)


async def discover(issuer: str) -> dict[str, Any]:
    """Return the provider's own description (OpenID Connect Discovery 1.0, 4). Raises `ComponentError`."""
    url = issuer.rstrip("/") + "/.well-known/openid-configuration"
    answer = await fetch(url, headers=[(b"accept", b"application/json")])
    try:
        found = json.loads(answer.body) if answer.status == 200 else None
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ComponentError(f"{url} answered {answer.status}, no description of a provider")
    if found.get("issuer") != issuer:
        raise ComponentError(f"{url} describes the issuer {found.get('issuer')!r} instead of {issuer!r}")
    return found
