"""From the items of a resource to plain metadata: variables, secrets, quotes, templates (spec `runtime.md` 2.3).

Knows: the order of resolution and what leaves a value as it was. Never knows: which component asks. Values are never
logged.
"""

from __future__ import annotations

import logging
import re
import uuid
from typing import TYPE_CHECKING, Protocol

from pillion.errors import ComponentError, ConfigError
from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillion.kinds.resources import Item
    from pillion.sidecar.environment import Environment

log = logging.getLogger("pillion.sidecar.components")


class Secrets(Protocol):
    """The one question that is asked of a secret store."""

    async def get(self, name: str, metadata: Mapping[str, str]) -> dict[str, str]: ...


@record
class Resolver:
    """Resolves the items of resources for one application."""

    app_id: str
    environment: Environment

    async def resolve(
        self, items: Sequence[Item], *, store: Secrets | None, namespace: str = "", owner: str = ""
    ) -> dict[str, str]:
        """Return name to value. `store` answers `secretKeyRef`; None leaves those values as written.

        A variable that is forbidden or a secret that cannot be had is logged. Raises `ConfigError` for a template that
        cannot be filled.
        """
        fetched: dict[str, Mapping[str, str]] = {}
        resolved: dict[str, str] = {}
        for item in items:
            value = item.value or ""
            if item.variable and not value:
                value = unquoted(self._variable(item, owner))
            if item.secret is not None:
                if store is None:
                    log.warning("%s: %s has a secretKeyRef, but auth.secretStore names no store", owner, item.name)
                else:
                    name = item.secret.name
                    if name not in fetched:
                        fetched[name] = await _secret(store, name, namespace, owner)
                    secret = fetched[name].get(item.secret.key or name)
                    value = unquoted(secret) if secret else value
            resolved[item.name] = self.fill(value, owner)
        return resolved

    def fill(self, value: str, owner: str = "") -> str:
        """Fill the templates of a value. Raises `ConfigError` when POD_NAME is asked for and not set."""
        if "{" not in value:
            return value
        value = re.sub(r"\{uuid\}", lambda _: str(uuid.uuid4()), value)
        if "{podName}" in value:
            if not self.environment.pod_name:
                raise ConfigError("{podName} is used but POD_NAME is not set", where=owner, mend="set POD_NAME")
            value = value.replace("{podName}", self.environment.pod_name)
        value = value.replace("{namespace}", f"{self.environment.namespace}.{self.app_id}")
        return value.replace("{appID}", self.app_id)

    def _variable(self, item: Item, owner: str) -> str:
        value = self.environment.reference(item.variable)
        if value is None:
            log.warning("%s: %s: the variable %r is not for components; left empty", owner, item.name, item.variable)
        return value or ""


async def _secret(store: Secrets, name: str, namespace: str, owner: str) -> Mapping[str, str]:
    try:
        return await store.get(name, {"namespace": namespace})
    except ComponentError as error:
        log.error("%s: the secret %r cannot be read: %s", owner, name, error)
        return {}


_SIMPLE = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"'}
_ESCAPE = re.compile(r'\\(?:([abfnrtv\\"])|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-7]{3}))')
_QUOTED = re.compile(rf'"(?:[^"\\\n]|{_ESCAPE.pattern})*"')


def unquoted(text: str) -> str:
    """Return what a quoted literal stands for (pkg.go.dev/strconv#Unquote), and any other text unchanged."""
    if len(text) < 2 or text[0] != text[-1]:
        return text
    body = text[1:-1]
    if text[0] == "`":
        return text if "`" in body else body.replace("\r", "")
    if text[0] == "'":
        return body if len(body) == 1 and body not in "'\\\n" else text
    if _QUOTED.fullmatch(text) is None:
        return text
    try:
        return _ESCAPE.sub(_unescaped, body).encode("utf-8", "surrogateescape").decode()
    except (ValueError, OverflowError):
        return text


def _unescaped(match: re.Match[str]) -> str:
    simple, byte, short, long, octal = match.groups()
    if simple:
        return _SIMPLE[simple]
    if byte or octal:
        number = int(byte, 16) if byte else int(octal, 8)
        return bytes([number]).decode("utf-8", "surrogateescape")
    return chr(int(short or long, 16))
