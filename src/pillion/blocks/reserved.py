"""The places of the building blocks that are not offered: every route and method of the contract answers.

Over gRPC that is UNIMPLEMENTED, over HTTP 501 with an error code; never a proxy attempt, a crash or a silent success.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.api.operation import Http, Operation, Rpc
from pillion.errors import ApiError, Code, Fault
from pillion.wire.messages import services, wellknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from google.protobuf.message import Message

    from pillion.api.call import HttpCall, RpcCall
    from pillion.net.exchange import Response

    Refusal = Callable[[str, Sequence[str]], ApiError]

UNIMPLEMENTED = Fault(
    "ERR_API_UNIMPLEMENTED", 501, Code.UNIMPLEMENTED, "this API is not implemented in this version: {name}"
)

_READ = ("GET",)
_WRITE = ("POST", "PUT")
_ACTOR = "v1.0/actors/{type}/{id}"
_ROUTES: tuple[tuple[tuple[str, ...], str], ...] = (
    (_WRITE, "v1.0/bindings/{name}"),
    *(
        (_READ, f"{version}/configuration/{{store}}{tail}")
        for version in ("v1.0-alpha1", "v1.0")
        for tail in ("", "/subscribe", "/{id}/unsubscribe")
    ),
    (("POST",), "v1.0-alpha1/lock/{store}"),
    (("POST",), "v1.0-alpha1/unlock/{store}"),
    (("PUT",), "v1.0-alpha1/crypto/{name}/encrypt"),
    (("PUT",), "v1.0-alpha1/crypto/{name}/decrypt"),
    *(
        (("POST",), f"v1.0-alpha1/subtlecrypto/{{name}}/{verb}")
        for verb in ("getkey", "encrypt", "decrypt", "wrapkey", "unwrapkey", "sign", "verify")
    ),
    (("GET", "POST", "PUT", "DELETE"), _ACTOR + "/method/{method*}"),
    (_WRITE, _ACTOR + "/state"),
    (_READ, _ACTOR + "/state/{key}"),
    (("GET", "POST", "PUT", "DELETE"), _ACTOR + "/reminders/{name}"),
    (("POST", "PUT", "DELETE"), _ACTOR + "/timers/{name}"),
    *(
        row
        for version in ("v1.0-alpha1", "v1.0-beta1", "v1.0")
        for row in (
            (_READ, f"{version}/workflows/{{component}}/{{instance}}"),
            (("POST",), f"{version}/workflows/{{component}}/{{instance}}/raiseEvent/{{event}}"),
            *(
                (("POST",), f"{version}/workflows/{{component}}/{{instance}}/{verb}")
                for verb in ("start", "pause", "resume", "terminate", "purge")
            ),
        )
    ),
    (("GET", "POST", "DELETE"), "v1.0-alpha1/jobs/{name}"),
    (("GET", "POST", "DELETE"), "v1.0/jobs/{name}"),
    (("POST",), "v1.0-alpha1/conversation/{name}/converse"),
    (("POST",), "v1.0-alpha2/conversation/{name}/converse"),
)
_SERVICES = ("dapr.proto.runtime.v1.Dapr", "TaskHubSidecarService")


def _unimplemented(name: str, parameters: Sequence[str]) -> ApiError:
    return ApiError(UNIMPLEMENTED, name=name)


def operations(offered: Iterable[Operation], refusal: Refusal = _unimplemented) -> list[Operation]:
    """Return rows for whatever the contract has and `offered` has not. `refusal` makes what is answered, from the route
    or the method and the parameters of the route.
    """

    async def _http(call: HttpCall) -> Response:
        raise refusal(call.route, call.params)

    async def _unary(call: RpcCall, request: object) -> Message:
        raise refusal(call.method, ())

    async def _stream(call: RpcCall) -> None:
        raise refusal(call.method, ())

    offered = list(offered)
    routes = {(verb, _shape(row.path)) for operation in offered for row in operation.http for verb in row.verbs}
    methods = {
        (operation.rpc.service, method) for operation in offered if operation.rpc for method in operation.rpc.methods
    }
    found = []
    for verbs, path in _ROUTES:
        left = tuple(verb for verb in verbs if (verb, _shape(path)) not in routes)
        if left:
            found.append(Operation(f"reserved {path}", path.split("/")[1], http=(Http(left, path, _http),)))
    for service in _SERVICES:
        for name, method in services.methods(service).items():
            if (service, name) in methods:
                continue
            if method.client_streaming or method.server_streaming:
                rpc = Rpc((name,), stream=_stream, service=service)
            else:
                rpc = Rpc((name,), wellknown.Empty, _unary, service=service)
            found.append(Operation(f"reserved {name}", "reserved", rpc=rpc))
    return found


def _shape(path: str) -> str:
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))
