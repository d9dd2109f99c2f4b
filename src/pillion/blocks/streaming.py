"""Subscriptions over a stream that the application opened (spec `grpc-api.md` 4, SubscribeTopicEventsAlpha1).

Each stream is a subscription of its own. Events go out as they come, many at a time; acknowledgements come back by the
event's id. What a stream has not acknowledged when it ends is withheld: the broker keeps it, and it is delivered again.
Knows: the steps of a stream. Never knows: brokers.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from pillion.api.operation import Operation, Rpc
from pillion.app.grpc_topics import judge_status, topic_event
from pillion.blocks import pubsub_faults as faults
from pillion.blocks.active import GRACE_S, LAST_WORD_S, Active, activate_single
from pillion.errors import ApiError, Code, ComponentError
from pillion.kinds.rules import Rule
from pillion.kinds.topics import Origin, TopicSubscription, Unprocessed
from pillion.net.exchange import RpcError
from pillion.observe.delivery import traced_delivery
from pillion.tasks import Tasks
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.api.call import RpcCall
    from pillion.blocks.broker import Broker, Meter
    from pillion.blocks.subscriptions import Subscriptions
    from pillion.clock import Clock
    from pillion.kinds.topics import Deliver, Event, Verdict
    from pillion.net.exchange import ServerCall
    from pillion.observe.tracing import Tracer

log = logging.getLogger("pillion.blocks.streaming")
_READY = m.SubscribeTopicEventsResponseAlpha1(
    initial_response=m.SubscribeTopicEventsResponseInitialAlpha1()
).SerializeToString()
_END_BUDGET_S = 1.0
"""How long handlers whose stream is gone may take to notice."""


class StreamingBlock:
    """The streams of one sidecar. `brokers` is the live registry; `subscriptions` lists the streams for metadata."""

    def __init__(
        self,
        brokers: Mapping[str, Broker],
        subscriptions: Subscriptions,
        *,
        clock: Clock | None = None,
        meter: Meter | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer
        self._brokers = brokers
        self._subscriptions = subscriptions
        self._clock = clock
        self._meter = meter
        self._grace_s = GRACE_S
        self._closed = asyncio.Event()
        self._streams: dict[_Stream, str] = {}
        self._handlers: set[asyncio.Task[object]] = set()
        self._tasks = Tasks("streaming subscriptions")

    def operations(self) -> list[Operation]:
        """The row of this block."""
        row = Rpc(("SubscribeTopicEventsAlpha1",), stream=self.subscribe)
        return [Operation("SubscribeTopicEventsAlpha1", "subscribe", "v1alpha1", rpc=row)]

    async def subscribe(self, call: RpcCall) -> None:
        """Serve one stream from its first message to its end."""
        task = asyncio.current_task()
        assert task is not None
        self._handlers.add(task)
        try:
            await self._serve(call.stream)
        finally:
            self._handlers.discard(task)

    async def broker_leaving(self, name: str) -> None:
        """A pub/sub component is about to be closed: drain and end its streams."""
        await self._drain([stream for stream, pubsub in self._streams.items() if pubsub == name], GRACE_S)

    async def close(self, grace_s: float = GRACE_S) -> None:
        """Take no new streams; give those there are up to `grace_s` seconds for outstanding acknowledgements."""
        self._grace_s = min(grace_s, GRACE_S)
        self._closed.set()
        await self._drain(list(self._streams), self._grace_s)
        mine = asyncio.current_task()
        waiting = [task for task in self._handlers if task is not mine]
        if waiting:
            await asyncio.wait(waiting, timeout=LAST_WORD_S)
        await self._tasks.close()

    async def _drain(self, streams: list[_Stream], grace_s: float) -> None:
        for stream in streams:
            stream.ending.set()
        ended = [asyncio.ensure_future(stream.ended.wait()) for stream in streams]
        if ended:
            _, late = await asyncio.wait(ended, timeout=grace_s + LAST_WORD_S)
            for waiting in late:
                waiting.cancel()

    async def _serve(self, call: ServerCall) -> None:
        initial = await self._initial(call)
        name, topic = initial.pubsub_name, initial.topic
        broker = self._brokers.get(name)
        if not name:
            raise RpcError(Code.UNKNOWN, "pubsubName is required")
        if not topic:
            raise RpcError(Code.UNKNOWN, "topic is required")
        if broker is None:
            raise ApiError(faults.NOT_FOUND, pubsub=name)
        if not broker.may_subscribe(topic):
            raise RpcError(
                Code.UNKNOWN, f"failed to create subscription for {name}: subscription to topic {topic} is not allowed"
            )
        subscription = TopicSubscription(
            pubsub=name,
            topic=topic,
            rules=(Rule("", "/"),),
            metadata=dict(initial.metadata),
            dead_letter=initial.dead_letter_topic,
            origin=Origin.STREAMING,
        )
        stream = _Stream(call, name)
        deliver: Deliver = stream.deliver
        if self._tracer is not None:
            deliver = traced_delivery(deliver, self._tracer, topic)
        try:
            active = activate_single(broker, subscription, deliver, clock=self._clock, meter=self._meter)
            await active.open()
        except (ComponentError, ValueError) as error:
            raise RpcError(Code.UNKNOWN, f"failed to create subscription for {name}: {error}") from error
        self._streams[stream] = name
        self._subscriptions.streams[id(stream)] = subscription
        if self._closed.is_set():
            stream.ending.set()
        try:
            await self._converse(call, stream, active)
        finally:
            active.carrier.begin_close()
            stream.end()
            self._tasks.start(self._let_go(stream, active), "end")

    async def _let_go(self, stream: _Stream, active: Active) -> None:
        """End the broker's side; runs apart from the call, which may be cancelled."""
        try:
            await active.close(_END_BUDGET_S)
        finally:
            self._streams.pop(stream, None)
            self._subscriptions.streams.pop(id(stream), None)
            stream.ended.set()

    async def _initial(self, call: ServerCall) -> m.SubscribeTopicEventsRequestInitialAlpha1:
        """Wait for the first message, for ever, but not beyond the sidecar's own end."""
        reading = asyncio.ensure_future(call.receive())
        closing = asyncio.ensure_future(self._closed.wait())
        try:
            await asyncio.wait({reading, closing}, return_when=asyncio.FIRST_COMPLETED)
            if closing.done():
                raise RpcError(Code.UNKNOWN, "api server closed")
            message = reading.result()
        finally:
            await _cancelled(reading, closing)
        if message is None:
            raise RpcError(Code.UNKNOWN, "EOF")
        request = _parsed(message)
        if not request.HasField("initial_request"):
            raise RpcError(Code.UNKNOWN, "initial request is required")
        return request.initial_request

    async def _converse(self, call: ServerCall, stream: _Stream, active: Active) -> None:
        """Deliver and read acknowledgements until the client, the sidecar or the component ends it."""
        stream.ready()
        await stream.send(_READY)
        reading = asyncio.ensure_future(stream.read())
        ending = asyncio.ensure_future(stream.ending.wait())
        try:
            await asyncio.wait({reading, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                draining = asyncio.ensure_future(active.close(self._grace_s))
                await asyncio.wait({reading, draining}, return_when=asyncio.FIRST_COMPLETED)
                stream.end()
                await draining
                raise RpcError(Code.UNKNOWN, "stream closed")
            reading.result()
        finally:
            await _cancelled(reading, ending)
        raise RpcError(Code.UNKNOWN, "EOF")


class _Stream:
    """One stream: what is on its way to the application, and what came back."""

    def __init__(self, call: ServerCall, pubsub: str) -> None:
        self.ending = asyncio.Event()
        self.ended = asyncio.Event()
        self._call = call
        self._pubsub = pubsub
        self._ready = asyncio.Event()
        self._over = False
        self._turn = asyncio.Lock()
        self._waiting: dict[str, deque[asyncio.Future[int | None]]] = {}

    def ready(self) -> None:
        """Let events out: the initial response is first in line."""
        self._ready.set()

    async def send(self, message: bytes) -> None:
        """Send one message; calls from many handlers take turns."""
        async with self._turn:
            await self._call.send(message)

    async def deliver(self, event: Event, path: str) -> Verdict:
        """Send one event and wait for its acknowledgement."""
        await self._ready.wait()
        if self._over:
            raise Unprocessed("the stream has ended", held=True)
        message = topic_event(event, self._pubsub, path)
        outgoing = m.SubscribeTopicEventsResponseAlpha1(event_message=message).SerializeToString()
        answer: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(message.id, deque()).append(answer)
        try:
            await self.send(outgoing)
            status = await answer
        except RpcError as error:
            raise Unprocessed(f"the event could not be sent: {error.message}", grpc_code=error.code) from error
        finally:
            self._forget(message.id, answer)
        if status is None:
            raise Unprocessed("the stream has ended", held=True)
        return judge_status(status)

    def _forget(self, event_id: str, answer: asyncio.Future[int | None]) -> None:
        queue = self._waiting.get(event_id)
        if queue is not None:
            with suppress(ValueError):
                queue.remove(answer)
            if not queue:
                del self._waiting[event_id]

    async def read(self) -> None:
        """Take acknowledgements until the client half-closes; raises `RpcError` for what does not belong here."""
        while (message := await self._call.receive()) is not None:
            request = _parsed(message)
            if request.HasField("initial_request"):
                raise RpcError(Code.UNKNOWN, "duplicate initial request received")
            processed = request.event_processed
            queue = self._waiting.get(processed.id)
            answer = next((each for each in queue if not each.done()), None) if queue else None
            if answer is None:
                log.warning("an acknowledgement for an event that is not outstanding is ignored: %.64r", processed.id)
            else:
                answer.set_result(processed.status.status)

    def end(self) -> None:
        """Tell every waiting delivery that no acknowledgement will come."""
        self._over = True
        self._ready.set()
        for queue in self._waiting.values():
            for answer in queue:
                if not answer.done():
                    answer.set_result(None)


def _parsed(message: bytes) -> m.SubscribeTopicEventsRequestAlpha1:
    try:
        return m.SubscribeTopicEventsRequestAlpha1.FromString(message)
    except DecodeError as error:
        raise RpcError(Code.INTERNAL, f"grpc: error unmarshalling request: {error}") from error


async def _cancelled(*futures: asyncio.Future[Any]) -> None:
    """Cancel what is no longer waited for, and see to its end."""
    for future in futures:
        future.cancel()
    await asyncio.gather(*futures, return_exceptions=True)
