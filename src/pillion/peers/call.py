"""One call of another sidecar: the request goes out, the reply comes back (spec `grpc-api.md` 8).

Knows: the messages of `CallLocalStream` and of `CallLocal`, their order and numbers, when nothing may go on any more.
Never knows: which instance is called, what is tried again.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pillion.errors import Code, ComponentError
from pillion.kinds.invocation import Reply, gather
from pillion.net.exchange import RpcError
from pillion.peers.heads import trace_metadata
from pillion.wire import envelope

if TYPE_CHECKING:
    from pillion.kinds.invocation import Headers, Invocation
    from pillion.net.exchange import ClientStream
    from pillion.peers.heads import Heads
    from pillion.peers.pool import Lease, Pool
    from pillion.peers.resolve import Target

SERVICE = "/dapr.proto.internals.v1.ServiceInvocation/"
CALL_LOCAL = SERVICE + "CallLocal"
CALL_LOCAL_STREAM = SERVICE + "CallLocalStream"
CHUNK = 65536
"""Bytes of body in one message. The reference writes 2 KiB and reads any size (spec `grpc-api.md` 8)."""
REMEMBERED, MEMORABLE = 512, 2048
"""How many heads of replies are remembered, and up to how many bytes each."""
NO_STREAMING = "target app '{}' is running a version of Dapr that does not support streaming-based service invocation"
NO_FIELDS = "response does not contain the required fields in the leading chunk"


class PeerCall:
    """One attempt, and afterwards the body of its reply: iterate it to its end or `aclose` it.

    `sent`: the peer may have seen something of the request.
    """

    __slots__ = (
        "_ended", "_failure", "_heads", "_invocation", "_lease", "_payload", "_pool", "_sender", "_sequence", "_stream",
        "_target", "sent",
    )  # fmt: skip

    def __init__(self, heads: Heads, pool: Pool, lease: Lease, target: Target, invocation: Invocation) -> None:
        self._heads = heads
        self._pool = pool
        self._lease = lease
        self._target = target
        self._invocation = invocation
        self._sender: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        self._stream: ClientStream | None = None
        self._payload = b""
        self._sequence = 0
        self._ended = False
        self.sent = False

    async def run(self) -> Reply:
        """Send the invocation and return the reply. Its body is this object while more may arrive."""
        invocation = self._invocation
        body = invocation.body
        try:
            head = self._heads.write(self._target, invocation)
            stream = self._lease.channel.stream(CALL_LOCAL_STREAM, metadata=trace_metadata(invocation))
            self._stream = stream
            try:
                if isinstance(body, bytes) and len(body) <= CHUNK:
                    await stream.send_last(envelope.stream_message(head, body, 0))
                    self.sent = True
                else:
                    await self._begin(stream, head)
                message = await stream.receive()
            except RpcError as error:
                reply = await self._otherwise(error)
            else:
                reply = self._read(message)
                if stream.exhausted:
                    reply.body, self._payload = self._payload, b""
                elif reply.length == len(self._payload) or reply.code < 100:
                    reply.body = await gather(self)
                else:
                    reply.body = self
            if reply.body is not self:
                self._end()
        except envelope.BadEnvelope as error:
            self._end(whole=False)
            raise ComponentError(f"invalid response from the peer: {error}") from error
        except BaseException:
            self._end(whole=False)
            raise
        return reply

    async def _begin(self, stream: ClientStream, head: bytes) -> None:
        """Send the head of a call whose body goes in pieces, and start sending those."""
        await stream.send(envelope.stream_message(head, b"", 0))
        self.sent = True
        self._sender = asyncio.get_running_loop().create_task(self._send(stream))

    async def _otherwise(self, error: RpcError) -> Reply:
        """Return the reply in the unary form where the streaming one is not known; raise what went wrong elsewhere."""
        if self._failure is not None:
            raise self._failure from error
        if error.code == Code.UNIMPLEMENTED:
            return await self._unary(error)
        raise error

    def _read(self, message: bytes | None) -> Reply:
        """Read the first message: the head of the reply, and in `_payload` what came of its body."""
        if message is None:
            raise ComponentError(NO_FIELDS)
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
        return reply

    def __aiter__(self) -> PeerCall:
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
        head = self._heads.write(self._target, self._invocation, body)
        answer = await self._lease.channel.unary(CALL_LOCAL, head, metadata=trace_metadata(self._invocation))
        found = envelope.read_response(answer.message)
        reply = _reply(found)
        reply.body = found.data
        return reply

    def _end(self, *, whole: bool = True) -> None:
        """The call is over: nothing goes on in its name. `whole` False: the peer may still be busy with it."""
        if self._ended:
            return
        self._ended = True
        sender, self._sender = self._sender, None
        if sender is not None and not sender.done():
            sender.cancel()
            whole = False
        stream, self._stream = self._stream, None
        if stream is not None and not whole:
            stream.cancel()
        self._pool.give_back(self._lease)


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
