"""The one place where an error becomes bytes (spec `http-api.md` 3.1, `grpc-api.md` 2)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import orjson

from pillion.errors import ApiError, Code, Fault, http_to_grpc
from pillion.net.exchange import Response, RpcError
from pillion.wire.gojson import escaped
from pillion.wire.http1 import phrase
from pillion.wire.messages import rpc
from pillion.wire.texts import writable

if TYPE_CHECKING:
    from google.protobuf.message import Message

JSON = (b"content-type", b"application/json")
DOMAIN = "dapr.io"
ERROR_TEXT = 63
"""Bytes of an HTTP body that its gRPC status quotes (spec `grpc-api.md` 2, form D)."""
STORES_PAGE = "https://docs.dapr.io/reference/components-reference/supported-state-stores/"
_TYPE = "type.googleapis.com/google.rpc."


def http_error(error: BaseException) -> Response:
    """Return the response for an error that left a handler. What is not an `ApiError` is the caller's "internal"."""
    if not isinstance(error, ApiError):
        return error_response(500, "ERROR", str(error) or type(error).__name__)
    fault = error.fault
    body: dict[str, object] = {"errorCode": fault.http_code or fault.grpc_reason, "message": error.text}
    if fault.http_details:
        body["details"] = _json_details(error, fault)
    return Response(error.http_status, [JSON], _written(body))


def error_response(status: int, code: str, message: str) -> Response:
    """Return a plain error of the API: `{"errorCode", "message"}`."""
    return Response(status, [JSON], _written({"errorCode": code, "message": message}))


def _written(body: dict[str, object]) -> bytes:
    """Return a document of errors as bytes; what a caller wrote that is not UTF-8 is quoted with question marks."""
    try:
        return escaped(orjson.dumps(body))
    except TypeError:
        return escaped(orjson.dumps(_readable(body)))


def _readable(value: object) -> object:
    if isinstance(value, str):
        return writable(value)
    if isinstance(value, dict):
        return {_readable(key): _readable(item) for key, item in value.items()}
    return [_readable(item) for item in value] if isinstance(value, list) else value


def text_response(status: int, text: str) -> Response:
    """Return one of the few plain-text exceptions (token, escapes, baggage)."""
    return Response(status, [(b"content-type", b"text/plain; charset=utf-8")], text.encode("utf-8", "replace"))


def rpc_error(error: BaseException) -> RpcError:
    """Return the gRPC status for an error that left a handler (forms A, B and C of the specification)."""
    if isinstance(error, RpcError):
        return error
    if isinstance(error, ApiError):
        details = _rpc_details(error, error.fault)
        packed = b""
        if details:
            status = rpc.Status(code=int(error.grpc_status), message=error.text)
            for detail in details:
                status.details.add().Pack(detail)
            packed = status.SerializeToString()
        return RpcError(error.grpc_status, error.text, packed)
    if isinstance(error, asyncio.TimeoutError):
        return RpcError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
    return RpcError(Code.UNKNOWN, str(error) or type(error).__name__)


def http_failure(status: int, body: bytes) -> RpcError:
    """Return an HTTP status as a gRPC status with its ErrorInfo (form D of the specification)."""
    code = http_to_grpc(status)
    title = phrase(status)
    packed = rpc.Status(code=int(code), message=title)
    info = {"http.code": str(status), "http.error_message": body[:ERROR_TEXT].decode("utf-8", "ignore")}
    packed.details.add().Pack(rpc.ErrorInfo(reason=title, domain=DOMAIN, metadata=info))
    return RpcError(code, title, packed.SerializeToString())


def _resource_description(error: ApiError) -> str:
    return error.text if error.fault.resource_type == "pubsub" else ""


def _json_details(error: ApiError, fault: Fault) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    if fault.shape == "key":
        violations = [{"field": name, "description": text} for name, text in error.fields]
        found.append({"@type": _TYPE + "BadRequest", "field_violations": violations})
    if fault.shape == "help":
        links = [{"description": "Check the list of state stores and the features they support", "url": STORES_PAGE}]
        found.append({"@type": _TYPE + "Help", "links": links})
    if fault.shape in ("resource", "key", "help"):
        found.append(
            {
                "@type": _TYPE + "ResourceInfo",
                "description": _resource_description(error),
                "owner": "",
                "resource_name": error.resource,
                "resource_type": fault.resource_type,
            }
        )
    found.append(
        {
            "@type": _TYPE + "ErrorInfo",
            "domain": DOMAIN,
            "metadata": dict(sorted(error.metadata.items())) if error.metadata is not None else None,
            "reason": fault.grpc_reason,
        }
    )
    return found


def _rpc_details(error: ApiError, fault: Fault) -> list[Message]:
    if not fault.shape:
        return []
    found: list[Message] = []
    if fault.shape == "key":
        violations = [rpc.BadRequest.FieldViolation(field=name, description=text) for name, text in error.fields]
        found.append(rpc.BadRequest(field_violations=violations))
    if fault.shape == "help":
        link = rpc.Help.Link(
            description="Check the list of state stores and the features they support", url=STORES_PAGE
        )
        found.append(rpc.Help(links=[link]))
    if fault.shape in ("resource", "key", "help"):
        found.append(
            rpc.ResourceInfo(
                resource_type=fault.resource_type,
                resource_name=error.resource,
                description=_resource_description(error),
            )
        )
    found.append(rpc.ErrorInfo(reason=fault.grpc_reason, domain=DOMAIN, metadata=error.metadata))
    return found
