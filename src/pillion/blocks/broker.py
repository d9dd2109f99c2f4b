"""A loaded broker as the publish/subscribe block sees it, and what all messages get: identifiers and times.

Knows: names, prefixes, scopes and policies around a component. Never knows: which technology it is.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from pillion.clock import SystemClock
from pillion.kinds.pubsub import Feature, Publish, SubmittingPubSub
from pillion.wire.cloudevents import rfc3339_local

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pillion.clock import Clock
    from pillion.kinds.pubsub import PubSub

T = TypeVar("T")
_BATCH = 128
_LENGTH, _VERSION_AT, _VARIANT_AT = 36, 14, 19
_COLUMNS = [column for column in range(_LENGTH) if column not in (8, 13, 18, 23)]
"""Where the digits of a UUID are; dashes are in between."""
_VARIANT = bytes.maketrans(b"0123456789abcdef", b"89ab" * 4)


class Scopes(Protocol):
    """Which topics this application may use (spec `runtime.md` 7.4)."""

    def may_publish(self, topic: str) -> bool: ...

    def may_subscribe(self, topic: str) -> bool: ...


class Policy(Protocol):
    """Runs an operation as often, and for as long, as a resiliency policy says."""

    def __call__(self, operation: Callable[[], Awaitable[T]]) -> Awaitable[T]: ...


class Meter(Protocol):
    """What is counted about messages (spec `runtime.md` 6.1); latencies in milliseconds."""

    def egress(self, pubsub: str, topic: str, success: bool, elapsed_ms: float) -> None: ...

    def egress_bulk(self, pubsub: str, topic: str, success: bool, elapsed_ms: float) -> None: ...

    def ingress(self, pubsub: str, topic: str, status: str, elapsed_ms: float) -> None: ...

    def ingress_bulk(self, pubsub: str, topic: str, statuses: dict[str, int], elapsed_ms: float) -> None:
        """One bulk; `statuses` tells how many of its messages ended with which status."""
        ...


@dataclass(slots=True)
class Broker:
    """A loaded pub/sub component.

    `prefix` precedes every topic on the broker (the namespace, for namespace-scoped components); `scopes` None allows
    every topic; a policy that is None is switched off. `metadata` is the resource's own.
    """

    name: str
    component: PubSub
    scopes: Scopes | None = None
    prefix: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    outbound: Policy | None = None
    inbound: Policy | None = None
    submitting: SubmittingPubSub | None = field(init=False)
    """The component, if it is one: asking that of a protocol takes 20 us."""

    def __post_init__(self) -> None:
        self.submitting = self.component if isinstance(self.component, SubmittingPubSub) else None

    def may_publish(self, topic: str) -> bool:
        return self.scopes is None or self.scopes.may_publish(topic)

    def may_subscribe(self, topic: str) -> bool:
        return self.scopes is None or self.scopes.may_subscribe(topic)

    @property
    def keeps_ttl(self) -> bool:
        """Whether the broker itself lets messages expire, so that envelopes need not say when."""
        return Feature.MESSAGE_TTL in self.component.features

    @property
    def delays(self) -> bool:
        """Whether the broker itself holds messages back until their time."""
        return Feature.DELAY in self.component.features

    def publish(self, topic: str, data: bytes, content_type: str, metadata: Mapping[str, str]) -> Awaitable[None]:
        """Publish one message under the outbound policy; raises what the component or the policy raises."""
        message = Publish(self.prefix + topic, data, content_type, metadata)
        if self.outbound is None:
            return self.component.publish(message)
        return self.outbound(lambda: self.component.publish(message))


class Identifiers:
    """Random UUIDs (RFC 9562 version 4), 0.1 us each because many are written at once, column by column."""

    def __init__(self, source: Callable[[int], bytes] = os.urandom) -> None:
        self._source = source
        self._text = ""
        self._at = 0

    def __call__(self) -> str:
        at = self._at
        if at == len(self._text):
            self._text, at = self._written(), 0
        self._at = at + _LENGTH
        return self._text[at : at + _LENGTH]

    def _written(self) -> str:
        digits = self._source(16 * _BATCH).hex().encode()
        text = bytearray(b"-" * (_LENGTH * _BATCH))
        for digit, column in enumerate(_COLUMNS):
            text[column::_LENGTH] = digits[digit::32]
        text[_VERSION_AT::_LENGTH] = b"4" * _BATCH
        text[_VARIANT_AT::_LENGTH] = text[_VARIANT_AT::_LENGTH].translate(_VARIANT)
        return text.decode()


class EventTime:
    """The `time` of new events: whole seconds in the machine's zone, rendered once a second."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._second = -1
        self._text = ""

    def __call__(self) -> str:
        second = int(self._clock.now())
        if second != self._second:
            self._second, self._text = second, rfc3339_local(second)
        return self._text


def described(error: BaseException) -> str:
    """An error's text, or its type where it has none: `TimeoutError()` has none."""
    return str(error) or type(error).__name__
