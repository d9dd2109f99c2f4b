"""The head of a call to another sidecar: what the caller's client sent, and what this sidecar says of itself.

Knows: the marks of a caller (spec `http-api.md` 4.1), which parts of a head repeat from call to call. Never knows:
bodies, connections.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from pillion.wire import envelope
from pillion.wire.methods import VERB_NUMBERS, VERBS
from pillion.wire.trace import to_binary

if TYPE_CHECKING:
    from pillion.kinds.invocation import Header, Headers, Invocation
    from pillion.net.exchange import Metadata
    from pillion.peers.resolve import Target

REMEMBERED = 512
LONG_QUERY, MANY_HEADERS = 256, 32
"""Requests with a longer query, in bytes, or more headers are not worth remembering."""
WITH_BODY = ("POST", "PUT", "PATCH")
"""Verbs for which an empty body is announced; without a length the callee takes it for a chunked one."""
OUR_OWN = frozenset((b"dapr-caller-app-id", b"dapr-caller-namespace", b"dapr-callee-app-id"))


class Heads:
    """Writes the heads of calls in the name of one application. Host address and name go into forwarding headers."""

    def __init__(self, app_id: str, namespace: str, host_address: str, host_name: str) -> None:
        self._marks = _marks(app_id, namespace, host_address, host_name)
        self._added: dict[str, tuple[Header, ...]] = {}

    def write(self, target: Target, invocation: Invocation, data: bytes = b"") -> bytes:
        """Return the request head: the caller's headers, then what this sidecar says of itself. `data`: unary form."""
        added = self._added.get(target.name)
        if added is None:
            name = target.name.encode()
            if len(self._added) >= REMEMBERED:
                self._added.clear()
            added = self._added[target.name] = (
                *self._marks,
                (b"dapr-callee-app-id", name),
                (b"destination-app-id", name),
            )
        headers = invocation.headers
        if invocation.relayed:
            headers = [pair for pair in headers if pair[0] not in OUR_OWN]
        parts = (
            tuple(headers),
            added,
            invocation.method,
            VERB_NUMBERS.get(invocation.verb, 0),
            invocation.query,
            invocation.content_type,
            invocation.type_url,
            invocation.length,
            data,
        )
        rare = data or len(invocation.query) > LONG_QUERY or len(headers) > MANY_HEADERS
        head = _head(*parts) if rare else _repeated_head(*parts)
        own = _own_entries(invocation)
        return head + envelope.entries(2, own) if own else head


def _head(
    headers: tuple[Header, ...],
    added: tuple[Header, ...],
    method: str,
    verb: int,
    query: bytes,
    content_type: bytes,
    type_url: str,
    length: int | None,
    data: bytes,
) -> bytes:
    """Return the part of a request head that is the same whenever its like is sent."""
    entries = [*headers]
    if content_type:
        entries.append((b"content-type", content_type))
    if length or (length == 0 and VERBS[verb] in WITH_BODY):
        entries.append((b"content-length", b"%d" % length))
    entries += added
    message = envelope.invoke_request(method, verb, query, content_type, type_url, data)
    return envelope.request_head(entries, message)


_repeated_head = functools.lru_cache(maxsize=REMEMBERED)(_head)


def _own_entries(invocation: Invocation) -> Headers:
    """Return what differs from call to call: trace and baggage."""
    found: Headers = []
    if invocation.traced:
        found.append((b"traceparent", invocation.traceparent))
        if invocation.tracestate:
            found.append((b"tracestate", invocation.tracestate))
    if invocation.baggage:
        found.append((b"baggage", invocation.baggage))
    return found


def _marks(app_id: str, namespace: str, address: str, host: str) -> Headers:
    """Return the headers that tell a callee who called (spec `http-api.md` 4.1)."""
    marks: Headers = []
    parts = []
    if address:
        shown = f'"[{address}]"' if ":" in address else address
        marks.append((b"x-forwarded-for", address.encode()))
        parts.append(f"for={shown};by={shown};")
    if host:
        marks.append((b"x-forwarded-host", host.encode()))
        parts.append(f"host={host}")
    if parts:
        marks.append((b"forwarded", "".join(parts).encode()))
    marks.append((b"dapr-caller-app-id", app_id.encode()))
    if namespace:
        marks.append((b"dapr-caller-namespace", namespace.encode()))
    return marks


def trace_metadata(invocation: Invocation) -> Metadata:
    """Return the gRPC metadata of a call between sidecars: the trace in both forms, nothing without one."""
    if not invocation.traced:
        return []
    parent = invocation.traceparent.decode("latin-1")
    found: Metadata = [("traceparent", parent), ("grpc-trace-bin", to_binary(parent))]
    if invocation.tracestate:
        found.append(("tracestate", invocation.tracestate.decode("latin-1")))
    return found
