"""A process that serves every service of components.v1 on unix sockets, with the official gRPC server and reflection.

Run as `python pluggable_process.py FOLDER DATA SOCKET...`; prints a line when all sockets listen. What it keeps: state
in memory, messages in DATA, secrets fixed. It refuses whoever has not called `Init` in this process.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection

from pillion.components.memory import MemoryState
from pillion.components.sqlite_broker import SqlitePubSub
from pillion.errors import ComponentError, EtagMismatch
from pillion.kinds.component import Context, decode
from pillion.kinds.pubsub import BulkEntry, Publish, Rejected
from pillion.kinds.state import Delete, Get, Operation, Set
from pillion.wire.messages import components as m
from pillion.wire.messages import rpc

PACKAGE = m.GetRequest.DESCRIPTOR.file
CONCURRENCY, CONSISTENCY = ("", "first-write", "last-write"), ("", "eventual", "strong")
SECRETS = {"password": {"password": "12345"}, "user": {"user": "me"}}
instances: dict[tuple[str, str], dict[str, str]] = {}
"""What `Init` was told, by service and instance."""


def tell(line: str) -> None:
    """Say something to the test."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def instance(context: Any) -> str:
    return str(dict(context.invocation_metadata()).get("x-component-instance", ""))


class Base:
    async def Init(self, request: Any, context: Any) -> None:
        properties = dict(request.metadata.properties)
        if properties.get("refuse"):
            await context.abort(grpc.StatusCode.INTERNAL, properties["refuse"])
        instances[type(self).__name__, instance(context)] = properties

    async def Ping(self, request: Any, context: Any) -> None:
        await self.properties(context)

    async def properties(self, context: Any) -> dict[str, str]:
        found = instances.get((type(self).__name__, instance(context)))
        if found is None:
            await context.abort(grpc.StatusCode.FAILED_PRECONDITION, "Init was not called")
        assert found is not None
        return found


class StateStore(Base):
    store = MemoryState(MemoryState.Settings(), Context("memory"))

    async def Features(self, request: Any, context: Any) -> Any:
        await self.properties(context)
        return m.FeaturesResponse(features=["ETAG", "TRANSACTIONAL", "TTL", "QUERY_API", "SOMETHING_NEW"])

    async def Get(self, request: Any, context: Any) -> Any:
        await self.properties(context)
        found = await self.store.get(Get(request.key))
        if found.value is None:
            return m.GetResponse()
        return m.GetResponse(data=found.value, etag=m.Etag(value=found.etag or ""), metadata=found.metadata)

    async def BulkGet(self, request: Any, context: Any) -> Any:
        await self.properties(context)
        rows = []
        for item in request.items:
            found = await self.store.get(Get(item.key))
            if found.value is not None:  # the keys that are missing are missing
                rows.append(m.BulkStateItem(key=item.key, data=found.value, etag=m.Etag(value=found.etag or "")))
        return m.BulkGetResponse(items=rows)

    async def Set(self, request: Any, context: Any) -> None:
        await self.properties(context)
        await self.apply([set_of(request)], context)

    async def Delete(self, request: Any, context: Any) -> None:
        await self.properties(context)
        await self.apply([delete_of(request)], context)

    async def apply(self, operations: list[Operation], context: Any) -> None:
        try:
            if any("invalid" in (one.etag or "") for one in operations):
                await blame_etag(context, grpc.StatusCode.INVALID_ARGUMENT, "not an etag")
            await self.store.transact(operations, {})
        except EtagMismatch:
            await blame_etag(context, grpc.StatusCode.FAILED_PRECONDITION, "it has changed")
        except ComponentError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))


class TransactionalStateStore(StateStore):
    async def Transact(self, request: Any, context: Any) -> None:
        operations = [
            set_of(one.set) if one.WhichOneof("request") == "set" else delete_of(one.delete)
            for one in request.operations
        ]  # fmt: skip
        await self.apply(operations, context)


class TransactionalStoreMultiMaxSize(Base):
    async def MultiMaxSize(self, request: Any, context: Any) -> Any:
        return m.MultiMaxSizeResponse(max_size=250)


def set_of(request: Any) -> Set:
    options = request.options
    return Set(
        request.key, request.value, request.etag.value or None,
        CONCURRENCY[options.concurrency], CONSISTENCY[options.consistency], dict(request.metadata),
    )  # fmt: skip


def delete_of(request: Any) -> Delete:
    return Delete(request.key, request.etag.value or None, CONCURRENCY[request.options.concurrency])


async def blame_etag(context: Any, code: Any, text: str) -> None:
    status = rpc.Status(code=code.value[0], message=text)
    violation = rpc.BadRequest.FieldViolation(field="etag", description=text)
    status.details.add().Pack(rpc.BadRequest(field_violations=[violation]))
    await context.abort(code, text, (("grpc-status-details-bin", status.SerializeToString()),))


