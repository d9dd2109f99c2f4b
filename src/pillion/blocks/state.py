"""State: get, save, delete, bulk get and transactions over any store (spec `http-api.md` 4.2, `grpc-api.md` 3).

Knows: keys and their prefixes, how a request becomes an operation of a store and an answer a reply. Never knows: which
store, or how bytes travel. HTTP values are JSON documents that are re-encoded, gRPC values opaque bytes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from pillion.api.operation import Http, Operation, Rpc
from pillion.api.render import JSON
from pillion.blocks import state_faults as faults
from pillion.blocks.state_bodies import fields_of, kind_of, metadata_of, read_operation, read_set
from pillion.blocks.state_keys import StateKeys
from pillion.blocks.state_many import PARALLEL, each, gather
from pillion.blocks.state_query import StateQuery, as_json
from pillion.blocks.state_stores import Stores
from pillion.errors import ApiError, Code, ComponentError, EtagInvalid, EtagMismatch
from pillion.kinds.state import (
    BulkGetStore,
    Delete,
    Feature,
    Found,
    Get,
    Set,
    TransactionalStore,
)
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Response
from pillion.observe.meters import untimed
from pillion.wire import gojson
from pillion.wire.messages import runtime as m
from pillion.wire.messages import wellknown

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.message import Message

    from pillion.api.call import HttpCall, RpcCall
    from pillion.blocks.outbox import Outbox
    from pillion.blocks.state_stores import Store
    from pillion.observe.meters import Timed

CONCURRENCY = ("", "first-write", "last-write")
CONSISTENCY = ("", "eventual", "strong")
EMPTY = wellknown.Empty()


class StateBlock:
    """The handlers. `stores` is the live registry: components come and go while the sidecar runs."""

    def __init__(
        self, app_id: str, stores: Mapping[str, Store], *, timed: Timed = untimed, outbox: Outbox | None = None
    ) -> None:
        self._stores = Stores(app_id, stores)
        self._timed = timed
        self._outbox = outbox
        self._query = StateQuery(self._stores, timed=timed)
        self._keys = StateKeys(self._stores, timed=timed)

    def operations(self) -> list[Operation]:
        """The rows of this block."""
        write = ("POST", "PUT")
        store = "v1.0/state/{store}"
        return [
            Operation(
                "GetState", "state", http=(Http(("GET",), store + "/{key}", self.get),),
                rpc=Rpc(("GetState",), m.GetStateRequest, self.rpc_get),
            ),
            Operation(
                "SaveState", "state",
                http=(Http(write, store, self.save),), rpc=Rpc(("SaveState",), m.SaveStateRequest, self.rpc_save),
            ),
            Operation(
                "DeleteState", "state", http=(Http(("DELETE",), store + "/{key}", self.delete),),
                rpc=Rpc(("DeleteState",), m.DeleteStateRequest, self.rpc_delete),
            ),
            Operation(
                "GetBulkState", "state", http=(Http(write, store + "/bulk", self.bulk_get),),
                rpc=Rpc(("GetBulkState",), m.GetBulkStateRequest, self.rpc_bulk_get),
            ),
            Operation(
                "DeleteBulkState", "state",
                rpc=Rpc(("DeleteBulkState",), m.DeleteBulkStateRequest, self.rpc_bulk_delete),
            ),
            Operation(
                "ExecuteStateTransaction", "state", http=(Http(write, store + "/transaction", self.transact),),
                rpc=Rpc(("ExecuteStateTransaction",), m.ExecuteStateTransactionRequest, self.rpc_transact),
            ),
            *self._query.operations(),
            *self._keys.operations(),
        ]  # fmt: skip

    # -- what both protocols share

    async def _set(self, store: Store, requests: Sequence[Set]) -> None:
        component = store.component
        try:
            work = component.set(requests[0]) if len(requests) == 1 else each(component.set, requests)
            await self._timed("set", store.name, work)
        except ComponentError as error:
            raise _etag(faults.SAVE, error, store=store.name) from error

    async def _bulk_get(self, store: Store, requests: list[Get], parallelism: int) -> list[Found]:
        if isinstance(store.component, BulkGetStore):
            return await self._timed("bulk_get", store.name, store.component.bulk_get(requests))

        async def one(request: Get) -> Found:
            try:
                return await store.component.get(request)
            except ComponentError as error:
                return Found(request.key, error=str(error))

        work = gather(one, requests, parallelism if 0 < parallelism < PARALLEL else PARALLEL)
        return await self._timed("bulk_get", store.name, work)

    @staticmethod
    def _transactional(store: Store) -> TransactionalStore:
        component = store.component
        if Feature.TRANSACTIONAL not in component.features or not isinstance(component, TransactionalStore):
            raise ApiError(faults.TRANSACTIONS_NOT_SUPPORTED, store=store.name, resource=store.name)
        return component

    async def _transact(
        self, store: Store, operations: list[Set | Delete], metadata: dict[str, str], call: HttpCall | RpcCall
    ) -> None:
        component = self._transactional(store)
        limit = component.max_operations
        if 0 < limit < len(operations):
            counts = {"currentOpsTransaction": str(len(operations)), "maxOpsPerTransaction": str(limit)}
            raise ApiError(faults.TOO_MANY, count=len(operations), limit=limit, resource=store.name, metadata=counts)
        if self._outbox is None or self._outbox.settings(store.name) is None:
            await self._commit(component, store, operations, metadata)
            return
        async with self._outbox.around(store.name, operations, call) as writes:
            await self._commit(component, store, writes, metadata)

    async def _commit(
        self, component: TransactionalStore, store: Store, operations: Sequence[Set | Delete], metadata: dict[str, str]
    ) -> None:
        try:
            await self._timed("transaction", store.name, component.transact(operations, metadata))
        except ComponentError as error:
            raise ApiError(faults.TRANSACTION, error=error) from error

    # -- HTTP

    async def get(self, call: HttpCall) -> Response:
        name, key = call.params
        store = self._stores.find(name, http=True)
        stored = self._stores.key(store, key, http=True)
        request = Get(stored)
        if call.query_text:
            request.consistency, request.metadata = call.first("consistency"), call.metadata()
        try:
            found = await self._timed("get", store.name, store.component.get(request))
        except ComponentError as error:
            raise ApiError(faults.GET, key=key, store=name, error=error) from error
        if found.value is None:
            return Response(204)
        headers = [JSON]
        if found.etag:
            headers.append((b"etag", found.etag.encode()))
        if found.metadata:
            headers += [(b"metadata." + k.lower().encode(), v.encode()) for k, v in found.metadata.items()]
        return Response(200, headers, found.value)

    async def save(self, call: HttpCall) -> Response:
        store = self._stores.find(call.params[0], http=True)
        try:
            items = gojson.loads_spelled(call.body())
            if items is None:
                items = []
            if not isinstance(items, list):
                raise ValueError(f"json: cannot unmarshal {kind_of(items)} into Go value of type []state.SetRequest")
            shared = call.metadata()
            requests = [read_set(self._stores, store, item, shared) for item in items]
        except (ValueError, BodyTooLarge, BodyIncomplete) as error:
            raise ApiError(faults.MALFORMED, text=str(error)) from error
        if requests:
            await self._set(store, requests)
        return Response(204)

    async def delete(self, call: HttpCall) -> Response:
        name, key = call.params
        store = self._stores.find(name, http=True)
        request = Delete(
            self._stores.key(store, key, http=True), call.header(b"if-match") or None, call.first("concurrency"),
            call.first("consistency"), call.metadata(),
        )  # fmt: skip
        try:
            await self._timed("delete", store.name, store.component.delete(request))
        except ComponentError as error:
            raise _etag(faults.DELETE, error, key=key) from error
        return Response(204)

    async def bulk_get(self, call: HttpCall) -> Response:
        store = self._stores.find(call.params[0], http=True)
        try:
            fields = fields_of(gojson.loads(call.body()))
            keys = fields.get("keys") or []
            parallelism = fields.get("parallelism") or 0
            if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
                raise ValueError("keys must be a list of strings")
            if not isinstance(parallelism, int):
                raise ValueError("parallelism must be an integer")
            metadata = {**metadata_of(fields), **call.metadata()}
        except (ValueError, BodyTooLarge, BodyIncomplete) as error:
            raise ApiError(faults.MALFORMED, text=f"failed deserializing HTTP body: {error}") from error
        if not keys:
            return Response(200, [JSON], b"[]\n")
        requests = [Get(self._stores.key(store, key, http=True), metadata=metadata) for key in keys]
        try:
            found = await self._bulk_get(store, requests, parallelism)
        except ComponentError as error:
            raise ApiError(faults.BULK_GET, error=error) from error
        rows: list[dict[str, object]] = []
        for item in found:
            row: dict[str, object] = {"key": store.prefix.strip(item.key)}
            if item.value is not None:
                row["data"] = as_json(item.value)
            if item.etag:
                row["etag"] = item.etag
            if item.metadata:
                row["metadata"] = dict(item.metadata)
            if item.error:
                row["error"] = item.error
            rows.append(row)
        return Response(200, [JSON], orjson.dumps(rows) + b"\n")

    async def transact(self, call: HttpCall) -> Response:
        store = self._stores.find(call.params[0], http=True)
        self._transactional(store)
        try:
            fields = fields_of(gojson.loads_spelled(call.body()))
            rows = fields.get("operations") or []
            if not isinstance(rows, list):
                raise ValueError("operations must be a list")
            shared = call.metadata()
            operations = [read_operation(self._stores, store, row, shared) for row in rows]
            metadata = {**metadata_of(fields), **shared}
        except (ValueError, BodyTooLarge, BodyIncomplete) as error:
            raise ApiError(faults.MALFORMED, text=f"failed deserializing HTTP body: {error}") from error
        if operations:
            await self._transact(store, operations, metadata, call)
        return Response(204)

    # -- gRPC

    async def rpc_get(self, call: RpcCall, request: m.GetStateRequest) -> Message:
        store = self._stores.find(request.store_name, http=False)
        key = self._stores.key(store, request.key, http=False)
        try:
            wanted = Get(key, CONSISTENCY[request.consistency], dict(request.metadata))
            found = await self._timed("get", store.name, store.component.get(wanted))
        except ComponentError as error:
            raise ApiError(faults.GET, key=request.key, store=store.name, error=error) from error
        if found.value is None:
            return m.GetStateResponse()
        return m.GetStateResponse(data=found.value, etag=found.etag or "", metadata=found.metadata)

    async def rpc_bulk_get(self, call: RpcCall, request: m.GetBulkStateRequest) -> Message:
        store = self._stores.find(request.store_name, http=False)
        metadata = dict(request.metadata)
        requests = [Get(self._stores.key(store, key, http=False), metadata=metadata) for key in request.keys]
        reply = m.GetBulkStateResponse()
        if not requests:
            return reply
        for item in await self._bulk_get(store, requests, request.parallelism):
            reply.items.add(
                key=store.prefix.strip(item.key), data=item.value or b"", etag=item.etag or "", error=item.error,
                metadata=item.metadata,
            )  # fmt: skip
        return reply

    async def rpc_save(self, call: RpcCall, request: m.SaveStateRequest) -> Message:
        store = self._stores.find(request.store_name, http=False)
        if not request.states:
            return EMPTY
        await self._set(store, [self._rpc_set(store, item) for item in request.states])
        return EMPTY

    def _rpc_set(self, store: Store, item: Any, *, may_be_empty: bool = False) -> Set:
        if not item.key and not may_be_empty:
            raise ApiError(faults.EMPTY_KEY)
        metadata = dict(item.metadata)
        value, is_json = item.value, False
        if metadata.get("contentType") == "application/json":
            value, is_json = gojson.canonical(value), True
        options = item.options
        return Set(
            self._stores.key(store, item.key, http=False), value, item.etag.value if item.HasField("etag") else None,
            CONCURRENCY[options.concurrency], CONSISTENCY[options.consistency], metadata,
            metadata.get("contentType", ""), is_json,
        )  # fmt: skip

    def _rpc_deletion(self, store: Store, item: Any) -> Delete:
        options = item.options
        return Delete(
            self._stores.key(store, item.key, http=False), item.etag.value if item.HasField("etag") else None,
            CONCURRENCY[options.concurrency], CONSISTENCY[options.consistency], dict(item.metadata),
        )  # fmt: skip

    async def rpc_delete(self, call: RpcCall, request: m.DeleteStateRequest) -> Message:
        store = self._stores.find(request.store_name, http=False)
        try:
            deletion = self._rpc_deletion(store, request)
            await self._timed("delete", store.name, store.component.delete(deletion))
        except ComponentError as error:
            raise _etag(faults.DELETE, error, key=request.key) from error
        return EMPTY

    async def rpc_bulk_delete(self, call: RpcCall, request: m.DeleteBulkStateRequest) -> Message:
        store = self._stores.find(request.store_name, http=False)
        deletions = [self._rpc_deletion(store, item) for item in request.states]
        try:
            await self._timed("bulk_delete", store.name, each(store.component.delete, deletions))
        except ComponentError as error:
            raise _etag(faults.BULK_DELETE, error, store=store.name) from error
        return EMPTY

    async def rpc_transact(self, call: RpcCall, request: m.ExecuteStateTransactionRequest) -> Message:
        store = self._stores.find(request.storeName, http=False)
        self._transactional(store)
        operations: list[Set | Delete] = []
        for row in request.operations:
            if row.operationType == "upsert":
                operations.append(self._rpc_set(store, row.request, may_be_empty=True))
            elif row.operationType == "delete":
                operations.append(self._rpc_deletion(store, row.request))
            else:
                raise ApiError(faults.UNKNOWN_OPERATION, operation=row.operationType)
        if operations:
            await self._transact(store, operations, dict(request.metadata), call)
        return EMPTY


def _etag(fault: Any, error: ComponentError, **values: Any) -> ApiError:
    """The statuses of ETag conflicts override those of the row (spec `http-api.md` 3.2)."""
    if isinstance(error, EtagMismatch):
        fault = replace(fault, http_status=409, grpc_status=Code.ABORTED)
    elif isinstance(error, EtagInvalid):
        fault = replace(fault, http_status=400, grpc_status=Code.INVALID_ARGUMENT)
    return ApiError(fault, error=error, **values)
