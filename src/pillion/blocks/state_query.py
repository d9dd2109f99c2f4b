"""Querying state, version alpha (spec `http-api.md` 4.2, `grpc-api.md` 3).

Knows: which stores may be asked, and how rows are answered. Never knows: the query language (`kinds/query.py`) or how a
store evaluates it. An application gets rows of its own only; the reference ignores `keyPrefix` here and shows all rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from pillion.api.operation import Http, Operation, Rpc
from pillion.api.render import JSON
from pillion.blocks import state_faults as faults
from pillion.errors import ApiError, ComponentError
from pillion.kinds.keys import SEPARATOR
from pillion.kinds.state import Feature, Query, QueryStore
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Response
from pillion.observe.meters import untimed
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pillion.api.call import HttpCall, RpcCall
    from pillion.blocks.state_stores import Store, Stores
    from pillion.kinds.state import QueryResult
    from pillion.observe.meters import Timed


class StateQuery:
    """The handlers of one operation."""

    def __init__(self, stores: Stores, *, timed: Timed = untimed) -> None:
        self._stores = stores
        self._timed = timed

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "QueryState", "state", "v1alpha1",
                http=(Http(("POST", "PUT"), "v1.0-alpha1/state/{store}/query", self.query),),
                rpc=Rpc(("QueryStateAlpha1",), m.QueryStateRequest, self.rpc_query),
            )
        ]  # fmt: skip

    async def query(self, call: HttpCall) -> Response:
        store = self._stores.find(call.params[0], http=True)
        try:
            document = call.body()
        except (BodyTooLarge, BodyIncomplete) as error:
            raise _failed(store, error) from error
        found = await self._run(store, document, call.metadata())
        if not found.items:
            return Response(204)
        rows: list[dict[str, object]] = []
        for item in found.items:
            row: dict[str, object] = {"key": store.prefix.strip(item.key)}
            if item.value is not None:
                row["data"] = as_json(item.value)
            if item.etag:
                row["etag"] = item.etag
            if item.error:
                row["error"] = item.error
            rows.append(row)
        answer: dict[str, object] = {"results": rows}
        if found.token:
            answer["token"] = found.token
        if found.metadata:
            answer["metadata"] = dict(found.metadata)
        return Response(200, [JSON], orjson.dumps(answer) + b"\n")

    async def rpc_query(self, call: RpcCall, request: m.QueryStateRequest) -> Message:
        store = self._stores.find(request.store_name, http=False)
        found = await self._run(store, request.query.encode(), dict(request.metadata))
        reply = m.QueryStateResponse(token=found.token, metadata=found.metadata)
        for item in found.items:
            key = store.prefix.strip(item.key)
            reply.results.add(key=key, data=item.value or b"", etag=item.etag or "", error=item.error)
        return reply

    async def _run(self, store: Store, document: bytes, metadata: dict[str, str]) -> QueryResult:
        if store.sealed:
            raise _failed(store, "the values of this store are encrypted and cannot be queried")
        component = store.component
        if Feature.QUERY_API not in component.features or not isinstance(component, QueryStore):
            raise ApiError(faults.QUERY_NOT_SUPPORTED, resource=store.name)
        prefix = store.prefix.text
        try:
            found = await self._timed("query", store.name, component.query(Query(document, metadata, prefix)))
        except ComponentError as error:
            raise _failed(store, error) from error
        # A component from elsewhere may not know about prefixes.
        head = len(prefix)
        found.items = [item for item in found.items if item.key.startswith(prefix) and SEPARATOR not in item.key[head:]]
        return found


def _failed(store: Store, error: object) -> ApiError:
    return ApiError(faults.QUERY, store=store.name, error=error, resource=store.name)


def as_json(value: bytes) -> object:
    """A stored value inside a JSON reply. Bytes that are no JSON (saved over gRPC) are given as a string."""
    try:
        orjson.loads(value)
    except orjson.JSONDecodeError:
        return value.decode("utf-8", "replace")
    return orjson.Fragment(value)
