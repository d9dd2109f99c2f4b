"""Output bindings: InvokeBinding over HTTP and gRPC (spec `http-api.md` 4.4, `grpc-api.md` 3).

Knows: how a request reads, which faults there are, what travels beside the data. Never knows: technologies.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pillion.api.operation import Http, Operation, Rpc
from pillion.api.render import JSON, http_error
from pillion.errors import ApiError, Code, ComponentError, Fault
from pillion.kinds.bindings import BindingError, OutputBinding, Request, Response
from pillion.net.exchange import BodyIncomplete, BodyTooLarge
from pillion.net.exchange import Response as HttpResponse
from pillion.observe.meters import untimed
from pillion.wire import gojson
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from google.protobuf.message import Message

    from pillion.api.call import HttpCall, RpcCall
    from pillion.blocks.broker import Policy
    from pillion.net.exchange import Metadata
    from pillion.observe.meters import Timed

MALFORMED = Fault(
    "ERR_MALFORMED_REQUEST", 400, Code.INVALID_ARGUMENT, "failed deserializing HTTP body: {error}", category="binding"
)
MALFORMED_DATA = Fault(
    "ERR_MALFORMED_REQUEST_DATA", 500, Code.INTERNAL, "can't serialize request data field: {error}", category="binding"
)
INVOKE = Fault(
    "ERR_INVOKE_OUTPUT_BINDING",
    500,
    Code.INTERNAL,
    "error invoking output binding {name}: {error}",
    grpc_reason="ERR_INVOKE_OUTPUT_BINDING",
    shape="basic",
    category="binding",
)
_TRACE = ("traceparent", "tracestate")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]{1,256}")
_RPC_NAME = re.compile(r"[0-9a-z_.-]{1,256}")
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_NOT_PRINTABLE = re.compile(r"[^\x20-\x7e]")


@dataclass(slots=True)
class Binding:
    """A loaded binding. `metadata` is the resource's own; a policy that is None is switched off."""

    name: str
    component: Any
    metadata: Mapping[str, str] = field(default_factory=dict)
    outbound: Policy | None = None
    inbound: Policy | None = None


class Refused(ComponentError):
    """The request cannot be given to any binding; the text is for the caller."""


class Outputs:
    """The output bindings among the loaded ones (the live registry), each behind its policy."""

    def __init__(self, bindings: Mapping[str, Binding], *, timed: Timed = untimed) -> None:
        self._bindings = bindings
        self._timed = timed

    async def invoke(self, name: str, request: Request) -> Response | None:
        """Invoke a binding. Raises `Refused`, or `ComponentError` as the component or its policy does."""
        if not request.operation:
            raise Refused("operation field is missing from request")
        binding = self._bindings.get(name)
        component = None if binding is None else binding.component
        if binding is None or not isinstance(component, OutputBinding):
            raise Refused(f"couldn't find output binding {name}")
        if request.operation not in component.operations:
            known = " ".join(component.operations)
            raise Refused(
                f"binding {name} does not support operation {request.operation}. supported operations:{known}"
            )
        if binding.outbound is None:
            work: Awaitable[Response | None] = component.invoke(request)
        else:
            work = binding.outbound(lambda: component.invoke(request))
        return await self._timed(request.operation, name, work)