class PubSub(Base):
    path = ""
    begun = 0
    """Subscriptions so far. The protocol does not tell its client when one has begun; tests ask by `subscribed`."""
    changed = asyncio.Condition()
    brokers: dict[str, SqlitePubSub]

    def __init__(self) -> None:
        self.brokers = {}

    async def broker(self, context: Any) -> SqlitePubSub:
        group = (await self.properties(context))["consumerID"]
        if group not in self.brokers:
            metadata = {"connectionString": self.path, "redeliverInterval": "50ms"}
            made = SqlitePubSub(decode(SqlitePubSub.Settings, metadata, where="test"), Context("b", app_id=group))
            self.brokers[group] = made
            await made.open()
        return self.brokers[group]

    async def Features(self, request: Any, context: Any) -> Any:
        return m.FeaturesResponse(features=[*(await self.broker(context)).features, "SOMETHING_NEW"])

    async def Publish(self, request: Any, context: Any) -> Any:
        broker = await self.broker(context)
        assert request.pubsub_name == instance(context)
        assert request.content_type == ""
        try:
            await broker.publish(Publish(request.topic, request.data, "", dict(request.metadata)))
        except ComponentError as error:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return m.PublishResponse()

    async def BulkPublish(self, request: Any, context: Any) -> Any:
        broker = await self.broker(context)
        entries = [BulkEntry(one.entry_id, one.event, one.content_type, dict(one.metadata)) for one in request.entries]
        failed = await broker.bulk_publish(request.topic, entries, dict(request.metadata))
        rows = [m.BulkPublishResponseFailedEntry(entry_id=entry, error=error) for entry, error in failed]
        return m.BulkPublishResponse(failed_entries=rows)

    async def PullMessages(self, requests: Any, context: Any) -> None:
        broker = await self.broker(context)
        waiting: dict[str, asyncio.Future[str]] = {}
        first = await anext(aiter(requests))
        count = 0

        async def handle(delivery: Any) -> None:
            nonlocal count
            count += 1
            number = str(count)
            waiting[number] = asyncio.get_running_loop().create_future()
            await context.write(
                m.PullMessagesResponse(
                    data=delivery.data,
                    topic_name=delivery.topic,
                    metadata=delivery.metadata,
                    id=number,
                    content_type=delivery.content_type,
                )
            )
            error = await waiting[number]
            del waiting[number]
            if error:
                raise Rejected(error)

        subscription = await broker.subscribe(first.topic.name, dict(first.topic.metadata), handle)
        async with self.changed:
            PubSub.begun += 1
            self.changed.notify_all()
        try:
            async for answer in requests:
                waiting[answer.ack_message_id].set_result(answer.ack_error.message)
        finally:
            for future in waiting.values():
                if not future.done():
                    future.set_result("the stream has ended")
            await subscription.close()


class OutputBinding(Base):
    values: dict[str, bytes]

    def __init__(self) -> None:
        self.values = {}

    async def ListOperations(self, request: Any, context: Any) -> Any:
        return m.ListOperationsResponse(operations=["create", "get", "happen", "subscribed"])

    async def Invoke(self, request: Any, context: Any) -> Any:
        key = request.metadata.get("key")
        if request.operation == "happen":
            InputBinding.events.put_nowait(request.data)
        elif request.operation == "subscribed":
            async with PubSub.changed:
                await PubSub.changed.wait_for(lambda: PubSub.begun >= int(request.data))
        elif not key:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the metadata have no key")
        elif request.operation == "create":
            self.values[key] = request.data
        else:
            return m.InvokeResponse(data=self.values[key], metadata={"found": "yes"})
        return m.InvokeResponse()


class InputBinding(Base):
    events: asyncio.Queue[bytes] = asyncio.Queue()
    answers: list[str] = []  # noqa: RUF012

    async def Read(self, requests: Any, context: Any) -> None:
        await self.properties(context)

        async def push() -> None:
            count = 0
            while True:
                data = await self.events.get()
                count += 1
                await context.write(m.ReadResponse(data=data, message_id=str(count), metadata={"n": str(count)}))

        pushing = asyncio.ensure_future(push())
        try:
            async for answer in requests:
                tell(f"answer {answer.message_id} {answer.response_data!r} {answer.response_error.message}")
        finally:
            pushing.cancel()


class SecretStore(Base):
    async def Features(self, request: Any, context: Any) -> Any:
        return m.FeaturesResponse()

    async def Get(self, request: Any, context: Any) -> Any:
        await self.properties(context)
        if request.key not in SECRETS:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no secret {request.key}")
        return m.GetSecretResponse(data=SECRETS[request.key])

    async def BulkGet(self, request: Any, context: Any) -> Any:
        rows = {name: m.SecretResponse(secrets=values) for name, values in SECRETS.items()}
        return m.BulkGetSecretResponse(data=rows)


SERVICES = (
    StateStore, TransactionalStateStore, TransactionalStoreMultiMaxSize,
    PubSub, InputBinding, OutputBinding, SecretStore,
)  # fmt: skip


def handlers(service: Any) -> grpc.GenericRpcHandler:
    """The methods of the schema that the class has; the others are UNIMPLEMENTED."""
    name = type(service).__name__
    rows = {}
    for method in PACKAGE.services_by_name[name].methods:
        function = getattr(service, method.name, None)
        if function is None:
            continue
        takes, gives = getattr(m, method.input_type.name), getattr(m, method.output_type.name)
        if method.client_streaming:
            rows[method.name] = grpc.stream_stream_rpc_method_handler(
                function, takes.FromString, lambda value: value.SerializeToString()
            )
        else:
            rows[method.name] = grpc.unary_unary_rpc_method_handler(
                unary(function, gives), takes.FromString, lambda value: value.SerializeToString()
            )
    return grpc.method_handlers_generic_handler(f"{PACKAGE.package}.{name}", rows)


def unary(function: Any, gives: Any) -> Any:
    async def answer(request: Any, context: Any) -> Any:
        return await function(request, context) or gives()

    return answer


async def serve(folder: str, data: str, names: list[str]) -> None:
    PubSub.path = data
    servers = []
    for name in names:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers(tuple(handlers(service()) for service in SERVICES))
        offered = [f"{PACKAGE.package}.{service.__name__}" for service in SERVICES]
        reflection.enable_server_reflection([*offered, reflection.SERVICE_NAME], server, pool=PACKAGE.pool)
        server.add_insecure_port(f"unix:{folder}/{name}")
        await server.start()
        servers.append(server)
    tell("listening")
    await asyncio.gather(*(server.wait_for_termination() for server in servers))


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], sys.argv[3:]))
