"""Invocation of an application through the sidecar beside it: the calling half of spec `grpc-api.md` 8.

Knows: how an invocation becomes messages of `CallLocalStream` and how its reply comes back, what a caller's sidecar
adds, which failures are repeated. Never knows: the application, policies, how channels work.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from typing import TYPE_CHECKING

from pillion.errors import Code, ComponentError
from pillion.kinds.invocation import Reply, gather
from pillion.net.exchange import RpcError
from pillion.wire import envelope
from pillion.wire.methods import VERB_NUMBERS, VERBS
from pillion.wire.trace import to_binary

if TYPE_CHECKING:
    from pillion.kinds.invocation import Header, Headers, Invocation
    from pillion.net.exchange import ClientStream, Metadata
    from pillion.peers.pool import Lease, Pool
    from pillion.peers.resolve import Directory, Target

log = logging.getLogger("pillion.peers")

SERVICE = "/dapr.proto.internals.v1.ServiceInvocation/"
CALL_LOCAL = SERVICE + "CallLocal"
CALL_LOCAL_STREAM = SERVICE + "CallLocalStream"
CHUNK = 65536
"""Bytes of body in one message. The reference writes 2 KiB and reads any size (spec `grpc-api.md` 8)."""
REMEMBERED, MEMORABLE = 512, 2048
"""How many heads of replies are remembered, and up to how many bytes each."""
RETRIES, RETRY_WAIT_S = 3, 1.0
"""`DaprBuiltInServiceRetries` (spec `runtime.md` 4.3)."""
REPEATABLE = 4 << 20
"""A body of fixed length is kept for repetition up to this many bytes; a longer one streams and is sent once."""
REMEMBERED, MEMORABLE = 512, 2048
"""How many heads of replies are remembered, and up to how many bytes each."""
RETRIES, RETRY_WAIT_S = 3, 1.0
"""`DaprBuiltInServiceRetries` (spec `runtime.md` 4.3)."""
REPEATABLE = 4 << 20
"""A body of fixed length is kept for repetition up to this many bytes; a longer one streams and is sent once."""
MOST_COLLECTED = 64 << 20
"""Bytes of a gRPC application's reply; it is one message there."""
RETRIED = (Code.UNAVAILABLE, Code.UNAUTHENTICATED)
LONG_QUERY, MANY_HEADERS = 256, 32
"""Requests with a longer query, in bytes, or more headers are not worth remembering."""
WITH_BODY = ("POST", "PUT", "PATCH")
"""Verbs for which an empty body is announced; without a length the callee takes it for a chunked one."""
OUR_OWN = frozenset((b"dapr-caller-app-id", b"dapr-caller-namespace", b"dapr-callee-app-id"))
NO_STREAMING = "target app '{}' is running a version of Dapr that does not support streaming-based service invocation"
NO_FIELDS = "response does not contain the required fields in the leading chunk"


