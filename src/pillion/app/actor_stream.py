"""Actors of an application that keeps a stream open to its sidecar (spec `actors-workflows-jobs.md` 1.8).

The sidecar asks over the stream and the application answers by the request's id. Of several streams the newest is
asked; an older one still answers what it was asked, and is asked again when the newer ones are gone. Knows: the
messages after the first, who waits for which answer. Never knows: how a stream begins, which types it registers, gRPC.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from pillion.errors import Code
from pillion.kinds.actors import ActorError, ActorReply, AppRefused, MethodMissing
from pillion.net.exchange import RpcError
from pillion.wire.http1 import canonical
from pillion.wire.messages import runtime as m
from pillion.wire.messages import wellknown
from pillion.wire.methods import sendable

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pillion.kinds.actors import ActorCall, Headers, Tick
    from pillion.net.exchange import ServerCall

log = logging.getLogger("pillion.app.actors")
OUTBOX = 128
"""Requests that wait for the stream's window; whoever has one more waits with it."""
GONE = "actor host disconnected before responding"
NOBODY = "actor host is not connected"
_ERROR = (b"x-daprerrorresponseheader", b"true")


class ActorStreams:
    """The streams of one application, as a `Handler`."""

    def __init__(self) -> None:
        self._streams: list[ActorStream] = []

    def add(self, call: ServerCall) -> ActorStream:
        """A stream has registered: it is the one that is asked from now on."""
        stream = ActorStream(call)
        self._streams.append(stream)
        return stream

    def remove(self, stream: ActorStream) -> None:
        """A stream is over: whoever still waits for an answer gets an error."""
        if stream in self._streams:
            self._streams.remove(stream)
        stream.end()

    async def invoke(self, call: ActorCall) -> ActorReply:
        """Run a method. Raises `ActorError`s."""
        metadata: dict[str, str] = {}
        for name, value in call.headers:
            metadata.setdefault(canonical(name).decode("latin-1"), value.decode("latin-1"))
        if call.content_type:
            metadata["Content-Type"] = call.content_type.decode("latin-1")
        if call.remote:
            metadata["X-Dapr-Remote"] = "true"
        request = m.SubscribeActorEventsResponseInvokeRequestAlpha1(
            actor_type=call.actor_type, actor_id=call.actor_id, method=call.method, data=call.body, metadata=metadata
        )
        answer = await self._newest().ask("invoke_request", "invoke_response", request, call.method)
        return _reply(answer.invoke_response)

    async def tick(self, tick: Tick) -> bool:
        """Run a reminder or a timer; True: the application wants it cancelled. Raises `ActorError`s."""
        data = _data(tick)
        if tick.is_timer:
            timer = m.SubscribeActorEventsResponseTimerRequestAlpha1(
                actor_type=tick.actor_type, actor_id=tick.actor_id, name=tick.name, due_time=tick.due_time,
                period=tick.period, callback=tick.callback, data=data,
            )  # fmt: skip
            answer = await self._newest().ask("timer_request", "timer_response", timer, f"timer/{tick.name}")
            return answer.timer_response.cancel
        reminder = m.SubscribeActorEventsResponseReminderRequestAlpha1(
            actor_type=tick.actor_type, actor_id=tick.actor_id, name=tick.name, due_time=tick.due_time,
            period=tick.period, data=data,
        )  # fmt: skip
        answer = await self._newest().ask("reminder_request", "reminder_response", reminder, f"remind/{tick.name}")
        return answer.reminder_response.cancel

    async def deactivate(self, actor_type: str, actor_id: str) -> None:
        """Tell the application. Raises `ActorError`s."""
        request = m.SubscribeActorEventsResponseDeactivateRequestAlpha1(actor_type=actor_type, actor_id=actor_id)
        await self._newest().ask("deactivate_request", "deactivate_response", request, "deactivate")

    def _newest(self) -> ActorStream:
        if not self._streams:
            raise ActorError(NOBODY)
        return self._streams[-1]

    def __len__(self) -> int:
        return len(self._streams)

    def __repr__(self) -> str:
        return f"<ActorStreams, {len(self)} open>"


