"""Services that any gRPC server may carry beside its own: server reflection (v1 and v1alpha) and health.

Knows: server-reflection.md and health-checking.md of github.com/grpc/grpc/blob/master/doc. Never knows: what else is
served.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import DecodeError, Message

from pillion.errors import Code
from pillion.net.exchange import Method, RpcError
from pillion.wire.messages import health as health_messages
from pillion.wire.messages import pool, reflection, reflection_v1alpha

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from google.protobuf.descriptor import FileDescriptor

    from pillion.net.exchange import GrpcService, Metadata, ServerCall

REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
HEALTH = "grpc.health.v1.Health"

_MOST_WATCHED = 1000

Parsed = TypeVar("Parsed", bound=Message)


class Layered:
    """A `GrpcService` of some methods by full name, in front of another service."""

    def __init__(self, methods: Mapping[str, Method], behind: GrpcService | None = None) -> None:
        self._methods = dict(methods)
        self._behind = behind

    def find(self, method: str, metadata: Metadata) -> Method | None:
        found = self._methods.get(method)
        if found is None and self._behind is not None:
            return self._behind.find(method, metadata)
        return found


def reflection_methods(services: Sequence[str]) -> dict[str, Method]:
    """Return the methods of both reflection services; `services` are the full names that are listed besides them."""
    listed = sorted({*services, *REFLECTION})
    versions: tuple[Any, ...] = (reflection, reflection_v1alpha)
    return {
        f"/{name}/ServerReflectionInfo": Method(streaming=_Reflection(messages, listed))
        for name, messages in zip(REFLECTION, versions, strict=True)
    }


def _parsed(message: type[Parsed], raw: bytes) -> Parsed:
    """Return a request; raises `RpcError` INTERNAL for bytes that are none, as grpc-go does."""
    try:
        return message.FromString(raw)
    except DecodeError as error:
        raise RpcError(Code.INTERNAL, f"grpc: error unmarshalling request: {error}") from error


class _Reflection:
    """One version of the reflection service; both differ in the package of their messages alone."""

    def __init__(self, messages: Any, services: list[str]) -> None:
        self._messages = messages
        self._services = services

    async def __call__(self, call: ServerCall) -> None:
        sent: set[str] = set()
        while (raw := await call.receive()) is not None:
            request = _parsed(self._messages.ServerReflectionRequest, raw)
            reply = self._messages.ServerReflectionResponse(valid_host=request.host, original_request=request)
            try:
                self._answer(request, reply, sent)
            except KeyError as error:
                reply.error_response.error_code = Code.NOT_FOUND
                reply.error_response.error_message = str(error.args[0]) if error.args else "not found"
            await call.send(reply.SerializeToString())

    def _answer(self, request: Any, reply: Any, sent: set[str]) -> None:
        """Fill in the reply. Raises `KeyError` for what there is not."""
        match request.WhichOneof("message_request"):
            case "list_services":
                for name in self._services:
                    reply.list_services_response.service.add().name = name
            case "file_by_filename":
                self._files(reply, pool.FindFileByName(request.file_by_filename), sent)
            case "file_containing_symbol":
                self._files(reply, pool.FindFileContainingSymbol(request.file_containing_symbol), sent)
            case "file_containing_extension":
                wanted = request.file_containing_extension
                extended = pool.FindMessageTypeByName(wanted.containing_type)
                extension = pool.FindExtensionByNumber(extended, wanted.extension_number)
                self._files(reply, pool.FindFileContainingSymbol(extension.full_name), sent)
            case "all_extension_numbers_of_type":
                extended = pool.FindMessageTypeByName(request.all_extension_numbers_of_type)
                reply.all_extension_numbers_response.base_type_name = extended.full_name
                reply.all_extension_numbers_response.extension_number.extend(
                    sorted(extension.number for extension in pool.FindAllExtensions(extended))
                )
            case _:
                reply.error_response.error_code = Code.INVALID_ARGUMENT
                reply.error_response.error_message = "the request asks for nothing"

    def _files(self, reply: Any, file: FileDescriptor, sent: set[str]) -> None:
        """Add the file, and those it imports that this stream has not carried yet."""
        reply.file_descriptor_response.file_descriptor_proto.append(file.serialized_pb)
        sent.add(file.name)
        waiting = list(file.dependencies)
        while waiting:
            imported = waiting.pop()
            if imported.name not in sent:
                sent.add(imported.name)
                reply.file_descriptor_response.file_descriptor_proto.append(imported.serialized_pb)
                waiting.extend(imported.dependencies)


class Health:
    """The health service. `""` is the server as a whole; others are known once they were set."""

    def __init__(self) -> None:
        self._serving: dict[str, bool] = {"": True}
        self._changed: set[asyncio.Event] = set()

    def set(self, service: str, *, serving: bool) -> None:
        """Say whether a service takes calls; those who watch are told."""
        self._serving[service] = serving
        for changed in self._changed:
            changed.set()

    def methods(self) -> dict[str, Method]:
        return {
            f"/{HEALTH}/Check": Method(unary=self._check),
            f"/{HEALTH}/List": Method(unary=self._list),
            f"/{HEALTH}/Watch": Method(streaming=self._watch),
        }

    def _status(self, service: str) -> int:
        serving = self._serving.get(service)
        response = health_messages.HealthCheckResponse
        if serving is None:
            return response.SERVICE_UNKNOWN
        return response.SERVING if serving else response.NOT_SERVING

    async def _check(self, call: ServerCall, request: bytes) -> bytes:
        service = _parsed(health_messages.HealthCheckRequest, request).service
        if service not in self._serving:
            raise RpcError(Code.NOT_FOUND, "unknown service")
        return health_messages.HealthCheckResponse(status=self._status(service)).SerializeToString()

    async def _list(self, call: ServerCall, request: bytes) -> bytes:
        reply = health_messages.HealthListResponse()
        for service in self._serving:
            reply.statuses[service].status = self._status(service)
        return reply.SerializeToString()

    async def _watch(self, call: ServerCall) -> None:
        raw = await call.receive()
        if len(self._changed) >= _MOST_WATCHED:
            raise RpcError(Code.RESOURCE_EXHAUSTED, "too many watchers")
        service = _parsed(health_messages.HealthCheckRequest, raw or b"").service
        changed = asyncio.Event()
        self._changed.add(changed)
        try:
            told = None
            while True:
                changed.clear()
                if (status := self._status(service)) != told:
                    told = status
                    await call.send(health_messages.HealthCheckResponse(status=status).SerializeToString())
                await changed.wait()
        finally:
            self._changed.discard(changed)

    def __repr__(self) -> str:
        return f"<Health of {len(self._serving)} services, {len(self._changed)} watchers>"
