"""Proxying of any gRPC method to an application (spec `grpc-api.md` 6): messages pass as the bytes they are.

Knows: whom a call names, what its metadata loses and gains on the way, when a call may be opened anew. Never knows:
what messages mean; the application, except by the callable that opens a call to it.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pillion.errors import Code, ComponentError, http_to_grpc
from pillion.kinds.component import truthy
from pillion.kinds.invocation import Unsuccessful
from pillion.net.exchange import RpcError
from pillion.peers.client import RETRIED
from pillion.peers.resolve import Place, parse_target
from pillion.records import record
from pillion.resiliency.failures import TimedOut
from pillion.resiliency.run import Policy
from pillion.wire.methods import BadMethod, guarded
from pillion.wire.trace import from_binary, to_binary, valid_parent

if TYPE_CHECKING:
    from collections.abc import Callable, Container

    from pillion.kinds.invocation import InvokePolicies, InvokePolicy, Reply
    from pillion.net.exchange import ClientStream, Metadata, ServerCall
    from pillion.peers.client import PeerClient
    from pillion.peers.resolve import Target

    OpenApp = Callable[[str, Metadata, float | None], ClientStream]
    """Opens a call of the application: method, metadata, seconds until the deadline."""

NO_TARGET = "failed to proxy request: required metadata dapr-callee-app-id or dapr-app-id not found"
ONE_MESSAGE = "cannot use resiliency policies with retries on streaming RPCs"
NO_GRPC_APP = "the application is not available for gRPC"
_NOT_PASSED_ON = frozenset(("dapr-app-id", "host", "content-type", "te", "user-agent"))
_OUR_OWN = frozenset(("dapr-caller-app-id", "dapr-callee-app-id"))


class Proxy:
    """Serves every method that no row has. `open_app` returns None while there is no gRPC application.

    `authorize` is absent when no access rules are configured; it gets the caller's SPIFFE id, the method and "NONE".
    """

    def __init__(
        self,
        app_id: str,
        namespace: str,
        open_app: Callable[[], OpenApp | None],
        peers: PeerClient,
        *,
        policies: InvokePolicies | None = None,
        authorize: Callable[[str | None, str, str], None] | None = None,
        identity: Callable[[ServerCall], str | None] | None = None,
        endpoints: Container[str] = (),
    ) -> None:
        self._app_id = app_id
        self._namespace = namespace
        self._open_app = open_app
        self._peers = peers
        self._policies = policies
        self._authorize = authorize
        self._identity = identity
        self._endpoints = endpoints

    async def serve(self, call: ServerCall) -> None:
        """Serve one call; the `Streaming` handler of both gRPC servers."""
        callee = named = streaming = None
        for name, value in call.metadata:
            if name == "dapr-callee-app-id":
                callee = callee or value
            elif name == "dapr-app-id":
                named = named or value
            elif name == "dapr-stream":
                streaming = streaming or value
        text = callee or named
        if not isinstance(text, str):
            raise RpcError(Code.UNKNOWN, NO_TARGET)
        try:
            target = parse_target(text, self._app_id, self._namespace, self._endpoints)
            if target.place is Place.HERE or target.name == self._app_id:
                await self._serve_here(call)
            elif target.place is Place.PEER:
                metadata = self._outgoing(call, target)
                policy = self._policy(target, call.method) if named else None
                if policy is None:
                    await _relay(call, await self._open(call, target, metadata, await _opening(call)))
                elif isinstance(streaming, str) and truthy(streaming):
                    opening = await _opening(call)
                    stream = await policy(lambda: self._open(call, target, metadata, opening), replayable=True)
                    await _relay(call, stream)
                elif isinstance(policy, Policy) and policy.retry is None:
                    opening = await _opening(call)

                    async def whole() -> None:
                        await _relay(call, await self._open(call, target, metadata, opening))

                    await policy(whole, replayable=False)
                else:
                    await self._serve_guided(call, target, metadata, policy)
            else:
                raise RpcError(Code.UNKNOWN, f"{text} is no application that speaks gRPC")
        except TimedOut as error:
            raise RpcError(Code.DEADLINE_EXCEEDED, str(error)) from error
        except Unsuccessful as error:
            raise _status(error.reply) from error
        except ComponentError as error:
            raise RpcError(Code.UNKNOWN, str(error)) from error

    def _policy(self, target: Target, method: str) -> InvokePolicy | None:
        return self._policies.find(target.name, method)[0] if self._policies is not None else None

    async def _serve_here(self, call: ServerCall) -> None:
        if self._authorize is not None:
            who = self._identity(call) if self._identity is not None else None
            try:
                self._authorize(who, guarded(call.method), "NONE")
            except BadMethod as error:
                raise RpcError(Code.INVALID_ARGUMENT, str(error)) from error
        open_app = self._open_app()
        if open_app is None:
            raise RpcError(Code.UNAVAILABLE, NO_GRPC_APP)
        metadata = [pair for pair in _passed_on(call.metadata) if pair[0] != "dapr-api-token"]
        stream = _Link(open_app(call.method, metadata, _left(call)))
        await stream.begin(await _opening(call))
        await _relay(call, stream)

    def _outgoing(self, call: ServerCall, target: Target) -> Metadata:
        """Return the metadata for another sidecar: who calls whom, the trace in both forms, and all there was."""
        metadata = [pair for pair in _passed_on(call.metadata) if pair[0] not in _OUR_OWN]
        metadata.append(("dapr-caller-app-id", self._app_id))
        metadata.append(("dapr-callee-app-id", target.name))
        parent = binary = None
        for name, value in metadata:
            if name == "traceparent" and isinstance(value, str) and valid_parent(value):
                parent = value
            elif name == "grpc-trace-bin" and isinstance(value, bytes):
                binary = from_binary(value)
        if binary and not parent:
            metadata.append(("traceparent", binary))
        elif parent and not binary:
            metadata.append(("grpc-trace-bin", to_binary(parent)))
        return metadata

    async def _open(self, call: ServerCall, target: Target, metadata: Metadata, opening: _Opening) -> _Link:
        """Open the call at an instance of the target and send what the client has sent so far.

        An instance that cannot be reached is left alone, and another one - or the same over a new connection - is
        tried, once.
        """
        directory, pool = self._peers.directory, self._peers.pool
        again = True
        while True:
            address = await directory.pick(target.name, target.namespace)
            lease = pool.take(address, target)
            stream = lease.channel.stream(call.method, metadata=metadata, timeout_s=_left(call))
            link = _Link(stream, lambda lease=lease: pool.give_back(lease))  # type: ignore[misc]
            try:
                await link.begin(opening)
            except RpcError as error:
                link.end()
                if error.code not in RETRIED:
                    raise
                pool.retire(lease)
                directory.failed(target.name, target.namespace, address)
                if not again:
                    raise
                again = False
            except BaseException:
                link.cancel()
                raise
            else:
                return link

    async def _serve_guided(self, call: ServerCall, target: Target, metadata: Metadata, policy: InvokePolicy) -> None:
        """Serve a unary call under a policy: its message is kept, its answer held back until the status is known."""
        first = await call.receive()
        if first is not None and await call.receive() is not None:
            raise RpcError(Code.FAILED_PRECONDITION, ONE_MESSAGE)
        opening = _Opening(first, whole=True)

        async def attempt() -> RpcError | None:
            stream = await self._open(call, target, metadata, opening)
            held: bytes | None = None
            sent = False
            try:
                while (message := await stream.receive()) is not None:
                    if held is not None:
                        call.initial_metadata = await stream.initial_metadata()
                        await call.send(held)
                        sent = True
                    held = message
            except RpcError as error:
                if sent:
                    return error  # the client has seen a part: there is nothing to repeat
                raise
            except BaseException:
                stream.cancel()
                raise
            call.initial_metadata = await stream.initial_metadata()
            call.trailing_metadata = stream.trailing_metadata()
            if held is not None:
                await call.send(held)
            return None

        failure = await policy(attempt, replayable=True)
        if failure is not None:
            raise failure


@record
class _Opening:
    """What a client has sent when its call is opened: perhaps a message; `whole`: and nothing will follow."""

    first: bytes | None
    whole: bool


async def _opening(call: ServerCall) -> _Opening:
    """Take what is there without waiting: the client may well wait for the server to speak first."""
    first = await call.receive() if call.ready else None
    return _Opening(first, call.exhausted)


class _Link:
    """A call that was opened for another one. `end` is told once, when it is over: the channel is free again."""

    __slots__ = ("_over", "_stream", "half_closed")

    def __init__(self, stream: ClientStream, over: Callable[[], None] | None = None) -> None:
        self._stream = stream
        self._over = over
        self.half_closed = False

    async def begin(self, opening: _Opening) -> None:
        """Send what there is, the end with it if that is known."""
        self.half_closed = opening.whole
        if opening.first is None:
            if opening.whole:
                await self._stream.half_close()
        elif opening.whole:
            await self._stream.send_last(opening.first)
        else:
            await self._stream.send(opening.first)

    async def send(self, message: bytes) -> None:
        await self._stream.send(message)

    async def half_close(self) -> None:
        await self._stream.half_close()

    async def receive(self) -> bytes | None:
        try:
            message = await self._stream.receive()
        except BaseException:
            self.end()
            raise
        if message is None:
            self.end()
        return message

    async def initial_metadata(self) -> Metadata:
        return await self._stream.initial_metadata()

    def trailing_metadata(self) -> Metadata:
        return self._stream.trailing_metadata()

    def cancel(self) -> None:
        self._stream.cancel()
        self.end()

    def end(self) -> None:
        over, self._over = self._over, None
        if over is not None:
            over()


def _passed_on(metadata: Metadata) -> Metadata:
    """Return what goes on to the next hop: pseudo-headers and what the transport says itself stay behind."""
    return [pair for pair in metadata if pair[0] not in _NOT_PASSED_ON and pair[0][:1] != ":"]


def _status(reply: Reply) -> RpcError:
    """Return an answer that a policy made up (fault injection) as a status."""
    if reply.http:
        text = reply.body.decode("utf-8", "replace") if isinstance(reply.body, bytes) else ""
        return RpcError(http_to_grpc(reply.code), text)
    return RpcError(reply.code, reply.message)


def _left(call: ServerCall) -> float | None:
    """Return the seconds until the caller's deadline."""
    if call.deadline is None:
        return None
    return max(call.deadline - asyncio.get_running_loop().time(), 0.001)


async def _relay(call: ServerCall, link: _Link) -> None:
    """Pass messages both ways until the server ends the call; its headers, trailers and status go through unchanged."""
    upward = None if link.half_closed else asyncio.get_running_loop().create_task(_send_up(call, link))
    try:
        message = await link.receive()
        call.initial_metadata = await link.initial_metadata()
        while message is not None:
            await call.send(message)
            message = await link.receive()
        call.trailing_metadata = link.trailing_metadata()
    except RpcError:
        raise
    except BaseException:
        link.cancel()
        raise
    finally:
        if upward is not None and not upward.done():
            upward.cancel()


async def _send_up(call: ServerCall, link: _Link) -> None:
    try:
        while (message := await call.receive()) is not None:
            await link.send(message)
        await link.half_close()
    except RpcError:
        link.cancel()  # the client broke off, or the server ended early: the other direction tells which
