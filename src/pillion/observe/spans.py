"""What spans are called and what they tell, from what is asked of the sidecar (spec `runtime.md` 6.2).

Pure: methods, paths and messages in, names and attributes out. Only spans that are sampled are described, so nothing
here is on the way of a request that is not.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pillion.wire.http1 import phrase

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pillion.observe.tracing import Attributes

DAPR = "/dapr.proto.runtime.v1.Dapr/"
_HTTP = ("dapr.protocol", "http")
_GRPC = ("dapr.protocol", "grpc")
_LONGEST = 4096
_COPIED = 32
"""Characters of a value, and how many headers of a request are copied."""
_MEMORABLE = 256
"""What is longer is described anew each time: callers choose it, and memory must not follow them."""
_WITHHELD = ("dapr-api-token",)


# --- HTTP ----------------------------------------------------------------------------------------------------------


def http_span(verb: str, target: bytes) -> tuple[str, Attributes]:
    """Return name and attributes of a request of the HTTP API."""
    return _http_span(verb, target) if len(target) <= _MEMORABLE else _http_span.__wrapped__(verb, target)


@lru_cache(maxsize=2048)
def _http_span(verb: str, target: bytes) -> tuple[str, Attributes]:
    whole = target.decode("utf-8", "backslashreplace")[:_LONGEST]
    path = whole.partition("?")[0]
    said = f"{verb} {path}"
    name, block = _http_block(path, said)
    return name, (_HTTP, ("dapr.api", said), ("http.request.method", verb), ("url.full", whole), *block)


def _http_block(path: str, said: str) -> tuple[str, Attributes]:
    """Return the name of a span and the attributes of its building block."""
    parts = [unquote(part) for part in path.strip("/").split("/")]
    match parts:
        case [_, "state", store, *_]:
            return path, _database("state", store, said)
        case [_, "secrets", store, *_]:
            return path, _database("secrets", store, said)
        case [_, "bindings", binding, *_]:
            return path, _database("bindings", binding, said)
        case [_, "publish", "bulk", _, *topic] | [_, "publish", _, *topic] if topic:
            return path, _topic("/".join(topic))
        case [_, "invoke", target, "method", *method] if method:
            return _invocation(target, "/".join(method))
        case [_, "actors", kind, instance, "state", *_]:
            return path, (*_database("state", "actor", said), ("dapr.actor", f"{kind}.{instance}"))
        case [_, "actors", kind, instance, "method", *method] if method:
            return _actor(kind, instance, "/".join(method))
        case [_, "actors", kind, instance, *_]:
            return path, (("rpc.service", "ServiceInvocation"), ("dapr.actor", f"{kind}.{instance}"))
        case [_, "conversation", component, *_]:
            return path, (("rpc.system", component),)
        case _:
            return path, ()


def http_error(status: int) -> str | None:
    """Return what a span says of a status, None when that is no error."""
    if status < 400:
        return None
    return f"Code({status}): {phrase(status) or 'Unknown'}"


def http_details(status: int, peer: tuple[str, int] | None, headers: Iterable[tuple[bytes, bytes]]) -> Attributes:
    """Return what differs from request to request: the status, the peer, the caller's own `dapr-` headers."""
    found = [("dapr.status_code", str(status))]
    if peer is not None:
        found += [("server.address", peer[0]), ("server.port", str(peer[1]))]
    copied = [pair for pair in headers if pair[0].startswith(b"dapr-")]
    for name, value in copied[:_COPIED]:
        text = name.decode("latin-1")
        if text not in _WITHHELD:
            found.append((text, value.decode("utf-8", "backslashreplace")[:_LONGEST]))
    return tuple(found)


# --- gRPC ----------------------------------------------------------------------------------------------------------


def rpc_span(method: str, message: Any) -> tuple[str, Attributes]:
    """Return name and attributes of a call of the gRPC API; `message` is the request, None for streams."""
    lead = (_GRPC, ("dapr.api", method))
    name, block = _rpc_block(method, message)
    return name, (*lead, *block)


