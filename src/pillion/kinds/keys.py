"""How an application's key becomes the key in the store (spec `runtime.md` 7.1).

Knows: the strategies of `keyPrefix`. Never knows: stores. Other tools read these keys: the layout is exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.errors import ConfigError
from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Mapping

SEPARATOR = "||"


@record
class KeyPrefix:
    """What stands before a key, separator included; empty for none."""

    text: str = ""

    @classmethod
    def for_component(
        cls, metadata: Mapping[str, str], *, component: str, app_id: str, namespace: str = ""
    ) -> KeyPrefix:
        """Return the prefix that a state store's metadata asks for. `namespace` is the raw NAMESPACE.

        Raises `ConfigError` when the prefix holds the separator itself.
        """
        strategy = _strategy(metadata)
        match strategy:
            case "" | "appid":
                prefix = app_id
            case "name":
                prefix = component
            case "namespace":
                prefix = f"{namespace}.{app_id}" if namespace else app_id
            case "none":
                return cls()
            case _:
                prefix = strategy
        return cls(_whole(prefix, component) + SEPARATOR)

    @classmethod
    def for_lock(cls, metadata: Mapping[str, str], *, component: str, app_id: str) -> KeyPrefix:
        """Return the prefix of a lock store: `lock||` and the same strategies, where `namespace` is just a word."""
        strategy = _strategy(metadata)
        if strategy == "namespace":
            return cls(f"lock{SEPARATOR}namespace{SEPARATOR}")
        plain = cls.for_component(metadata, component=component, app_id=app_id)
        return cls(f"lock{SEPARATOR}{plain.text}")

    def apply(self, key: str) -> str:
        """Return the stored key. The caller has refused keys that hold `||`."""
        return self.text + key

    def strip(self, key: str) -> str:
        """Return the application's key: the second part of a stored one, or all of it when it has no prefix."""
        parts = key.split(SEPARATOR, 2)
        return parts[1] if len(parts) > 1 else key


def _strategy(metadata: Mapping[str, str]) -> str:
    return next((value.lower() for key, value in metadata.items() if key.lower() == "keyprefix"), "")


def _whole(prefix: str, component: str) -> str:
    if SEPARATOR in prefix:
        mend = f"write a keyPrefix without {SEPARATOR}"
        raise ConfigError(f"input key/keyPrefix '{prefix}' can't contain '{SEPARATOR}'", where=component, mend=mend)
    return prefix
