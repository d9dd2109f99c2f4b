"""`crypto.dapr.jwks`: the keys of a JSON Web Key Set, by their `kid` (spec `components.md` 8).

Knows: where a set may come from - metadata, a file, the web - and when to look again. A set that cannot be read or
fetched anew leaves the old one in force.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import logging
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from pillion.components import web_document
from pillion.components.crypto_provider import KeyedProvider
from pillion.components.file_watch import FileWatch
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import seconds, setting
from pillion.tasks import Tasks
from pillion.wire.cryptokeys import Key, KeyFormatError, parse_set

if TYPE_CHECKING:
    from pillion.kinds.component import Context

log = logging.getLogger("pillion.components.jwks_crypto")
MOST_BYTES = 4 << 20
LEAST_INTERVAL_S = 1.0
"""However short `minRefreshInterval` is, the server is not asked more often."""


@dataclass(frozen=True)
class JwksSettings:
    """Metadata of `crypto.dapr.jwks`. Durations in seconds."""

    jwks: str = setting(secret=True, help="the set: JSON, JSON in base64, the path of a file, or an http(s) URL")
    request_timeout: float = setting(30.0, parse=seconds, help="longest wait for the answer of a URL")
    min_refresh_interval: float = setting(600.0, parse=seconds, help="shortest time between two fetches of a URL")


class JwksCrypto(KeyedProvider):
    """A set of keys. `_keys` is replaced as a whole, never changed."""

    Settings = JwksSettings

    def __init__(self, settings: JwksSettings, context: Context) -> None:
        super().__init__(context.name)
        self._settings = settings
        self._where = f"component {context.name}"
        self._keys: dict[str, Key] = {}
        self._tasks = Tasks(f"key set of {context.name}")
        self._watches: list[FileWatch] = []
        self._stirred = asyncio.Event()

    async def open(self) -> None:
        """Load the set. Raises `ConfigError` or `ComponentError`."""
        source = self._settings.jwks
        if source.startswith(("http://", "https://")):
            wait_s = await self._fetch(source)
            self._tasks.keep(partial(self._keep_fetching, source, wait_s), "refresh")
        elif await asyncio.to_thread(_is_file, source):
            await self._watch(source)
        else:
            self._keys = self._parsed(_inline(source))

    async def ping(self) -> None:
        """The keys are in memory."""

    async def close(self) -> None:
        for watch in self._watches:
            await watch.close()
        self._watches.clear()
        await self._tasks.close()
        await super().close()

    async def find(self, name: str) -> Key:
        found = self._keys.get(name)
        if found is None:
            raise ComponentError(f"key {name} not found")
        return found

    def _parsed(self, text: bytes) -> dict[str, Key]:
        try:
            return parse_set(text)
        except KeyFormatError as error:
            raise ConfigError(f"jwks: {error}", where=self._where) from error

    # -- from the web

    async def _fetch(self, url: str) -> float:
        """Take the set from the web; return the seconds until it is asked for again."""
        settings = self._settings
        limit = settings.request_timeout if settings.request_timeout > 0 else 30.0
        document = await web_document.fetch(url, timeout_s=limit, most=MOST_BYTES)
        self._keys = await asyncio.to_thread(self._parsed, document.body)
        return max(self._least_s, document.fresh_s(time.time()))

    @property
    def _least_s(self) -> float:
        return max(self._settings.min_refresh_interval, LEAST_INTERVAL_S)

    async def _keep_fetching(self, url: str, wait_s: float) -> None:
        while True:
            await asyncio.sleep(wait_s)
            try:
                wait_s = await self._fetch(url)
            except (ComponentError, ConfigError) as error:
                wait_s = self._least_s
                log.warning("%s: the key set stays as it was: %s", self._where, error)

    # -- from a file

    async def _watch(self, path: str) -> None:
        # The second is what is swapped where a volume holds the files of a secret.
        for each in (path, _swapped(path)):
            watch = FileWatch(each, self._stirred.set)
            self._watches.append(watch)
            watch.open()
        self._keys = self._parsed(await asyncio.to_thread(_file, path))
        self._tasks.keep(partial(self._keep_reading, path), "reading")

    async def _keep_reading(self, path: str) -> None:
        while True:
            await self._stirred.wait()
            self._stirred.clear()
            try:
                self._keys = self._parsed(await asyncio.to_thread(_file, path))
            except (ComponentError, ConfigError) as error:
                log.warning("%s: the key set stays as it was: %s", self._where, error)
            except Exception:
                self._stirred.set()  # what was written is still to be read
                raise

    def __repr__(self) -> str:
        return f"<JwksCrypto {sorted(self._keys)}>"


def _is_file(text: str) -> bool:
    return len(text) < 4096 and "\0" not in text and os.path.isfile(text)


def _swapped(path: str) -> str:
    return os.path.join(os.path.dirname(path), "..data")


def _file(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            text = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise ComponentError(f"{path} cannot be read: {error.strerror}") from error
    if len(text) > MOST_BYTES:
        raise ComponentError(f"{path} is longer than {MOST_BYTES} bytes")
    return text


def _inline(text: str) -> bytes:
    """Base64, standard or for URLs, padded or not, else the text itself."""
    bare = "".join(text.split()).rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        return text.encode()
