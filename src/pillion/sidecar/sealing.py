"""Which keys a state store's values are encrypted with: the reading of its metadata (spec `runtime.md` 7.2).

Whoever writes `primaryEncryptionKey` wants no plain text in the store. Whatever keeps us from having the key is
therefore an error of initialisation, never a store without encryption.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pillion.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.kinds.resources import ComponentResource, Item
    from pillion.security.sealing import Key, Sealing

log = logging.getLogger("pillion.sidecar.components")
PRIMARY, SECONDARY = "primaryEncryptionKey", "secondaryEncryptionKey"


def sealing_of(resource: ComponentResource, metadata: dict[str, str], *, refers: bool) -> Sealing | None:
    """Return what seals the values of a store, None when its resource asks for none; raises `ConfigError`.

    `metadata` is resolved; the keys are taken out of it. `refers`: the resource names a secret store.
    """
    items = _items(resource)
    primary, secondary = items.get(PRIMARY), items.get(SECONDARY)
    values = {name: metadata.pop(name, "") for name in items}
    if primary is None:
        if secondary is not None:
            log.warning("%s: %s without %s: values are NOT encrypted", resource.label, SECONDARY, PRIMARY)
        return None
    if primary.secret and secondary and secondary.secret and primary.secret.name == secondary.secret.name:
        raise ConfigError(
            f"{PRIMARY} and {SECONDARY} are both in the secret {primary.secret.name!r}: values could not tell which one"
            " they were encrypted with",
            where=resource.where,
            mend="keep them in secrets of different names",
        )
    try:
        from pillion.security.sealing import Sealing
    except ImportError as error:
        raise MissingExtra(f"encryption of {resource.label}", "crypto") from error
    return Sealing(
        _key(resource, primary, values, refers=refers),
        None if secondary is None else _key(resource, secondary, values, refers=refers),
    )


def _items(resource: ComponentResource) -> dict[str, Item]:
    """Return the items of the two names. One that differs in case alone is an error: it would be ignored."""
    found: dict[str, Item] = {}
    for item in resource.metadata:
        for name in (PRIMARY, SECONDARY):
            if item.name.lower() == name.lower():
                if item.name != name:
                    raise ConfigError(f"{item.name!r} is not a name", where=resource.where, mend=f"write {name}")
                found[name] = item
    return found


def _key(resource: ComponentResource, item: Item, values: Mapping[str, str], *, refers: bool) -> Key:
    from pillion.security.sealing import Key

    secret = item.secret
    if secret is None or not refers:
        raise ConfigError(
            f"failed to extract encryption key: {item.name} must come from a secret store",
            where=resource.where,
            mend="give it as secretKeyRef and name the store in auth.secretStore",
        )
    value = values[item.name]
    if not value:
        what = f"failed to extract encryption key: the secret {secret.name!r} has no {secret.key or secret.name!r}"
        raise ConfigError(what, where=resource.where)
    try:
        return Key.from_hex(secret.name, value)
    except ValueError as error:
        raise ConfigError(f"{item.name}: {error}", where=resource.where) from error
