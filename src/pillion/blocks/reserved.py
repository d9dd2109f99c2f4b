"""The places of the building blocks that are not offered: every route and method of the contract answers.

Over gRPC that is UNIMPLEMENTED, over HTTP 501 with an error code; never a proxy attempt, a crash or a silent success.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.api.allow import grpc_key
from pillion.api.operation import Http, Operation, Rpc
from pillion.errors import ApiError, Code, Fault
from pillion.wire.messages import message_class, services

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from google.protobuf.message import Message

    from pillion.api.call import HttpCall, RpcCall
    from pillion.net.exchange import Response

    Asked = Sequence[str] | Message
    """What a request is about: the parameters of its route, or its message; nothing of a stream."""
    Refusal = Callable[[str, Asked], ApiError]

UNIMPLEMENTED = Fault(
    "ERR_API_UNIMPLEMENTED", 501, Code.UNIMPLEMENTED, "this API is not implemented in this version: {name}"
)

_READ = ("GET",)
_WRITE = ("POST", "PUT")
_DELETE = ("DELETE",)
_ACTOR = "v1.0/actors/{type}/{id}"
_ROUTES: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("InvokeBinding", _WRITE, "v1.0/bindings/{name}"),
    *(
        (f"{verb}Configuration{suffix}", _READ, f"{version}/configuration/{{store}}{tail}")
        for version, suffix in (("v1.0-alpha1", "Alpha1"), ("v1.0", ""))
        for verb, tail in (("Get", ""), ("Subscribe", "/subscribe"), ("Unsubscribe", "/{id}/unsubscribe"))
    ),
    ("TryLockAlpha1", ("POST",), "v1.0-alpha1/lock/{store}"),
    ("UnlockAlpha1", ("POST",), "v1.0-alpha1/unlock/{store}"),
    ("EncryptAlpha1", ("PUT",), "v1.0-alpha1/crypto/{name}/encrypt"),
    ("DecryptAlpha1", ("PUT",), "v1.0-alpha1/crypto/{name}/decrypt"),
    *(
        (f"Subtle{verb}Alpha1", ("POST",), f"v1.0-alpha1/subtlecrypto/{{name}}/{verb.lower()}")
        for verb in ("GetKey", "Encrypt", "Decrypt", "WrapKey", "UnwrapKey", "Sign", "Verify")
    ),
    ("InvokeActor", ("GET", "POST", "PUT", "DELETE"), _ACTOR + "/method/{method*}"),
    ("ExecuteActorStateTransaction", _WRITE, _ACTOR + "/state"),
    ("GetActorState", _READ, _ACTOR + "/state/{key}"),
    ("GetActorReminder", _READ, _ACTOR + "/reminders/{name}"),
    ("RegisterActorReminder", _WRITE, _ACTOR + "/reminders/{name}"),
    ("UnregisterActorReminder", _DELETE, _ACTOR + "/reminders/{name}"),
    ("RegisterActorTimer", _WRITE, _ACTOR + "/timers/{name}"),
    ("UnregisterActorTimer", _DELETE, _ACTOR + "/timers/{name}"),
    *(
        row
        for version in ("v1.0-alpha1", "v1.0-beta1", "v1.0")
        for row in (
            ("GetWorkflow", _READ, f"{version}/workflows/{{component}}/{{instance}}"),
            ("RaiseEventWorkflow", ("POST",), f"{version}/workflows/{{component}}/{{instance}}/raiseEvent/{{event}}"),
            *(
                (f"{verb}Workflow", ("POST",), f"{version}/workflows/{{component}}/{{instance}}/{verb.lower()}")
                for verb in ("Start", "Pause", "Resume", "Terminate", "Purge")
            ),
        )
    ),
    *(
        (name + suffix, (verb,), f"{version}/jobs/{{name}}")
        for version, suffix in (("v1.0-alpha1", "Alpha1"), ("v1.0", ""))
        for name, verb in (("GetJob", "GET"), ("ScheduleJob", "POST"), ("DeleteJob", "DELETE"))
    ),
    ("ConverseAlpha1", ("POST",), "v1.0-alpha1/conversation/{name}/converse"),
    ("ConverseAlpha2", ("POST",), "v1.0-alpha2/conversation/{name}/converse"),
)
"""Name, verbs and path: a place is named as the block is that would take it."""
DAPR, TASK_HUB = "dapr.proto.runtime.v1.Dapr", "TaskHubSidecarService"


def _unimplemented(name: str, asked: Asked) -> ApiError:
    return ApiError(UNIMPLEMENTED, name=name)


def operations(offered: Iterable[Operation], refusal: Refusal = _unimplemented) -> list[Operation]:
    """Return rows for whatever the contract has and `offered` has not. `refusal` makes what is answered, from the name
    of the operation and what it is asked.
    """
    offered = list(offered)
    routes = {(verb, _shape(row.path)) for operation in offered for row in operation.http for verb in row.verbs}
    methods = {
        (operation.rpc.service, method) for operation in offered if operation.rpc for method in operation.rpc.methods
    }
    found = []
    for name, verbs, path in _ROUTES:
        left = tuple(verb for verb in verbs if (verb, _shape(path)) not in routes)
        if left:
            found.append(Operation(name, *_rule(name), http=(_route(name, left, path, refusal),)))
    for service in (DAPR, TASK_HUB):
        group = ("workers", "v1") if service == TASK_HUB else None
        for name, method in services.methods(service).items():
            if (service, name) not in methods:
                rpc = _method(name, method, service, refusal)
                found.append(Operation(name, *(group or _rule(name)), rpc=rpc))
    return found


def _route(name: str, verbs: tuple[str, ...], path: str, refusal: Refusal) -> Http:
    async def serve(call: HttpCall) -> Response:
        raise refusal(name, call.params)

    return Http(verbs, path, serve)


def _method(name: str, method: services.Method, service: str, refusal: Refusal) -> Rpc:
    async def unary(call: RpcCall, request: Message) -> Message:
        raise refusal(name, request)

    async def stream(call: RpcCall) -> None:
        raise refusal(name, ())

    if method.client_streaming or method.server_streaming:
        return Rpc((name,), stream=stream, service=service)
    return Rpc((name,), message_class(method.request), unary, service=service)


def _rule(name: str) -> tuple[str, str]:
    """Return group and version: over HTTP the names differ from those over gRPC in what they leave out at most."""
    group, _, version = grpc_key(name).partition(".")
    return group, version


def _shape(path: str) -> str:
    return "/".join("{}" if part.startswith("{") else part for part in path.split("/"))