class PeerClient:
    """Calls to other sidecars in the name of this one. `host_address` and `host_name` go into forwarding headers.

    `retries` and `retry_wait_s` are the built-in policy, which a Resiliency resource may change.
    """

    def __init__(
        self,
        app_id: str,
        namespace: str,
        directory: Directory,
        pool: Pool,
        *,
        host_address: str = "",
        host_name: str = "",
        retries: int = RETRIES,
        retry_wait_s: float = RETRY_WAIT_S,
    ) -> None:
        self.directory = directory
        self.pool = pool
        self._marks = _marks(app_id, namespace, host_address, host_name)
        self._retries, self._retry_wait_s = retries, retry_wait_s
        self._added: dict[str, tuple[Header, ...]] = {}

    async def invoke(self, target: Target, invocation: Invocation, *, built_in: bool = True) -> Reply:
        """Call the application of `target`; with `built_in` a peer that cannot be reached is tried again.

        An instance that failed is left alone: another one is tried at once, the same ones after a second. Raises
        `RpcError` with the peer's status, `ComponentError` when no instance is known or the peer breaks the protocol.
        """
        if not isinstance(invocation.body, bytes) and invocation.fixed and (invocation.length or 0) <= REPEATABLE:
            await invocation.settle()
        repeatable = built_in and invocation.fixed and isinstance(invocation.body, bytes)
        directory = self.directory
        tried: set[str] = set()
        retries = 0
        while True:
            address = await directory.pick(target.name, target.namespace)
            lease = self.pool.take(address, target)
            call = _PeerCall(self, lease, target, invocation)
            try:
                reply = await call.run()
            except RpcError as error:
                if error.code not in RETRIED:
                    raise
                self.pool.retire(lease)
                directory.failed(target.name, target.namespace, address)
                if not repeatable and call.consumed:
                    raise
                tried.add(address)
                if directory.others(target.name, target.namespace) and len(tried) <= 16:
                    continue
                if not repeatable or retries == self._retries:
                    raise
                retries += 1
                tried.clear()
                log.debug("trying %s again: %s", target.text, error)
                await asyncio.sleep(self._retry_wait_s)
            else:
                directory.alive(address)
                return reply

    def head(self, target: Target, invocation: Invocation, data: bytes = b"") -> bytes:
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

    async def close(self) -> None:
        """Close all channels and end all lookups."""
        await self.directory.close()
        await self.pool.close()


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


_repeated_head = functools.lru_cache(maxsize=512)(_head)


def _own_entries(invocation: Invocation) -> Headers:
    """Return what is another's with every call: its trace and baggage."""
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


