"""A state store whose values are sealed on their way in and opened on their way out.

The same interface as the store behind it, except that it cannot be queried: the store sees ciphertext. Keys, ETags and
times to live are not encrypted. Knows: `kinds.state`. Never knows: which cipher (`sealing.py`), or which store.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from pillion.errors import ComponentError
from pillion.kinds.state import Feature, Found, Get, Set
from pillion.wire.gojson import escaped

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillion.kinds.state import Delete, Operation

NONCE = 12
PASSED_ON = ("max_operations", "keys_like", "delete_with_prefix")


class Sealing(Protocol):
    """What turns values into their stored form and back; `open` raises `ComponentError`."""

    def seal(self, value: bytes, nonce: bytes) -> bytes: ...

    def open(self, stored: bytes) -> bytes: ...


class SealedState:
    """The store behind it, as an application sees it. Has `bulk_get`, `transact` and so on exactly where that has."""

    def __init__(self, name: str, store: Any, sealing: Sealing) -> None:
        self._name, self._store, self._sealing = name, store, sealing
        self.features: frozenset[Feature] = store.features - {Feature.QUERY_API}
        # Protocols checked at run time look for attributes that are there, not for ones that would be found.
        for method in PASSED_ON:
            if hasattr(store, method):
                setattr(self, method, getattr(store, method))
        if hasattr(store, "bulk_get"):
            self.bulk_get = self._bulk_get
        if hasattr(store, "transact"):
            self.transact = self._transact

    async def open(self) -> None:
        await self._store.open()

    async def ping(self) -> None:
        await self._store.ping()

    async def close(self) -> None:
        await self._store.close()

    async def get(self, request: Get) -> Found:
        found: Found = await self._store.get(_plain(request))
        if found.value is None:
            return found
        return replace(found, value=self._opened(found.value))

    async def set(self, request: Set) -> None:
        await self._store.set(self._sealed(request))

    async def delete(self, request: Delete) -> None:
        await self._store.delete(request)

    async def _bulk_get(self, requests: Sequence[Get]) -> list[Found]:
        return [self._found(found) for found in await self._store.bulk_get([_plain(one) for one in requests])]

    async def _transact(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> None:
        sealed = [self._sealed(one) if isinstance(one, Set) else one for one in operations]
        await self._store.transact(sealed, _untyped(metadata))

    def _sealed(self, request: Set) -> Set:
        # What is stored is no JSON any more, whatever the request said of it: bytes, as the reference has them.
        value = escaped(request.value) if request.is_json else request.value
        return replace(
            request,
            value=self._sealing.seal(value, os.urandom(NONCE)),
            is_json=False,
            content_type="",
            metadata=_untyped(request.metadata),
        )

    def _opened(self, stored: bytes) -> bytes:
        try:
            return self._sealing.open(stored)
        except ComponentError as error:
            raise ComponentError(f"could not decrypt data for state store {self._name}: {error}") from error

    def _found(self, found: Found) -> Found:
        if found.value is None:
            return found
        try:
            return replace(found, value=self._opened(found.value))
        except ComponentError as error:
            return Found(found.key, error=str(error))

    def __repr__(self) -> str:
        return f"<SealedState {self._store!r}>"


def _plain(request: Get) -> Get:
    return replace(request, metadata=_untyped(request.metadata)) if request.metadata else request


def _untyped(metadata: Mapping[str, str]) -> Mapping[str, str]:
    """Leave out a content type: some stores keep JSON in another way."""
    if not any(key.lower() == "contenttype" for key in metadata):
        return metadata
    return {key: value for key, value in metadata.items() if key.lower() != "contenttype"}
