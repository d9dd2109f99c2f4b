"""`secretstores.local.file` and `secretstores.local.env`: secrets from a JSON file and from the environment
(spec `components.md` 5).

Knows: how nested JSON becomes flat names, and which variables are nobody's business. Never logs a value.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import setting
from pillion.kinds.secrets import Feature

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pillion.kinds.component import Context

log = logging.getLogger("pillion.components.local_secrets")


class FileSecrets:
    """A JSON file, read once when the component opens."""

    @dataclass(frozen=True)
    class Settings:
        secrets_file: str = setting(help="path of the JSON file, relative to the working directory of the sidecar")
        nested_separator: str = setting(":", help="what joins the names of nested values")
        multi_valued: bool = setting(False, help="each top-level object is one secret with several keys")

    def __init__(self, settings: Settings, context: Context) -> None:
        self._settings = settings
        self._secrets: dict[str, dict[str, str]] = {}
        self.features = frozenset({Feature.MULTIPLE_KEY_VALUES_PER_SECRET} if settings.multi_valued else ())

    async def open(self) -> None:
        path = self._settings.secrets_file
        try:
            text = await asyncio.to_thread(Path(path).read_bytes)
        except OSError as error:
            raise ConfigError(
                f"the secrets file cannot be read: {error.strerror}", where=path, mend="check secretsFile"
            ) from error
        self._secrets = secrets_of(
            text, separator=self._settings.nested_separator, multi_valued=self._settings.multi_valued, where=path
        )

    async def ping(self) -> None:
        """The file was read at the start; nothing is asked of it later."""

    async def close(self) -> None:
        self._secrets = {}

    async def get(self, name: str, metadata: Mapping[str, str]) -> dict[str, str]:
        try:
            return dict(self._secrets[name])
        except KeyError:
            raise ComponentError(f"secret {name} not found") from None

    async def bulk_get(self, metadata: Mapping[str, str]) -> dict[str, dict[str, str]]:
        return {name: dict(values) for name, values in self._secrets.items()}

    def __repr__(self) -> str:
        return f"<FileSecrets {self._settings.secrets_file}: {len(self._secrets)} secrets>"


def secrets_of(text: bytes, *, separator: str, multi_valued: bool, where: str) -> dict[str, dict[str, str]]:
    """Return every secret of a JSON document as name -> key -> value.

    Flat: every leaf is a secret, named by its path. Multi-valued: a top-level string is a secret with itself as its
    key, a top-level object a secret whose leaves are its keys, anything else is left out, as the reference does.
    Numbers keep the spelling they have in the file, null is empty. Raises `ConfigError` with file, line and column.
    """
    document = _parse(text, where)
    if not multi_valued:
        flat = _flatten(document, separator, where)
        return {name: {name: value} for name, value in flat.items()}
    secrets: dict[str, dict[str, str]] = {}
    for name, value in document.items():
        if type(value) is str:
            secrets[name] = {name: value}
        elif isinstance(value, dict):
            secrets[name] = _flatten(value, separator, where)
        else:
            log.warning("%s: %s is neither text nor an object and is left out", where, name)
    return secrets


class _Number(str):
    """A JSON number in its own spelling, told from text."""

    __slots__ = ()


def _parse(text: bytes, where: str) -> dict[str, Any]:
    try:
        document = json.loads(text.decode("utf-8-sig"), parse_int=_Number, parse_float=_Number, parse_constant=_refuse)
    except json.JSONDecodeError as error:
        raise ConfigError(
            f"not JSON: {error.msg}", where=f"{where}, line {error.lineno} column {error.colno}"
        ) from error
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise ConfigError("not UTF-8 text", where=f"{where}, line {line}", mend="save the file as UTF-8") from error
    except ValueError as error:
        raise ConfigError(f"not JSON: {error}", where=where) from error
    except RecursionError as error:
        raise ConfigError("nested too deeply", where=where) from error
    if not isinstance(document, dict):
        raise ConfigError("the document is not a JSON object", where=f"{where}, line 1", mend='write {"name": "value"}')
    return document


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a JSON value")


def _flatten(document: dict[str, Any], separator: str, where: str) -> dict[str, str]:
    flat: dict[str, str] = {}
    for path, value in _leaves(document):
        name = separator.join(path)
        if name in flat:
            raise ConfigError(
                f"two values are called {name!r}", where=where, mend="rename one of them or change nestedSeparator"
            )
        flat[name] = value
    return flat


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, (*path, name))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _leaves(inner, (*path, str(index)))
    elif value is None:
        yield path, ""
    elif isinstance(value, bool):
        yield path, "true" if value else "false"
    else:
        yield path, str(value)


class EnvironmentSecrets:
    """The sidecar's own environment variables."""

    features: frozenset[Feature] = frozenset()

    @dataclass(frozen=True)
    class Settings:
        prefix: str = setting("", help="put before every name that is asked for; bulk answers leave it out")

    def __init__(self, settings: Settings, context: Context) -> None:
        self._prefix = settings.prefix

    async def open(self) -> None:
        """The environment is there already."""

    async def ping(self) -> None:
        """The environment always answers."""

    async def close(self) -> None:
        """Nothing is held."""

    async def get(self, name: str, metadata: Mapping[str, str]) -> dict[str, str]:
        """Return the variable's value, empty when it is not set, as the reference does."""
        variable = self._prefix + name
        if _forbidden(variable):
            log.warning("the environment variable %s belongs to the sidecar and is not given out", variable)
            return {name: ""}
        return {name: os.environ.get(variable, "")}

    async def bulk_get(self, metadata: Mapping[str, str]) -> dict[str, dict[str, str]]:
        cut = len(self._prefix)
        return {
            name[cut:]: {name[cut:]: value}
            for name, value in os.environ.items()
            if name.startswith(self._prefix) and not _forbidden(name)
        }

    def __repr__(self) -> str:
        return f"<EnvironmentSecrets {self._prefix}*>"


def _forbidden(variable: str) -> bool:
    """The application's token and everything of the runtime stay inside, whatever the case of the letters."""
    upper = variable.upper()
    return upper == "APP_API_TOKEN" or upper.startswith("DAPR_")