def _rpc_block(method: str, message: Any) -> tuple[str, Attributes]:
    short = method.removeprefix(DAPR)
    if message is None or short == method:
        return method, (("rpc.service", "Dapr"),)
    if "ActorState" in short:
        actor = f"{message.actor_type}.{message.actor_id}"
        return method, (*_database("state", "actor", method), ("dapr.actor", actor))
    if short == "InvokeService":
        return _invocation(message.id, message.message.method)
    if short == "InvokeActor":
        return _actor(message.actor_type, message.actor_id, message.method)
    if "Secret" in short:
        return method, _database("secrets", message.store_name, method)
    if short == "InvokeBinding":
        return method, _database("bindings", message.name, method)
    if "Publish" in short:
        return method, _topic(message.topic)
    if "State" in short:
        return method, _database("state", _store(message), method)
    if short.startswith("Converse"):
        return method, (("rpc.service", "Dapr"), ("rpc.system", message.name))
    return method, (("rpc.service", "Dapr"),)


def _store(message: Any) -> str:
    name: str = message.storeName if hasattr(message, "storeName") else message.store_name
    return name


def rpc_details(metadata: Iterable[tuple[str, str | bytes]]) -> Attributes:
    """Return the caller's own `dapr-` metadata."""
    found = [
        (name, value[:_LONGEST])
        for name, value in metadata
        if name.startswith("dapr-") and isinstance(value, str) and name not in _WITHHELD
    ]
    return tuple(found[:_COPIED])


def proxied_span(method: str, target: str) -> tuple[str, Attributes]:
    """Return name and attributes of a call that is passed on to an application."""
    about = (("rpc.service", "ServiceInvocation"), ("net.peer.name", target), ("dapr.invoke_method", method))
    return method, (_GRPC, ("dapr.api", method), *about)


def local_span(app_id: str, method: str) -> tuple[str, Attributes]:
    """Return name and attributes of a call by another sidecar."""
    method = method[:_LONGEST]
    name, about = _invocation(app_id, method)
    return name, (_GRPC, *about)


def actor_span(kind: str, instance: str, method: str) -> tuple[str, Attributes]:
    """Return name and attributes of a call of an actor by another sidecar."""
    name, about = _actor(kind, instance, method[:_LONGEST])
    return name, (_GRPC, *about)


@lru_cache(maxsize=2048)
def topic_span(topic: str) -> tuple[str, Attributes]:
    """Return name and attributes of a message's delivery."""
    return f"pubsub/{topic}", (_GRPC, *_topic(topic))


@lru_cache(maxsize=2048)
def binding_span(name: str) -> tuple[str, Attributes]:
    """Return name and attributes of an input binding's event."""
    return f"bindings/{name}", (_GRPC, *_database("bindings", name, f"bindings/{name}"))


@lru_cache(maxsize=2048)
def job_span(name: str) -> tuple[str, Attributes]:
    """Return name and attributes of a job that the application carries out."""
    return f"job/{name}", (("rpc.service", "Dapr"), ("dapr.api", f"job/{name}"))


# --- building blocks -----------------------------------------------------------------------------------------------


def _database(system: str, component: str, statement: str) -> Attributes:
    return (
        ("db.system", system),
        ("db.name", component),
        ("db.statement", statement),
        ("db.connection_string", system),
    )


def _topic(topic: str) -> Attributes:
    return (("messaging.system", "pubsub"), ("messaging.destination.name", topic))


def _invocation(target: str, method: str) -> tuple[str, Attributes]:
    about = (("rpc.service", "ServiceInvocation"), ("net.peer.name", target), ("dapr.invoke_method", method))
    return f"CallLocal/{target}/{method}", about


def _actor(kind: str, instance: str, method: str) -> tuple[str, Attributes]:
    about = (
        ("rpc.service", "ServiceInvocation"),
        ("net.peer.name", f"{kind}.{instance}"),
        ("dapr.invoke_method", method),
        ("dapr.actor", f"{kind}.{instance}"),
    )
    return f"CallActor/{kind}/{method}", about
