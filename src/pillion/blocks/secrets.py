"""Secrets: one or all of a store's, within the application's scope (spec `http-api.md` 4.4, `runtime.md` 3.7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pillion.api.operation import Http, Operation, Rpc
from pillion.api.render import JSON
from pillion.errors import ApiError, Code, ComponentError, Fault
from pillion.net.exchange import Response
from pillion.observe.meters import untimed
from pillion.wire import gojson
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.message import Message

    from pillion.api.call import HttpCall, RpcCall
    from pillion.kinds.secrets import SecretStore
    from pillion.observe.meters import Timed

NOT_CONFIGURED = Fault(
    "ERR_SECRET_STORES_NOT_CONFIGURED", 500, Code.FAILED_PRECONDITION, "secret store is not configured",
    category="secret",
)  # fmt: skip
NOT_FOUND = Fault(
    "ERR_SECRET_STORE_NOT_FOUND", 401, Code.INVALID_ARGUMENT, "failed finding secret store with key {store}",
    category="secret",
)  # fmt: skip
DENIED = Fault(
    "ERR_PERMISSION_DENIED", 403, Code.PERMISSION_DENIED, 'access denied by policy to get "{key}" from "{store}"',
    category="secret",
)  # fmt: skip
GET = Fault(
    "ERR_SECRET_GET", 500, Code.INTERNAL, "failed getting secret with key {key} from secret store {store}: {error}",
    category="secret",
)  # fmt: skip
BULK_GET = Fault(
    "ERR_SECRET_GET", 500, Code.INTERNAL, "failed getting secrets from secret store {store}: {error}", category="secret"
)


class Scopes(Protocol):
    """Which secrets of which stores the application may read."""

    def allows(self, store: str, key: str) -> bool: ...


class Store(Protocol):
    """A loaded secret store."""

    @property
    def component(self) -> SecretStore: ...


class SecretsBlock:
    """The handlers; `stores` is the live registry."""

    def __init__(self, stores: Mapping[str, Store], scopes: Scopes, *, timed: Timed = untimed) -> None:
        self._stores = stores
        self._scopes = scopes
        self._timed = timed

    def operations(self) -> list[Operation]:
        """The rows of this block; `bulk` is a static segment and so wins over a secret of that name."""
        store = "v1.0/secrets/{store}"
        return [
            Operation(
                "GetSecret", "secrets", http=(Http(("GET",), store + "/{key}", self.get),),
                rpc=Rpc(("GetSecret",), m.GetSecretRequest, self.rpc_get),
            ),
            Operation(
                "GetBulkSecret", "secrets", http=(Http(("GET",), store + "/bulk", self.bulk_get),),
                rpc=Rpc(("GetBulkSecret",), m.GetBulkSecretRequest, self.rpc_bulk_get),
            ),
        ]  # fmt: skip

    def _find(self, name: str) -> Store:
        store = self._stores.get(name)
        if store is None:
            raise ApiError(NOT_FOUND, store=name) if self._stores else ApiError(NOT_CONFIGURED)
        return store

    async def _get(self, name: str, key: str, metadata: Mapping[str, str]) -> dict[str, str]:
        store = self._find(name)
        if not self._scopes.allows(name, key):
            raise ApiError(DENIED, key=key, store=name)
        try:
            return await self._timed("get", name, store.component.get(key, metadata))
        except ComponentError as error:
            raise ApiError(GET, key=key, store=name, error=error) from error

    async def _bulk_get(self, name: str, metadata: Mapping[str, str]) -> dict[str, dict[str, str]]:
        store = self._find(name)
        try:
            found = await self._timed("bulk_get", name, store.component.bulk_get(metadata))
        except ComponentError as error:
            raise ApiError(BULK_GET, store=name, error=error) from error
        return {key: value for key, value in found.items() if self._scopes.allows(name, key)}

    async def get(self, call: HttpCall) -> Response:
        name, key = call.params
        found = await self._get(name, key, call.metadata())
        return Response(200, [JSON], gojson.dumps(found) + b"\n")

    async def bulk_get(self, call: HttpCall) -> Response:
        found = await self._bulk_get(call.params[0], call.metadata())
        return Response(200, [JSON], gojson.dumps(found) + b"\n")

    async def rpc_get(self, call: RpcCall, request: m.GetSecretRequest) -> Message:
        return m.GetSecretResponse(data=await self._get(request.store_name, request.key, dict(request.metadata)))

    async def rpc_bulk_get(self, call: RpcCall, request: m.GetBulkSecretRequest) -> Message:
        reply = m.GetBulkSecretResponse()
        for key, secrets in (await self._bulk_get(request.store_name, dict(request.metadata))).items():
            reply.data[key].secrets.update(secrets)
        return reply
