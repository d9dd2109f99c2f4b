"""The surface as rows: what can be asked of a sidecar, over HTTP and over gRPC.

A block makes its rows when the sidecar is built; `serve` walks them. Knows: names, routes, groups and versions.
Never knows: what a handler does, or how bytes travel.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any, Protocol

from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from google.protobuf.message import Message

    from pillion.api.call import HttpCall, RpcCall
    from pillion.net.exchange import Oversized, Response


class ServeHttp(Protocol):
    def __call__(self, call: HttpCall) -> Awaitable[Response]: ...


class ServeUnary(Protocol):
    def __call__(self, call: RpcCall, request: Any) -> Awaitable[Message]: ...


class ServeAtOnce(Protocol):
    def __call__(self, request: Any) -> bytes | None: ...


class ServeStream(Protocol):
    def __call__(self, call: RpcCall) -> Awaitable[None]: ...


@record
class Http:
    """One HTTP route. `path` starts with the version: `v1.0/state/{store}/{key}`; a last segment `{name*}` takes the
    rest of the path, slashes included. `streams`: the handler wants the body as it arrives.
    """

    verbs: tuple[str, ...]
    path: str
    serve: ServeHttp
    streams: bool = False


@record
class Rpc:
    """One or several gRPC methods served by the same handler.

    `methods` are bare names of `service`; `takes` parses the request of a unary handler. Exactly one of `unary` and
    `stream` is set. `at_once` answers without waiting, with a serialised reply; None leaves the call to `unary`.
    `oversized` hears of requests that are too large to be taken (`net.exchange.Oversized`).
    """

    methods: tuple[str, ...]
    takes: type[Message] | None = None
    unary: ServeUnary | None = None
    stream: ServeStream | None = None
    at_once: ServeAtOnce | None = None
    oversized: Oversized | None = None
    service: str = "dapr.proto.runtime.v1.Dapr"


@record
class Operation:
    """One operation of the API. `group` and `version` are its name in `spec.api` rules (spec `runtime.md` 3.5)."""

    name: str
    group: str
    version: str = "v1"
    http: tuple[Http, ...] = field(default=())
    rpc: Rpc | None = None
