"""Distributed locks: try to take one, give it back (spec `http-api.md` 4.4, `grpc-api.md` 3).

Knows: the order of checks, how a resource becomes a key. Never knows: who keeps the locks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

import orjson
from google.protobuf import json_format

from pillion.api.operation import Http, Operation, Rpc
from pillion.api.render import JSON
from pillion.errors import ApiError, Code, ComponentError, Fault
from pillion.kinds.keys import SEPARATOR
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Response
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from pillion.api.call import HttpCall, RpcCall
    from pillion.kinds.keys import KeyPrefix
    from pillion.kinds.lock import LockStore

R = TypeVar("R", m.TryLockRequest, m.UnlockRequest)


def _refused(text: str) -> Fault:
    return Fault("ERR_MALFORMED_REQUEST", 400, Code.INVALID_ARGUMENT, text, category="lock")


MALFORMED = _refused("failed deserializing HTTP body: {error}")
NO_EXPIRY = _refused("ExpiryInSeconds is not positive in lock store {store}")
NO_RESOURCE = _refused("ResourceId is empty in lock store {store}")
NO_OWNER = _refused("LockOwner is empty in lock store {store}")
NOT_CONFIGURED = Fault(
    "ERR_LOCK_STORE_NOT_CONFIGURED", 500, Code.FAILED_PRECONDITION, "lock store is not configured", category="lock"
)
NOT_FOUND = Fault(
    "ERR_LOCK_STORE_NOT_FOUND", 400, Code.INVALID_ARGUMENT, "lock store {store} not found", category="lock"
)
TRY_LOCK = Fault("ERR_TRY_LOCK", 500, Code.INTERNAL, "failed to try acquiring lock: {error}", category="lock")
UNLOCK = Fault("ERR_UNLOCK", 500, Code.INTERNAL, "failed to release lock: {error}", category="lock")


class Store(Protocol):
    """A loaded lock store, and how its keys are written."""

    @property
    def component(self) -> LockStore: ...

    @property
    def prefix(self) -> KeyPrefix: ...


class LockBlock:
    """The handlers; `stores` is the live registry."""

    def __init__(self, stores: Mapping[str, Store]) -> None:
        self._stores = stores

    def operations(self) -> list[Operation]:
        """The rows of this block."""
        version = "v1alpha1"
        return [
            Operation(
                "TryLockAlpha1", "lock", version,
                http=(Http(("POST",), "v1.0-alpha1/lock/{store}", self.try_lock),),
                rpc=Rpc(("TryLockAlpha1",), m.TryLockRequest, self.rpc_try_lock),
            ),
            Operation(
                "UnlockAlpha1", "unlock", version,
                http=(Http(("POST",), "v1.0-alpha1/unlock/{store}", self.unlock),),
                rpc=Rpc(("UnlockAlpha1",), m.UnlockRequest, self.rpc_unlock),
            ),
        ]  # fmt: skip

    def _find(self, request: m.TryLockRequest | m.UnlockRequest) -> Store:
        """Make the checks that both requests share, in their order."""
        name = request.store_name
        if not self._stores:
            raise ApiError(NOT_CONFIGURED)
        if not request.resource_id:
            raise ApiError(NO_RESOURCE, store=name)
        if not request.lock_owner:
            raise ApiError(NO_OWNER, store=name)
        store = self._stores.get(name)
        if store is None:
            raise ApiError(NOT_FOUND, store=name)
        return store

    async def rpc_try_lock(self, call: RpcCall, request: m.TryLockRequest) -> Message:
        return m.TryLockResponse(success=await self._try_lock(request))

    async def rpc_unlock(self, call: RpcCall, request: m.UnlockRequest) -> Message:
        return m.UnlockResponse(status=await self._unlock(request))

    async def try_lock(self, call: HttpCall) -> Response:
        taken = await self._try_lock(_read(call, m.TryLockRequest()))
        return Response(200, [JSON], b'{"success":true}' if taken else b'{"success":false}')

    async def unlock(self, call: HttpCall) -> Response:
        return Response(200, [JSON], b'{"status":%d}' % await self._unlock(_read(call, m.UnlockRequest())))

    async def _try_lock(self, request: m.TryLockRequest) -> bool:
        if request.expiry_in_seconds <= 0:
            raise ApiError(NO_EXPIRY, store=request.store_name)
        store = self._find(request)
        try:
            key = _key(store, request.resource_id)
            return await store.component.try_lock(key, request.lock_owner, request.expiry_in_seconds)
        except ComponentError as error:
            raise ApiError(TRY_LOCK, error=error) from error

    async def _unlock(self, request: m.UnlockRequest) -> int:
        store = self._find(request)
        try:
            return await store.component.unlock(_key(store, request.resource_id), request.lock_owner)
        except ComponentError as error:
            raise ApiError(UNLOCK, error=error) from error


def _key(store: Store, resource: str) -> str:
    if SEPARATOR in resource:
        raise ComponentError(f"input key/keyPrefix '{resource}' can't contain '{SEPARATOR}'")
    return store.prefix.apply(resource)


def _read(call: HttpCall, request: R) -> R:
    """Fill a message from the body; the store is the one of the path."""
    try:
        if body := call.body():
            document = orjson.loads(body)
            if not isinstance(document, dict):
                raise ValueError("the body is not a JSON object")
            json_format.ParseDict(document, request, ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, BodyTooLarge, BodyIncomplete) as error:
        raise ApiError(MALFORMED, error=error) from error
    request.store_name = call.params[0]
    return request