class BindingsBlock:
    """The handlers."""

    def __init__(self, outputs: Outputs) -> None:
        self._outputs = outputs

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "InvokeBinding", "bindings", http=(Http(("POST", "PUT"), "v1.0/bindings/{name}", self.invoke),),
                rpc=Rpc(("InvokeBinding",), m.InvokeBindingRequest, self.rpc_invoke),
            ),
        ]  # fmt: skip

    async def invoke(self, call: HttpCall) -> HttpResponse:
        (name,) = call.params
        request = read_request(call)
        try:
            response = await self._outputs.invoke(name, request)
        except BindingError as error:
            failure = ApiError(INVOKE, name=name, error=error)
            answer = http_error(failure)
            answer.headers.extend(response_headers(error.metadata))
            return answer
        except (Refused, ComponentError) as error:
            raise ApiError(INVOKE, name=name, error=error) from error
        if response is None:
            return HttpResponse(204)
        return HttpResponse(200, [JSON, *response_headers(response.metadata)], response.data)

    async def rpc_invoke(self, call: RpcCall, request: m.InvokeBindingRequest) -> Message:
        metadata = with_metadata_of(call, request.metadata)
        try:
            response = await self._outputs.invoke(request.name, Request(request.operation, request.data, metadata))
        except (Refused, ComponentError) as error:
            if isinstance(error, BindingError) and error.metadata:
                call.stream.initial_metadata.extend(response_metadata(error.metadata))
                await call.stream.send_headers()  # a status alone has no headers, only trailers
            raise ApiError(INVOKE, name=request.name, error=error) from error
        if response is None:
            return m.InvokeBindingResponse()
        call.stream.initial_metadata.extend(response_metadata(response.metadata))
        return m.InvokeBindingResponse(data=response.data, metadata=dict(response.metadata))


def read_request(call: HttpCall) -> Request:
    """Read `{"operation", "data", "metadata"}`; `data` becomes JSON again, and is `null` where it is left out.

    Raises `ApiError` MALFORMED or MALFORMED_DATA.
    """
    try:
        body = gojson.loads_spelled(call.body())
    except (ValueError, BodyTooLarge, BodyIncomplete) as error:
        raise ApiError(MALFORMED, error=error) from error
    if body is None:
        body = {}
    if not isinstance(body, dict):
        raise ApiError(MALFORMED, error="the body is not a JSON object")
    fields = {key.lower(): value for key, value in body.items()}
    operation, given = fields.get("operation"), fields.get("metadata")
    if not isinstance(operation, str | None):
        raise ApiError(MALFORMED, error="operation is not a string")
    if not isinstance(given, dict | None) or not all(isinstance(value, str | None) for value in (given or {}).values()):
        raise ApiError(MALFORMED, error="metadata is not an object of strings")
    metadata = {key: value or "" for key, value in (given or {}).items()}
    try:
        data = gojson.dumps(fields.get("data"))
    except ValueError as error:
        raise ApiError(MALFORMED_DATA, error=error) from error
    return Request(operation or "", data, with_trace_of(call, metadata))


def with_trace_of(call: HttpCall, metadata: dict[str, str]) -> dict[str, str]:
    """Add the caller's trace context and baggage."""
    if parent := call.traceparent:
        metadata["traceparent"] = parent
        if state := call.tracestate:
            metadata["tracestate"] = state
    if baggage := call.header(b"baggage"):
        metadata["baggage"] = baggage
    return metadata


def with_metadata_of(call: RpcCall, given: Mapping[str, str]) -> dict[str, str]:
    """Add the metadata of a gRPC call, the first value of each name, to what the request itself says.

    Names that HTTP/2 or gRPC reserve get the prefix `dapr-`; binary values are base64 text.
    """
    metadata = dict(given)
    for key, value in call.stream.metadata:
        name = f"dapr-{key}" if key.startswith((":", "grpc-")) else key
        if name not in _TRACE:
            metadata.setdefault(name, value if isinstance(value, str) else base64.b64encode(value).decode())
    if parent := call.traceparent:
        metadata["traceparent"] = parent
        if state := call.tracestate:
            metadata["tracestate"] = state
    return metadata


def response_headers(metadata: Mapping[str, str]) -> list[tuple[bytes, bytes]]:
    """Return `metadata.*` headers; what cannot be a header name is left out, and nothing can end a line."""
    found = []
    for key, value in metadata.items():
        low = key.lower()
        if _NAME.fullmatch(low):
            found.append((b"metadata." + low.encode(), _NOT_IN_VALUE.sub(" ", value).encode("utf-8", "replace")))
    return found


def response_metadata(metadata: Mapping[str, str]) -> Metadata:
    """Return `metadata.*` response metadata; a value is printable ASCII, as gRPC wants it."""
    found: Metadata = []
    for key, value in metadata.items():
        low = key.lower()
        if _RPC_NAME.fullmatch(low) and not low.endswith("-bin"):
            found.append((f"metadata.{low}", _NOT_PRINTABLE.sub("?", value)))
    return found
