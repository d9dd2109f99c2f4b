"""What is put around a payload: the envelope of an event, or the trace beside a raw message (spec `http-api.md` 4.3).

Knows: CloudEvents, their lives and their traces. Never knows: who may publish, or what becomes of a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from pillion.blocks import pubsub_faults as faults
from pillion.blocks.broker import EventTime, Identifiers
from pillion.clock import rfc3339
from pillion.errors import ApiError, ComponentError
from pillion.kinds.component import go_bool
from pillion.kinds.message_timing import ttl_of
from pillion.wire.cloudevents import NotAnEvent, Payload, Stamp, overrides_of, payload_kind, payload_member
from pillion.wire.gojson import escaped

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pillion.blocks.broker import Broker
    from pillion.clock import Clock

REMEMBERED = 1024
"""Topics whose envelope fragments are kept."""


class Traced(Protocol):
    """Whose trace a message belongs to: a call's, or a span's."""

    @property
    def traceparent(self) -> str: ...

    @property
    def tracestate(self) -> str: ...


class Envelopes:
    """Makes the events of one application."""

    def __init__(self, app_id: str, clock: Clock) -> None:
        self._app_id = app_id
        self._clock = clock
        self._time = EventTime(clock)
        self._new_id = Identifiers()
        self._stamps: dict[tuple[str, str], Stamp] = {}

    def event(
        self,
        broker: Broker,
        topic: str,
        body: bytes,
        content_type: str,
        metadata: Mapping[str, str],
        call: Traced,
        due: float | None = None,
        *,
        is_canonical: bool = False,
    ) -> bytes:
        """Return the envelope around `body`, of use from `due` on (None: from now on); raises `ApiError`."""
        stamp = self._stamp(broker, topic)
        expiration, overrides = "", None
        if metadata:
            expiration, overrides = self._expiration(broker, metadata, due), overrides_of(metadata)
        parent = call.traceparent
        state = call.tracestate if parent else ""
        if payload_kind(content_type) is Payload.EVENT:
            try:
                return stamp.adopt(body, time=self._time(), parent=parent, state=state, expiration=expiration)
            except NotAnEvent as error:
                about = {"appID": self._app_id, "error": str(error)}
                raise ApiError(faults.CLOUDEVENT, resource=broker.name, metadata=about) from error
        return stamp.envelope(
            payload_member(body, content_type, is_canonical=is_canonical), content_type, event_id=self._new_id(),
            time=self._time(), parent=parent, state=state, expiration=expiration, overrides=overrides,
        )  # fmt: skip

    def alike(self, broker: Broker, topic: str, call: Traced) -> Callable[[bytes, str], bytes | None]:
        """Return what makes the events of a bulk from canonical bytes and their type: what they share is written once.

        For payloads without metadata of their own; None is the answer for one that is an event itself.
        """
        stamp, new_id, time = self._stamp(broker, topic), self._new_id, self._time()
        parent = call.traceparent
        state = call.tracestate if parent else ""
        shared: dict[str, tuple[Payload, bytes, bytes]] = {}

        def event(body: bytes, content_type: str) -> bytes | None:
            if content_type not in shared:
                around = stamp.around(content_type, time=time, parent=parent, state=state)
                shared[content_type] = (payload_kind(content_type), *around)
            kind, to_id, behind = shared[content_type]
            if kind is Payload.JSON:
                return b'{"data":%b%b%b%b' % (escaped(body), to_id, new_id().encode(), behind)
            if kind is Payload.EVENT:
                return None
            return b"{%b%b%b%b" % (payload_member(body, content_type), to_id, new_id().encode(), behind)

        return event

    def _stamp(self, broker: Broker, topic: str) -> Stamp:
        key = (broker.name, topic)
        stamp = self._stamps.get(key)
        if stamp is None:
            if len(self._stamps) >= REMEMBERED:
                self._stamps.clear()
            stamp = self._stamps[key] = Stamp(broker.name, topic, self._app_id)
        return stamp

    def _expiration(self, broker: Broker, metadata: Mapping[str, str], due: float | None) -> str:
        if broker.keeps_ttl:
            return ""
        try:
            ttl = ttl_of(metadata)
        except ComponentError:  # the reference ignores a life it cannot read
            return ""
        return "" if ttl is None else rfc3339((due or self._clock.now()) + ttl)


def is_raw(broker: Broker, metadata: Mapping[str, str]) -> bool:
    """Whether the request's metadata ask for no envelope; raises `ApiError` for what is no truth value."""
    value = metadata.get("rawPayload", "")
    if not value:
        return False
    try:
        return go_bool(value)
    except ValueError as error:
        raise ApiError(faults.METADATA, value=value, resource=broker.name, metadata=metadata) from error


def traced(metadata: Mapping[str, str], call: Traced) -> Mapping[str, str]:
    """Metadata of a raw message: it has no envelope that could carry the trace."""
    parent = call.traceparent
    if not parent:
        return metadata
    trace = {"traceparent": parent}
    if call.tracestate:
        trace["tracestate"] = call.tracestate
    return {**trace, **metadata}