class _PeerCall:
    """One attempt, and afterwards the body of its reply: iterate it to its end or `aclose` it.

    `consumed`: some of a streamed request body is gone, so that no other attempt is possible.
    """

    __slots__ = (
        "_client",
        "_failure",
        "_invocation",
        "_lease",
        "_payload",
        "_sender",
        "_sequence",
        "_stream",
        "_target",
        "consumed",
    )

    def __init__(self, client: PeerClient, lease: Lease, target: Target, invocation: Invocation) -> None:
        self._client = client
        self._lease = lease
        self._target = target
        self._invocation = invocation
        self._sender: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._stream: ClientStream | None = None
        self._payload = b""
        self._sequence = 0
        self.consumed = False

    async def run(self) -> Reply:
        """Send the invocation and return the reply. Its body is this object while more may arrive."""
        try:
            reply = await self._start()
            if reply.body is not self:
                self._end()
        except envelope.BadEnvelope as error:
            self._end(whole=False)
            raise ComponentError(f"invalid response from the peer: {error}") from error
        except BaseException:
            self._end(whole=False)
            raise
        return reply

    async def _start(self) -> Reply:
        invocation = self._invocation
        body = invocation.body
        head = self._client.head(self._target, invocation)
        stream = self._lease.channel.stream(CALL_LOCAL_STREAM, metadata=trace_metadata(invocation))
        self._stream = stream
        try:
            if isinstance(body, bytes) and len(body) <= CHUNK:
                await stream.send_last(envelope.stream_message(head, body, 0))
            else:
                await stream.send(envelope.stream_message(head, b"", 0))
                self._sender = asyncio.get_running_loop().create_task(self._send(stream))
            message = await stream.receive()
        except RpcError as error:
            if self._failure is not None:
                raise self._failure from error
            if error.code == Code.UNIMPLEMENTED:
                return await self._unary(error)
            raise
        if message is None:
            raise ComponentError(NO_FIELDS)
        return await self._read(message)

    async def _read(self, message: bytes) -> Reply:
        head, payload, sequence = envelope.read_stream_message(message)
        if not head:
            raise ComponentError(NO_FIELDS)
        reply = _replies.get(head)
        if reply is None:
            reply = _reply(envelope.read_response(head))
            if len(head) <= MEMORABLE:
                if len(_replies) >= REMEMBERED:
                    _replies.clear()
                _replies[head] = reply
        reply = reply.copy()
        if self._invocation.sse and reply.code == 0:
            reply.code = 200  # the reference leaves the status of an event stream out
        if payload is not None:
            self._check(sequence)
            self._payload = payload
        size = len(payload or b"")
        if reply.length == size or reply.code < 100:
            reply.body = await gather(self)
        else:
            reply.body = self
        return reply

    def __aiter__(self) -> _PeerCall:
        return self

    async def __anext__(self) -> bytes:
        if self._payload:
            payload, self._payload = self._payload, b""
            return payload
        stream = self._stream
        if stream is None:
            raise StopAsyncIteration
        try:
            while (message := await stream.receive()) is not None:
                head, more, sequence = envelope.read_stream_message(message)
                if head:
                    raise ComponentError("response metadata found in non-leading chunk")
                if more is not None:
                    self._check(sequence)
                    if more:
                        return more
        except BaseException:
            self._end(whole=False)
            raise
        self._end()
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """Stop reading: the peer is told that the rest is not wanted."""
        self._payload = b""
        self._end(whole=False)

    def _check(self, sequence: int) -> None:
        if sequence != self._sequence:
            raise ComponentError(f"invalid sequence number received: {sequence} (expected: {self._sequence})")
        self._sequence += 1

    async def _send(self, stream: ClientStream) -> None:
        """Send the body. What goes wrong with reading it ends the call."""
        body = self._invocation.body
        sequence = 0
        try:
            if isinstance(body, bytes):
                for at in range(0, len(body), CHUNK):
                    await stream.send(envelope.stream_message(None, body[at : at + CHUNK], sequence))
                    sequence += 1
            else:
                self.consumed = True
                async for piece in body:
                    for at in range(0, len(piece), CHUNK):
                        part = piece if len(piece) <= CHUNK else piece[at : at + CHUNK]
                        await stream.send(envelope.stream_message(None, part, sequence))
                        sequence += 1
            await stream.half_close()
        except RpcError:
            return  # the receiving side meets the same end, and tells
        except Exception as error:
            self._failure = error
            stream.cancel()

    async def _unary(self, error: RpcError) -> Reply:
        """Ask a peer that knows no streaming; possible while the body is still here."""
        body = self._invocation.body
        if not isinstance(body, bytes):
            raise ComponentError(NO_STREAMING.format(self._target.text)) from error
        head = self._client.head(self._target, self._invocation, body)
        answer = await self._lease.channel.unary(CALL_LOCAL, head, metadata=trace_metadata(self._invocation))
        found = envelope.read_response(answer.message)
        reply = _reply(found)
        reply.body = found.data
        return reply

    def _end(self, *, whole: bool = True) -> None:
        """The call is over: nothing goes on in its name. `whole` False: the peer may still be busy with it."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        sender, self._sender = self._sender, None
        if sender is not None and not sender.done():
            sender.cancel()
            whole = False
        if not whole:
            stream.cancel()
        self._client.pool.give_back(self._lease)


_replies: dict[bytes, Reply] = {}
"""Replies without their bodies, by the heads that told of them: applications repeat themselves."""


def _reply(answer: envelope.ResponseHead) -> Reply:
    if answer.code is None:
        raise ComponentError(NO_FIELDS)
    headers: Headers = []
    content_type = answer.content_type
    length = None
    for pair in answer.headers:
        if pair[0] == b"content-type":
            content_type = content_type or pair[1]
        elif pair[0] == b"content-length":
            length = int(pair[1]) if pair[1].isdigit() else None
        else:
            headers.append(pair)
    reply = Reply(
        answer.code,
        headers,
        content_type,
        message=answer.message,
        details=answer.details,
        trailers=answer.trailers,
        type_url=answer.type_url,
    )
    reply.length = length
    return reply
