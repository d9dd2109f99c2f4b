"""The placement service: `ReportDaprStatus`, one machine of rounds for each namespace.

Knows: who is admitted, how orders go out, how streams end. Never knows: rounds (`rounds.py`), leadership, sockets.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pillion.actors.membership import GRACE_KEY, UNTOUCHED_KEY, wait_s
from pillion.actors.placement_link import METHOD
from pillion.control import rounds as r
from pillion.control.reports import read_report, row_of, write_order
from pillion.control.rounds import Phase, Rounds, Row
from pillion.errors import Code
from pillion.net.exchange import Method, RpcError
from pillion.net.grpc_serving import GrpcCall
from pillion.wire.messages import placement as m

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pillion.clock import Clock
    from pillion.control.terms import Terms
    from pillion.net.exchange import Metadata, ServerCall

    Authorize = Callable[[ServerCall, str, str], None]
    """Called with the app id and the namespace that a stream speaks for; raises `RpcError` when its peer is another."""

log = logging.getLogger("pillion.control.placement")
NAME = "dapr.proto.placement.v1.Placement"
NOT_LEADER = "node id={id} is not a leader. Only the leader can serve requests"
STOPPING = "placement service is shutting down"
SLOW = "sidecar did not answer {phase} of version {version} in time"
MOST_UNSENT = 64
"""Orders that wait for one stream. A host that reads nothing is not waited for."""


class Leads(Protocol):
    """What the service asks of leadership."""

    def holds(self) -> bool: ...


class Meter(Protocol):
    """What is counted."""

    def runtimes(self, namespace: str, all_of_them: int, of_actors: int) -> None: ...


@dataclass(eq=False)
class _Stream:
    """One sidecar's stream: what still has to be sent to it."""

    number: int
    namespace: str
    orders: deque[bytes] = field(default_factory=deque)
    more: asyncio.Event = field(default_factory=asyncio.Event)
    end: RpcError | None = None

    def put(self, order: bytes) -> None:
        if len(self.orders) >= MOST_UNSENT:
            self.stop(RpcError(Code.RESOURCE_EXHAUSTED, "orders are not read"))
            return
        self.orders.append(order)
        self.more.set()

    def stop(self, error: RpcError) -> None:
        self.end = self.end or error
        self.more.set()


