"""Subscriptions and deliveries as values that the application's side and the block share.

Knows: what an application asked for, an event on its way to it, what it may answer. Never knows: how it is asked.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, Any, Protocol

from pillion.errors import Code
from pillion.kinds.component import go_bool
from pillion.kinds.pacing import Pacing
from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillion.kinds.rules import Rule

DEFAULT_MAX_MESSAGES = 100
DEFAULT_MAX_WAIT_S = 1.0
MOST_MESSAGES = 10_000
"""The largest bulk; an application that asks for more gets this many at a time."""


class Origin(IntEnum):
    """Who asked for a subscription; the numbers of `PubsubSubscriptionType`."""

    DECLARATIVE = 1
    PROGRAMMATIC = 2
    STREAMING = 3


@record
class Bulk:
    """Collect up to `max_messages`, or for `max_wait_s` seconds from the first one that waits."""

    max_messages: int = DEFAULT_MAX_MESSAGES
    max_wait_s: float = DEFAULT_MAX_WAIT_S


def bulk_of(enabled: bool, max_messages: int, max_wait_ms: int) -> Bulk | None:
    """Read the three fields of a `bulkSubscribe`; zero or less means the default."""
    if not enabled:
        return None
    return Bulk(
        min(max_messages, MOST_MESSAGES) if max_messages > 0 else DEFAULT_MAX_MESSAGES,
        max_wait_ms / 1000 if max_wait_ms > 0 else DEFAULT_MAX_WAIT_S,
    )


@record
class TopicSubscription:
    """What an application, or a resource on its behalf, asked for. `rules` has at least one member."""

    pubsub: str
    topic: str
    rules: tuple[Rule, ...]
    metadata: Mapping[str, str] = field(default_factory=dict)
    dead_letter: str = ""
    bulk: Bulk | None = None
    origin: Origin = Origin.PROGRAMMATIC

    @property
    def raw(self) -> bool:
        """Whether messages are bytes without an envelope; raises ValueError when `rawPayload` is no boolean."""
        text = self.metadata.get("rawPayload", "")
        return go_bool(text) if text else False

    @property
    def pacing(self) -> Pacing:
        """How fast and in which order messages are wanted; raises ValueError."""
        pacing = Pacing.of(self.metadata)
        if pacing.attribute and self.raw:
            raise ValueError(f"pillion.orderedBy event.{pacing.attribute}: raw messages have no attributes")
        return pacing

    def __str__(self) -> str:
        return f"topic {self.topic!r} of pubsub {self.pubsub!r}"


class Event:
    """One message on its way to the application.

    `body` is the event in JSON; `fields` its attributes, None where nobody needed them. `data` is the payload of a raw
    message, else None. `parent` is the traceparent to continue, "" when there is none. `topic`, `metadata` and
    `content_type` are the broker's.
    """

    __slots__ = ("body", "content_type", "data", "fields", "metadata", "parent", "state", "topic")

    def __init__(
        self,
        body: bytes,
        fields: dict[str, Any] | None,
        metadata: Mapping[str, str],
        parent: str = "",
        state: str = "",
        data: bytes | None = None,
        content_type: str = "",
        topic: str = "",
    ) -> None:
        self.topic = topic
        self.content_type = content_type
        self.body = body
        self.fields = fields
        self.metadata = metadata
        self.parent = parent
        self.state = state
        self.data = data


class Verdict(Enum):
    """What the application made of an event that it does not want to see again."""

    DONE = "done"
    DROP = "drop"


class Unprocessed(Exception):
    """The application did not process the event and may get it again.

    `http_status` or `grpc_code` is what it answered, for policies that distinguish them; 0 where there was no answer.
    `held`: the event was not even sent, because the application is known to be unwell or its stream has ended.
    """

    def __init__(self, reason: str, *, http_status: int = 0, grpc_code: int = Code.OK, held: bool = False) -> None:
        self.held = held
        self.http_status = http_status
        self.grpc_code = int(grpc_code)
        super().__init__(reason)


class Deliver(Protocol):
    """Hand one event to a path of the application; raises `Unprocessed`."""

    async def __call__(self, event: Event, path: str) -> Verdict: ...


@dataclass(slots=True)
class BulkItem:
    """One event of a bulk, with the identifier the application answers by."""

    entry_id: str
    event: Event


class DeliverBulk(Protocol):
    """Hand several events to one path; the answer has what the application said of each entry id, None for "again".

    Raises `Unprocessed` when the application answered for none of them.
    """

    async def __call__(self, items: Sequence[BulkItem], path: str, bulk_id: str) -> Mapping[str, Verdict | None]: ...


class TopicsOfApp(Protocol):
    """The application's side of publish and subscribe."""

    needs_fields: bool
    """Whether every event must be parsed for this application's protocol."""

    async def subscriptions(self) -> list[TopicSubscription]:
        """Ask which topics the application wants; raises `ConfigError` or `ComponentError`."""
        ...

    def delivery(self, subscription: TopicSubscription) -> Deliver: ...

    def bulk_delivery(self, subscription: TopicSubscription) -> DeliverBulk: ...
