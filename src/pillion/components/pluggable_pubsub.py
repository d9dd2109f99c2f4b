"""Brokers that are other processes: `PubSub` of components.v1.

Knows: one stream for each subscription, on which messages come one at a time and are answered in that order. When the
stream breaks it is asked for again for as long as the subscription lives.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from pillion.components.pluggable import Patience, Plug, PluggableSettings
from pillion.errors import Code
from pillion.kinds.pubsub import Delivery, Feature
from pillion.net.exchange import RpcError
from pillion.tasks import Tasks
from pillion.wire.messages import components as m

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from pillion.components.pluggable import Message
    from pillion.kinds.component import Context
    from pillion.kinds.pubsub import BulkEntry, Publish
    from pillion.net.grpc_streams import StreamCall

    Handler = Callable[[Delivery], Awaitable[None]]

log = logging.getLogger("pillion.components.pluggable")
SERVICE = "PubSub"
TAKEN = frozenset({Feature.MESSAGE_TTL, Feature.SUBSCRIBE_WILDCARDS, Feature.BULK_PUBLISH})
PAUSE_S = 5.0
PARTING_S = 1.0
"""How long the component may take to end a stream of which we said the last word."""


class PluggablePubSub:
    """A broker behind a socket."""

    Settings = PluggableSettings
    features: frozenset[Feature] = frozenset()

    def __init__(self, settings: PluggableSettings, context: Context) -> None:
        self.name = context.name
        self.plug = Plug(settings, context, [(SERVICE, m.PubSubInitRequest)])
        self._tasks = Tasks(f"pubsub {context.name}")
        self._running: set[_Subscription] = set()
        self._paused = False

    async def open(self) -> None:
        declared = await self.plug.features(SERVICE)
        self.features = frozenset(feature for feature in TAKEN if feature.value in declared)

    async def ping(self) -> None:
        await self.plug.ping(SERVICE)

    async def close(self) -> None:
        await asyncio.gather(*(subscription.close() for subscription in list(self._running)))
        await self._tasks.close()
        await self.plug.close()

    async def publish(self, message: Publish) -> None:
        request = m.PublishRequest(
            data=message.data, pubsub_name=self.name, topic=message.topic, metadata=message.metadata
        )  # no content type: the reference sends none
        await self.plug.ask(SERVICE, "Publish", request, m.PublishResponse)

    async def bulk_publish(
        self, topic: str, entries: Sequence[BulkEntry], metadata: Mapping[str, str]
    ) -> list[tuple[str, str]]:
        rows = [
            m.BulkMessageEntry(
                entry_id=entry.entry_id, event=entry.data, content_type=entry.content_type, metadata=entry.metadata
            )
            for entry in entries
        ]
        request = m.BulkPublishRequest(entries=rows, pubsub_name=self.name, topic=topic, metadata=metadata)
        answer = await self.plug.ask(SERVICE, "BulkPublish", request, m.BulkPublishResponse)
        return [(failed.entry_id, failed.error) for failed in answer.failed_entries]

    async def subscribe(self, topic: str, metadata: Mapping[str, str], handler: Handler) -> _Subscription:
        subscription = _Subscription(self, topic, metadata, handler)
        try:
            await subscription.pull()
            if self._paused:
                await self._say("Resume", m.ResumeRequest(), m.ResumeResponse)
                self._paused = False
        except RpcError as error:
            subscription.hang_up()
            raise self.plug.failure(error) from error
        self._running.add(subscription)
        subscription.task = self._tasks.keep(subscription.run, f"subscription {topic}")
        return subscription

    async def ended(self, subscription: _Subscription) -> None:
        """A subscription takes no more. After the last one the component as a whole may rest."""
        if subscription not in self._running:
            return
        self._running.discard(subscription)
        if self._running or self._paused:
            return
        self._paused = True
        try:
            async with asyncio.timeout(PAUSE_S):
                await self._say("Pause", m.PauseRequest(), m.PauseResponse)
        except (RpcError, TimeoutError) as error:
            log.warning("pubsub %s could not be paused: %s", self.name, error)

    async def _say(self, method: str, request: Message, answer: type[Message]) -> None:
        """Say what a component need not understand."""
        try:
            await self.plug.call(SERVICE, method, request, answer)
        except RpcError as error:
            if error.code != Code.UNIMPLEMENTED:
                raise

    def __repr__(self) -> str:
        return f"<PluggablePubSub: {self.plug!r}, {len(self._running)} subscriptions>"


class _Subscription:
    """One topic and its handler. `task` runs `run`."""

    task: asyncio.Task[None] | None = None

    def __init__(self, broker: PluggablePubSub, topic: str, metadata: Mapping[str, str], handler: Handler) -> None:
        self.topic = topic
        self._broker, self._metadata, self._handler = broker, metadata, handler
        self._patience = Patience()
        self._stop = self._patience.stop
        self._stream: StreamCall | None = None
        self._busy = False

    async def pull(self) -> StreamCall:
        """Ask for the topic; raises `RpcError`."""
        stream = await self._broker.plug.stream(SERVICE, "PullMessages")
        topic = m.Topic(name=self.topic, metadata=self._metadata)
        try:
            await stream.send(m.PullMessagesRequest(topic=topic).SerializeToString())
        except BaseException:
            stream.cancel()
            raise
        self._stream = stream
        return stream

    def hang_up(self) -> None:
        """Leave the stream, if there is one."""
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel()

    async def run(self) -> None:
        """Take messages, first from the stream that was opened by `subscribe`."""
        while not self._stop.is_set():
            try:
                await self._follow(self._stream or await self.pull())
                why = "the component ended it"
            except (RpcError, DecodeError) as error:
                why = str(error)
            finally:
                self.hang_up()
            if not self._stop.is_set():
                log.warning("subscription of %s to %s is interrupted: %s", self._broker.name, self.topic, why)
                await self._patience.wait()

    async def _follow(self, stream: StreamCall) -> None:
        while (data := await stream.receive()) is not None:
            if self._stop.is_set():
                continue  # not begun: the component keeps it
            self._patience.renew()
            message = m.PullMessagesResponse()
            message.ParseFromString(data)
            self._busy = True
            try:
                answer = await self._handled(message)
            finally:
                self._busy = False
            await stream.send(answer.SerializeToString())
            if self._stop.is_set():
                await self._part(stream)

    async def _handled(self, message: m.PullMessagesResponse) -> m.PullMessagesRequest:
        delivery = Delivery(
            message.topic_name or self.topic, message.data, dict(message.metadata), message.content_type
        )  # fmt: skip
        try:
            await self._handler(delivery)
        except Exception as error:
            failure = m.AckMessageError(message=str(error) or type(error).__name__)
            return m.PullMessagesRequest(ack_message_id=message.id, ack_error=failure)
        return m.PullMessagesRequest(ack_message_id=message.id)

    async def _part(self, stream: StreamCall) -> None:
        """Say that no answer follows. What was said before arrives; then the component ends the stream, or we do."""
        asyncio.get_running_loop().call_later(PARTING_S, stream.cancel)
        await stream.half_close()

    async def pause(self) -> None:
        """Begin nothing more. The stream ends when the message in flight is answered: what the component has pushed
        beyond it shall go to somebody else.
        """
        if self._stop.is_set():
            return
        self._stop.set()
        if self._stream is None:
            if self.task is not None:
                self.task.cancel()
        elif not self._busy:
            try:
                await self._part(self._stream)
            except RpcError as error:
                log.debug("the stream of %s had ended: %s", self.topic, error)
            await self._finished()
        await self._broker.ended(self)

    async def _finished(self) -> None:
        if self.task is not None and self.task is not asyncio.current_task():
            await asyncio.wait([self.task])

    async def close(self) -> None:
        await self.pause()
        await self._finished()

    def __repr__(self) -> str:
        return f"<subscription of {self._broker.name} to {self.topic}>"