class PlacementService:
    """A `GrpcService`. It refuses everybody until `lead`, and again after `resign`.

    `silence` tells how many seconds ago the peer of a call was last heard of. `dead` tells whether nobody listens any
    more at the address of a host: its process is gone, and its actors need not wait. `authorize` is absent without
    mutual TLS.
    """

    def __init__(
        self,
        terms: Terms,
        *,
        clock: Clock,
        node: str = "dapr-placement-0",
        authorize: Authorize | None = None,
        meter: Meter | None = None,
        silence: Callable[[ServerCall], float] | None = None,
        dead: Callable[[str], Awaitable[bool]] | None = None,
        further: Mapping[str, Method] | None = None,
    ) -> None:
        self.terms = terms
        self._clock, self._node, self._authorize, self._meter = clock, node, authorize, meter
        self._silence = silence or _silence
        self._dead = dead
        self._methods = {METHOD: Method(streaming=self._report), **(further or {})}
        self._leadership: Leads | None = None
        self._rooms: dict[str, Rounds] = {}
        self._streams: dict[int, _Stream] = {}
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._number = 0
        self._floor = 0
        self._not_before = 0.0
        self._stopping = False

    def find(self, method: str, metadata: Metadata) -> Method | None:
        return self._methods.get(method)

    # -- leadership ---------------------------------------------------------------------------------------------------

    def lead(self, leadership: Leads, term: int, *, inherited: bool) -> None:
        """Begin to serve, with nothing known. Versions grow from `term` on and from nothing else: it is greater than
        those of all leaders before, whose clocks may be ahead of ours. Where another leader may have been before, its
        promise is waited out before the first table."""
        now = self._clock.monotonic()
        self._leadership, self._floor = leadership, max(self._floor, term)
        self._not_before = now + wait_s(self.terms.grace_s) if inherited else now

    def resign(self, why: str) -> None:
        """End every stream now, in whatever round it is, and forget all tables."""
        if self._leadership is not None:
            log.warning("no longer the leader: %s", why)
        self._leadership = None
        self._forget(self._refusal())

    def close(self) -> None:
        """Serve nobody any more."""
        self._stopping, self._leadership = True, None
        self._forget(RpcError(Code.UNAVAILABLE, STOPPING))

    def _forget(self, error: RpcError) -> None:
        for stream in self._streams.values():
            stream.stop(error)
        for timer in self._timers.values():
            timer.cancel()
        if self._meter is not None:
            for namespace in self._rooms:
                self._meter.runtimes(namespace, 0, 0)
        self._streams.clear()
        self._timers.clear()
        self._rooms.clear()

    @property
    def leading(self) -> bool:
        """Whether orders may be given: asked before each, because a process that stood still hears of its loss late."""
        return self._leadership is not None and self._leadership.holds()

    def state(self) -> dict[str, object] | None:
        """Return what `/placement/state` shows; None when another leads."""
        if not self.leading:
            return None
        tables: dict[str, object] = {}
        for namespace, room in sorted(self._rooms.items()):
            hosts = [
                {"name": row.name, "id": row.app_id, "namespace": namespace, "entities": list(row.types)}
                for row in room.table
            ]
            tables[namespace] = {"hosts": hosts, "version": room.version}
        return {"tables": tables}

    def _refusal(self) -> RpcError:
        if self._stopping:
            return RpcError(Code.UNAVAILABLE, STOPPING)
        return RpcError(Code.FAILED_PRECONDITION, NOT_LEADER.format(id=self._node))

    # -- one stream ---------------------------------------------------------------------------------------------------

    async def _report(self, call: ServerCall) -> None:
        if not self.leading:
            raise self._refusal()
        first = await _read(call)
        if first is None:
            return
        if not self.leading:
            raise self._refusal()
        namespace, row = self._admit(call, first)
        self._number += 1
        stream = self._streams[self._number] = _Stream(self._number, namespace)
        room = self._rooms.get(namespace)
        if room is None:
            room = self._rooms[namespace] = self._room()
        if self.terms.grace_s > 0:
            untouched = room.untouched and self._clock.monotonic() < self._not_before
            call.initial_metadata = [
                (GRACE_KEY, str(int(self.terms.grace_s * 1000))),
                (UNTOUCHED_KEY, "1" if untouched else "0"),
            ]
        halves: list[asyncio.Task[None]] = []
        try:
            self._feed(namespace, r.Opened(stream.number, row))  # from here on no table is unlocked without it
            await call.send_headers()
            halves = [asyncio.create_task(self._write(call, stream))]
            halves.append(asyncio.create_task(self._listen(stream, call, row)))
            await asyncio.wait(halves, return_when=asyncio.FIRST_COMPLETED)
            for task in halves:
                if task.done():
                    task.result()
        finally:
            if self._streams.pop(stream.number, None) is not None:
                self._feed(namespace, r.Closed(stream.number, self._hold_s(call, stream)))
            for task in halves:
                task.cancel()
            await asyncio.gather(*halves, return_exceptions=True)
            asks = self._dead is not None and self.terms.grace_s > 0 and bool(row.types) and _broken(call)
            if asks and await self._dead(row.name):  # type: ignore[misc]
                self._feed(namespace, r.Freed(row.name))

    def _hold_s(self, call: ServerCall, stream: _Stream) -> float:
        """How long the host may go on after the end of its stream: one that ended it itself has halted already."""
        if self._silence(call) >= 0.9 * (self.terms.ping_s + self.terms.ping_timeout_s):
            return self.terms.hold_s
        if _broken(call):
            return self.terms.broken_hold_s
        return 0.0 if stream.end is None else self.terms.slow_hold_s

    def _room(self) -> Rounds:
        terms = self.terms
        return Rounds(
            self._floor,
            timeout_s=terms.timeout_s,
            coalesce_s=terms.coalesce_s,
            not_before=self._not_before,
            slow_hold_s=terms.slow_hold_s,
        )

    async def _listen(self, stream: _Stream, call: ServerCall, row: Row) -> None:
        """Read until the sidecar says no more: that is its leaving."""
        name = row.name
        while (host := await _read(call)) is not None:
            if host.operation in (m.UNKNOWN, m.REPORT):
                namespace, told = self._admit(call, host)
                if namespace != stream.namespace or told.name != name:
                    raise RpcError(Code.INVALID_ARGUMENT, "a stream speaks for one host")
                # A client that names no operation tells its types and answers with one and the same message.
                if told != row or host.operation == m.REPORT:
                    self._feed(namespace, r.Reported(stream.number, told))
                    row = told
                if host.operation == m.UNKNOWN:
                    self._feed(namespace, r.Answered(stream.number, None, None))
            elif host.operation in (m.LOCK, m.UPDATE, m.UNLOCK):
                version = host.version if host.HasField("version") else None
                self._feed(stream.namespace, r.Answered(stream.number, Phase(host.operation), version))
            else:
                raise RpcError(Code.INVALID_ARGUMENT, f"unknown operation {host.operation}")

    async def _write(self, call: ServerCall, stream: _Stream) -> None:
        while True:
            while stream.orders and stream.end is None:
                if not self.leading:
                    raise self._refusal()
                await call.send(stream.orders.popleft())
            if stream.end is not None:
                raise stream.end
            stream.more.clear()
            await stream.more.wait()

    def _admit(self, call: ServerCall, host: m.Host) -> tuple[str, Row]:
        """Judge a report, and who makes it. Raises `RpcError`."""
        row = row_of(host)
        if self._authorize is not None:
            self._authorize(call, host.id, host.namespace)
        return host.namespace, row

    # -- the machines -------------------------------------------------------------------------------------------------

    def _feed(self, namespace: str, event: r.Event) -> None:
        room = self._rooms.get(namespace)
        if room is None or not self.leading:
            return
        for effect in room.feed(event, self._clock.monotonic()):
            if isinstance(effect, r.EndSlow):
                log.warning("namespace %s: a stream was too slow: %s %d", namespace, effect.phase.name, effect.version)
                text = SLOW.format(phase=effect.phase.name, version=effect.version)
                if (slow := self._streams.pop(effect.stream, None)) is not None:
                    slow.stop(RpcError(Code.DEADLINE_EXCEEDED, text))
                continue
            order = write_order(namespace, effect, self.terms.replicas)
            for number in effect.streams:
                if (stream := self._streams.get(number)) is not None:
                    stream.put(order)
        self._floor = max(self._floor, room.version)
        if self._meter is not None and isinstance(event, r.Opened | r.Closed | r.Reported | r.Ticked):
            hosting = sum(bool(member.row.types) for member in room.members.values())
            self._meter.runtimes(namespace, len(room.members), hosting)
        self._arm(namespace, room)

    def _arm(self, namespace: str, room: Rounds) -> None:
        if (timer := self._timers.pop(namespace, None)) is not None:
            timer.cancel()
        if room.empty:
            del self._rooms[namespace]
        elif (due := room.due) is not None:
            delay_s = max(due - self._clock.monotonic(), 0.0)
            loop = asyncio.get_running_loop()
            self._timers[namespace] = loop.call_later(delay_s, self._feed, namespace, r.Ticked())

    def __repr__(self) -> str:
        return f"<PlacementService {self._node}: {len(self._streams)} streams, {len(self._rooms)} namespaces>"


def _broken(call: ServerCall) -> bool:
    """Whether the connection broke, rather than that the host ended its stream."""
    return bool(getattr(call, "broken", False))


def _silence(call: ServerCall) -> float:
    if not isinstance(call, GrpcCall):
        return 0.0
    return asyncio.get_running_loop().time() - call.server.read_at


async def _read(call: ServerCall) -> m.Host | None:
    message = await call.receive()
    return None if message is None else read_report(message)