class ActorStream:
    """One stream: the requests on their way to the application, and who waits for an answer."""

    def __init__(self, call: ServerCall) -> None:
        self._call = call
        self._last = 0
        self._over = False
        self._outbox: asyncio.Queue[tuple[str, bytes]] = asyncio.Queue(OUTBOX)
        self._waiting: dict[str, tuple[str, str, asyncio.Future[m.SubscribeActorEventsRequestAlpha1]]] = {}

    async def ask(self, kind: str, wanted: str, request: Message, method: str) -> m.SubscribeActorEventsRequestAlpha1:
        """Send a request under the next id and return its answer, which is of the kind `wanted`. Raises `ActorError`s.

        Who stops waiting is forgotten; a late answer is then one to an unknown id.
        """
        if self._over:
            raise ActorError(NOBODY)
        self._last += 1
        identifier = str(self._last)
        request.id = identifier  # type: ignore[attr-defined]
        message = m.SubscribeActorEventsResponseAlpha1(**{kind: request})  # type: ignore[arg-type]
        outgoing = identifier, message.SerializeToString()
        answer: asyncio.Future[m.SubscribeActorEventsRequestAlpha1] = asyncio.get_running_loop().create_future()
        self._waiting[identifier] = wanted, method, answer
        try:
            if self._outbox.full():
                await self._put(outgoing, answer)
            else:
                self._outbox.put_nowait(outgoing)
            return await answer
        finally:
            del self._waiting[identifier]

    async def _put(
        self, outgoing: tuple[str, bytes], answer: asyncio.Future[m.SubscribeActorEventsRequestAlpha1]
    ) -> None:
        """Wait for room, but not beyond the stream's end."""
        putting = asyncio.ensure_future(self._outbox.put(outgoing))
        try:
            each: set[asyncio.Future[Any]] = {putting, answer}
            await asyncio.wait(each, return_when=asyncio.FIRST_COMPLETED)
        finally:
            putting.cancel()

    async def converse(self) -> None:
        """Send and receive until the application half-closes. Raises `RpcError` for what is no message."""
        sending = asyncio.ensure_future(self._send())
        try:
            while (message := await self._call.receive()) is not None:
                try:
                    request = m.SubscribeActorEventsRequestAlpha1.FromString(message)
                except DecodeError as error:
                    raise RpcError(Code.INTERNAL, f"grpc: error unmarshalling request: {error}") from error
                self._take(request)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _send(self) -> None:
        while True:
            identifier, message = await self._outbox.get()
            waiting = self._waiting.get(identifier)
            if waiting is None:  # nobody waits for it any more
                continue
            try:
                await self._call.send(message)
            except RpcError as error:  # this one cannot be sent; when the stream is over, reading it ends as well
                if not waiting[2].done():
                    waiting[2].set_exception(ActorError(f"the request could not be sent: {error.message}"))

    def _take(self, request: m.SubscribeActorEventsRequestAlpha1) -> None:
        kind = request.WhichOneof("request_type")
        if kind is None or kind == "initial_request":
            log.warning("a message that answers nothing is ignored on a stream of actors: %s", kind or "an empty one")
            return
        identifier = getattr(request, kind).id
        waiting = self._waiting.get(identifier)
        if waiting is None or waiting[2].done():
            log.debug("an answer to a request that is not outstanding is ignored: %.64r", identifier)
            return
        wanted, method, answer = waiting
        if kind == "request_failed":
            answer.set_exception(_failure(request.request_failed, method))
        elif kind != wanted:
            answer.set_exception(ActorError(f"unexpected response type {kind} for a request that wants {wanted}"))
        else:
            answer.set_result(request)

    def end(self) -> None:
        """Nothing more will come: fail those who wait."""
        self._over = True
        for _, _, answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(ActorError(GONE))

    def __repr__(self) -> str:
        return f"<ActorStream, {len(self._waiting)} outstanding{', over' if self._over else ''}>"


def _failure(failed: m.SubscribeActorEventsRequestFailedAlpha1, method: str) -> ActorError:
    if failed.code == Code.NOT_FOUND:
        return MethodMissing(f"actor method not found: {method}")
    return AppRefused(f"error from actor service: {failed.message}")


def _reply(response: m.SubscribeActorEventsRequestInvokeResponseAlpha1) -> ActorReply:
    headers: Headers = []
    content_type = b""
    for name, text in response.metadata.items():
        key, value = name.lower().encode(), text.encode("utf-8")
        if not sendable(key, value):
            raise ActorError(f"the application answered with metadata that cannot be passed on: {name[:64]!r}")
        if key == b"content-type":
            content_type = value
        else:
            headers.append((key, value))
    if response.error:
        headers.append(_ERROR)
    return ActorReply(response.data, 200, headers, content_type, response.error)


def _data(tick: Tick) -> wellknown.Any | None:
    """Return what a reminder or timer was registered with: as it was kept, or its JSON as bytes in an `Any`."""
    if tick.payload:
        return wellknown.Any.FromString(tick.payload)
    if tick.data is None:
        return None
    packed = wellknown.Any()
    packed.Pack(wellknown.BytesValue(value=tick.data))
    return packed
