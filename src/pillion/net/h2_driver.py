"""What the drivers of both roles share: one asyncio transport under one HTTP/2 machine, and its timed rules.

Knows: sockets, one write for each turn of the loop, keepalive. Never knows: which role it plays, what streams carry.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from pillion.net.h2_streams import Timed
from pillion.records import record
from pillion.wire.h2_connection import Connection

if TYPE_CHECKING:
    from pillion.wire.h2_frames import H2Error
    from pillion.wire.h2_headers import RequestHead
    from pillion.wire.h2_limits import Limits
    from pillion.wire.h2_stream import Stream

log = logging.getLogger("pillion.net.h2")

_PING = b"keepaliv"
_WRITE_HIGH = 1 << 18
"""Bytes that the transport may hold before streams have to wait."""
_CLOSE_S = 1.0
"""How long a closing transport may take to hand its last bytes to a peer that does not read."""
_NEVER = float("inf")
_TICK_S = 0.001
"""Timers of a loop count in whole milliseconds and may come half of one too early."""
_LATE_S = 0.5
"""A timer that comes later than this found the loop, or the whole process, at a standstill."""


@record
class Keepalive:
    """When one side looks after a silent connection. Seconds; None switches a rule off (spec `grpc-api.md` 1).

    `idle_s`: without streams for so long, the connection is given up. `hello_s`: the time for the peer's SETTINGS.
    `always`: ping without open streams too.
    """

    ping_after_s: float | None = 10.0
    ping_timeout_s: float = 5.0
    idle_s: float | None = 180.0
    hello_s: float = 20.0
    always: bool = True


class Driver(asyncio.Protocol):
    """One connection. Derived classes hear what the machine tells and say what an idle connection comes to."""

    transport: asyncio.Transport

    def __init__(self, *, client: bool, limits: Limits, keepalive: Keepalive) -> None:
        self.loop = asyncio.get_running_loop()
        self.keepalive = keepalive
        self.is_settled = False
        self.is_lost = False
        self._is_closing = False
        self._opened_at = self.read_at = self.busy_at = self.loop.time()
        self._ping_due: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._first_deadline = _NEVER
        self._deadline_timer: asyncio.TimerHandle | None = None
        self.h2 = Connection(self, client=client, wake=self._wake, limits=limits, now=self.read_at)

    # -- asyncio.Protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=_WRITE_HIGH)
        self.h2.start()
        self._tick()

    def data_received(self, data: bytes) -> None:
        h2 = self.h2
        self.read_at = now = self.loop.time()
        h2.receive(data, now)
        if (out := h2.take()) and not self._is_closing:
            self.transport.write(out)
        if h2.closed:
            self._close()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        self.h2.pause()

    def resume_writing(self) -> None:
        self.h2.resume()

    def connection_lost(self, exc: Exception | None) -> None:
        self.is_lost = self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self.h2.lost(str(exc) if exc is not None else "EOF")

    def _wake(self) -> None:
        self.loop.call_soon(self.flush)

    def flush(self) -> None:
        """Write what has collected."""
        out = self.h2.take()
        if out and not self._is_closing:
            self.transport.write(out)

    def _close(self) -> None:
        """Say no more, and close when the peer has, or soon.

        Closing at once would answer what the peer still sends with a TCP reset, which may overtake our last bytes.
        """
        if self._is_closing:
            return
        self.flush()
        self._is_closing = True
        try:
            if self.transport.can_write_eof():
                self.transport.write_eof()
            else:
                self.transport.close()
        except OSError:  # the peer has gone already, and nobody has told the transport yet
            self.transport.close()
        self.loop.call_later(_CLOSE_S, self._abort)

    def _abort(self) -> None:
        if not self.is_lost:
            self.transport.abort()

    # -- what the machine tells ---------------------------------------------------------------------------------------

    def accept(self, stream_id: int, head: RequestHead) -> Stream:
        raise NotImplementedError

    def settled(self) -> None:
        if not self.is_settled:
            self.is_settled = True
            if self._timer is not None:
                self._timer.cancel()
            self._tick()  # what is due first has changed

    def pinged(self) -> None:
        """The answer is on its way already."""

    def ping_acked(self, payload: bytes) -> None:
        """Any byte received counts as life; nothing else hangs on the answer."""

    def going_away(self, last_id: int, code: int, text: bytes) -> None:
        raise NotImplementedError

    def quiet(self) -> None:
        self.busy_at = self.loop.time()

    def failed(self, error: H2Error) -> None:
        log.info("%r: %s", self, error)
        self.loop.call_soon(self._close)

    # -- deadlines of streams -----------------------------------------------------------------------------------------

    def watch(self, deadline: float) -> None:
        """Look after the deadline of a `Timed` stream that is open, or about to be."""
        if deadline < self._first_deadline:
            self._first_deadline = deadline
            if self._deadline_timer is not None:
                self._deadline_timer.cancel()
            self._deadline_timer = self.loop.call_at(deadline, self._expire)

    def _expire(self) -> None:
        """End what is overdue, the earliest first, and come back for the next."""
        now = self.loop.time() + _TICK_S
        self._first_deadline, self._deadline_timer = _NEVER, None
        timed = [stream for stream in self.h2.streams.values() if isinstance(stream, Timed)]
        for stream in sorted(timed, key=_deadline_of):
            deadline = _deadline_of(stream)
            if deadline > now:
                self.watch(deadline)
                return
            stream.expired()

    # -- timed rules --------------------------------------------------------------------------------------------------

    def idled(self) -> None:
        """The connection had no stream for `idle_s`."""
        raise NotImplementedError

    def _tick(self) -> None:
        """Look at every timed rule, and come back when the first of them is due."""
        now = self.loop.time()
        due = [now + 3600.0]
        if not self.is_settled:
            hello_due = self._opened_at + self.keepalive.hello_s
            if now >= hello_due:
                self._abort()
                return
            due.append(hello_due)
        if self.keepalive.idle_s is not None:
            idle_due = self.busy_at + self.keepalive.idle_s
            if self.h2.streams:
                idle_due = now + self.keepalive.idle_s
            elif now >= idle_due:
                self.idled()
                idle_due = now + self.keepalive.idle_s
            due.append(idle_due)
        if self.keepalive.ping_after_s is not None and self.is_settled:
            ping_due = self._ping(now, self.keepalive.ping_after_s)
            if ping_due is None:
                log.info("%r: no answer to a keepalive ping", self)
                self.h2.lost("keepalive ping not acknowledged")
                self._abort()
                return
            due.append(ping_due)
        self._timer = self.loop.call_at(min(due), self._tick)

    def _ping(self, now: float, after_s: float) -> float | None:
        """Ping a peer that has been silent for `after_s`; return when to look again, None when it stays silent."""
        timeout_s = self.keepalive.ping_timeout_s
        if self._ping_due is not None and self.read_at >= self._ping_due - timeout_s:
            self._ping_due = None
        if self._ping_due is not None:
            if now < self._ping_due:
                return self._ping_due
            if now < self._ping_due + _LATE_S:
                return None
            # It was we who did not run: the answer may be there, unread.
            self._ping_due = now + timeout_s
            return self._ping_due
        if now < self.read_at + after_s:
            return self.read_at + after_s
        if not self.keepalive.always and not self.h2.streams:
            return now + after_s
        self.h2.ping(_PING)
        self._ping_due = now + timeout_s
        return self._ping_due


def _deadline_of(stream: Timed) -> float:
    return _NEVER if stream.deadline is None else stream.deadline
