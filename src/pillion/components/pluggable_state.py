"""State stores that are other processes: `StateStore` and its companions of components.v1.

Knows: which details make an error one of etags. The API has no counterpart of our queries over one application's
keys, of key lists and of deletes by prefix: those features are not taken over, whatever the component declares.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from pillion.components.pluggable import Message, Plug, PluggableSettings
from pillion.errors import Code, ComponentError, EtagInvalid, EtagMismatch
from pillion.kinds.state import Delete, Feature, Found, Get, Operation, Set, check_options, escaped, ttl_of
from pillion.net.exchange import RpcError
from pillion.wire.messages import components as m
from pillion.wire.messages import rpc

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillion.kinds.component import Context

log = logging.getLogger("pillion.components.pluggable")
SERVICE, TRANSACTIONS, SIZES = "StateStore", "TransactionalStateStore", "TransactionalStoreMultiMaxSize"
TAKEN = frozenset({Feature.ETAG, Feature.TRANSACTIONAL, Feature.TTL, Feature.PARTITION_KEY})
AT_ONCE = 10
"""Single reads at the same time, for a component without bulk reads."""
_CONCURRENCY = {"": 0, "first-write": 1, "last-write": 2}
_CONSISTENCY = {"": 0, "eventual": 1, "strong": 2}


class PluggableState:
    """A state store behind a socket. A store without the feature ETAG cannot tell an empty value from none."""

    Settings = PluggableSettings
    features: frozenset[Feature] = frozenset()
    max_operations = 0

    def __init__(self, settings: PluggableSettings, context: Context) -> None:
        self._plug = Plug(settings, context, [(SERVICE, m.InitRequest)])
        self._has_bulk = True

    async def open(self) -> None:
        declared = await self._plug.features(SERVICE)
        self.features = frozenset(feature for feature in TAKEN if feature.value in declared)
        if Feature.TRANSACTIONAL in self.features:
            self.max_operations = await self._most_operations()

    async def _most_operations(self) -> int:
        try:
            answer = await self._plug.call(SIZES, "MultiMaxSize", m.MultiMaxSizeRequest(), m.MultiMaxSizeResponse)
        except RpcError as error:
            if error.code == Code.UNIMPLEMENTED:  # the service is a companion that need not be there
                return 0
            raise self._plug.failure(error) from error
        return max(answer.max_size, 0)

    async def ping(self) -> None:
        await self._plug.ping(SERVICE)

    async def close(self) -> None:
        await self._plug.close()

    async def get(self, request: Get) -> Found:
        answer = await self._plug.ask(SERVICE, "Get", _get(request), m.GetResponse)
        return _found(request.key, answer)

    async def bulk_get(self, requests: Sequence[Get]) -> list[Found]:
        if not requests:
            return []
        if self._has_bulk:
            try:
                whole = m.BulkGetRequest(items=[_get(one) for one in requests])
                answer = await self._plug.call(SERVICE, "BulkGet", whole, m.BulkGetResponse)
            except RpcError as error:
                if error.code != Code.UNIMPLEMENTED:
                    raise self._plug.failure(error) from error
                self._has_bulk = False
            else:
                found = {item.key: _found(item.key, item) for item in answer.items}
                return [found.get(one.key) or Found(one.key) for one in requests]
        turns = asyncio.Semaphore(AT_ONCE)

        async def one_by_one(request: Get) -> Found:
            async with turns:
                try:
                    return await self.get(request)
                except ComponentError as error:
                    return Found(request.key, error=str(error))

        return await asyncio.gather(*map(one_by_one, requests))

    async def set(self, request: Set) -> None:
        await self._write(SERVICE, "Set", _set(request), m.SetResponse())

    async def delete(self, request: Delete) -> None:
        await self._write(SERVICE, "Delete", _delete(request), m.DeleteResponse())

    async def transact(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> None:
        if not operations:
            return
        rows = [
            m.TransactionalStateOperation(delete=_delete(one))
            if isinstance(one, Delete)
            else m.TransactionalStateOperation(set=_set(one))
            for one in operations
        ]
        request = m.TransactionalStateRequest(operations=rows, metadata=metadata)
        await self._write(TRANSACTIONS, "Transact", request, m.TransactionalStateResponse())

    async def _write(self, service: str, method: str, request: Message, answer: Message) -> None:
        try:
            await self._plug.call(service, method, request, type(answer))
        except RpcError as error:
            raise etag_error(error) or self._plug.failure(error) from error

    def __repr__(self) -> str:
        return f"<PluggableState: {self._plug!r}>"


def etag_error(error: RpcError) -> ComponentError | None:
    """Return what FAILED_PRECONDITION or INVALID_ARGUMENT mean when their details blame the etag and nothing else."""
    kinds: dict[int, type[ComponentError]] = {
        Code.FAILED_PRECONDITION: EtagMismatch,
        Code.INVALID_ARGUMENT: EtagInvalid,
    }
    kind = kinds.get(error.code)
    if kind is None or not error.details:
        return None
    status, bad = rpc.Status(), rpc.BadRequest()
    try:
        status.ParseFromString(error.details)
        blamed = [
            violation
            for detail in status.details
            if detail.Unpack(bad)
            for violation in bad.field_violations
        ]  # fmt: skip
    except DecodeError:
        log.warning("the details of a status cannot be read: %s", error)
        return None
    if len(blamed) != 1 or blamed[0].field != "etag":
        return None
    return kind(blamed[0].description or error.message)


def _found(key: str, answer: m.GetResponse | m.BulkStateItem) -> Found:
    """No data and no etag: no such key."""
    error = answer.error if isinstance(answer, m.BulkStateItem) else ""
    etag = answer.etag.value or None
    if error or (not answer.data and etag is None):
        return Found(key, error=error)
    return Found(key, answer.data, etag, dict(answer.metadata))


def _get(request: Get) -> m.GetRequest:
    check_options("", request.consistency)
    return m.GetRequest(key=request.key, consistency=_CONSISTENCY[request.consistency], metadata=request.metadata)


def _options(request: Operation) -> m.StateOptions:
    check_options(request.concurrency, request.consistency)
    return m.StateOptions(
        concurrency=_CONCURRENCY[request.concurrency], consistency=_CONSISTENCY[request.consistency]
    )  # fmt: skip


def _etag(etag: str | None) -> m.Etag | None:
    return m.Etag(value=etag) if etag else None


def _set(request: Set) -> m.SetRequest:
    options = _options(request)
    ttl_of(request.metadata)  # refused here, whether the component looks or not
    return m.SetRequest(
        key=request.key,
        value=escaped(request.value) if request.is_json else request.value,
        etag=_etag(request.etag),
        metadata=request.metadata,
        options=options,
        content_type=request.content_type,
    )


def _delete(request: Delete) -> m.DeleteRequest:
    options = _options(request)
    return m.DeleteRequest(key=request.key, etag=_etag(request.etag), metadata=request.metadata, options=options)
