"""`crypto.dapr.localstorage`: keys as files of one folder (spec `components.md` 8).

Knows: names of files, and that none leads out of the folder. Read on every call, so a changed file counts at once.
"""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.components.crypto_provider import KeyedProvider
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import setting
from pillion.wire.cryptokeys import Key, KeyFormatError, parse_key

if TYPE_CHECKING:
    from pillion.kinds.component import Context

MOST_BYTES = 1 << 20
_HINTS = {".json": "application/json", ".pem": "application/x-pem-file"}


@dataclass(frozen=True)
class FolderSettings:
    """Metadata of `crypto.dapr.localstorage`."""

    path: str = setting(help="the folder with the keys, relative to the working directory of the sidecar")


class LocalCrypto(KeyedProvider):
    """Keys named by their path below the folder: `.json` is a JWK, `.pem` PEM, anything else goes by its looks."""

    Settings = FolderSettings

    def __init__(self, settings: FolderSettings, context: Context) -> None:
        super().__init__(context.name)
        self._path = settings.path
        self._where = f"component {context.name}"

    async def open(self) -> None:
        if not await asyncio.to_thread(os.path.isdir, self._path):
            raise ConfigError(f"{self._path} is not a folder", where=self._where, mend="check path")

    async def ping(self) -> None:
        if not await asyncio.to_thread(os.path.isdir, self._path):
            raise ComponentError(f"{self._path} is not a folder")

    async def find(self, name: str) -> Key:
        return await asyncio.to_thread(_read, self._path, name)

    def __repr__(self) -> str:
        return f"<LocalCrypto {self._path}>"


def _read(folder: str, name: str) -> Key:
    text = _contents(_inside(folder, name), name)
    try:
        return parse_key(text, _HINTS.get(os.path.splitext(name)[1].lower(), ""))
    except KeyFormatError as error:
        raise ComponentError(f"failed to parse key {name}: {error}") from error


def _inside(folder: str, name: str) -> str:
    """Return the path of a key; raises `ComponentError` for one outside, by its name or by a link."""
    if not name.strip("/") or ".." in name or "\0" in name:
        raise ComponentError("invalid key path: cannot contain '..' and cannot be empty")
    root = os.path.realpath(folder)
    path = os.path.realpath(os.path.join(root, name.lstrip("/")))
    if os.path.commonpath((root, path)) != root:
        raise ComponentError("invalid key path: it leads out of the folder")
    return path


def _contents(path: str, name: str) -> bytes:
    try:
        # What is no plain file could keep us waiting for ever.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb") as file:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode) or state.st_size > MOST_BYTES:
                raise ComponentError(f"the key {name} is not a file of at most {MOST_BYTES} bytes")
            return file.read(MOST_BYTES)
    except FileNotFoundError as error:
        raise ComponentError(f"key {name} not found") from error
    except OSError as error:
        raise ComponentError(f"the key {name} cannot be read: {error.strerror}") from error
