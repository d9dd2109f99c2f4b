"""The sending half of an HTTP/2 connection (RFC 9113), both roles: heads and bodies of streams in, bytes out.

Knows: the peer's windows, what waits for them, what goes out in one piece, when a stream has ended on both sides and
that received bytes are given back to the peer. Never knows: how frames are read (`h2_connection`), sockets, clocks.

What the peer's windows or a paused transport do not let through is kept with its stream, whose `drained` is called
when it went.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from pillion.wire import h2_frames as f
from pillion.wire.h2_frames import FRAME_HEAD, ErrorCode, H2Error
from pillion.wire.h2_limits import WORTH_CALL, WORTH_DATA, Budget, Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.wire.h2_stream import Listener, Stream

_REMEMBERED_RESETS = 2000
_QUANTUM = 1 << 16


class Sending:
    """What one connection sends, and the streams it sends for.

    `wake` is called once when output appears outside `receive`; the driver then calls `take` soon. `paused` is set by
    the driver while its transport does not want more: stream output then waits as if the window were closed.
    """

    def __init__(
        self, listener: Listener, *, client: bool, wake: Callable[[], None], limits: Limits, now: float
    ) -> None:
        self.listener = listener
        self.client = client
        self.limits = limits
        self.streams: dict[int, Stream] = {}
        self.initial_send_window = f.DEFAULT_WINDOW
        self.send_window = f.DEFAULT_WINDOW
        self.peer_frame_size = f.DEFAULT_FRAME_SIZE
        self.peer_streams = 100 if client else 0
        """How many streams we may open; until the first SETTINGS the least that RFC 9113 6.5.2 recommends."""
        self.next_id = 1 if client else 2
        self.paused = False
        self.closed = False
        self.goaway_received = False
        self.frames_sent = 0
        """HEADERS and DATA frames sent; keepalive rules ask whether anything went out (grpc A8)."""
        self.budget = Budget(now)
        self._wake = wake
        self._woken = False
        self._out: list[bytes | memoryview] = []
        self._receive_window = f.DEFAULT_WINDOW
        self._consumed = 0
        self._update_stream_at = limits.window // 2
        self._update_at = limits.connection_window // 2
        self._reset_ids: dict[int, None] = {}
        self._waiting: dict[int, Stream] = {}
        self._table_note = b""
        self._control_backlog = 0

    # -- output -------------------------------------------------------------------------------------------------------

    def take(self) -> bytes:
        """Return everything to be sent, in one piece."""
        self._woken = False
        out = self._out
        if not out:
            return b""
        data = b"".join(out)
        out.clear()
        return data

    def _write(self, data: bytes) -> None:
        self._out.append(data)
        if not self._woken:
            self._woken = True
            self._wake()

    def _control(self, data: bytes) -> None:
        """Write a reply that the peer provoked; bounded while it does not read."""
        if self.paused:
            self._control_backlog += len(data)
            if self._control_backlog > self.limits.control_backlog:
                raise H2Error(ErrorCode.ENHANCE_YOUR_CALM, "replies are not read")
        self._write(data)

    # -- sending ------------------------------------------------------------------------------------------------------

    @property
    def can_open(self) -> bool:
        """Whether a client may open one more stream now."""
        return (
            not self.closed
            and not self.goaway_received
            and len(self.streams) < self.peer_streams
            and self.next_id <= f.LARGEST_STREAM_ID
        )

    def open(self, stream: Stream, block: bytes, *, end: bool) -> None:
        """Client: send the head of a request. The stream was made with `id` = `next_id`."""
        self.next_id += 2
        self.streams[stream.id] = stream
        stream.ending = stream.local_ended = end
        self.frames_sent += 1
        self._write(f.head_frames(stream.id, self._note() + block, end=end, frame_size=self.peer_frame_size))

    def open_whole(self, stream: Stream, block: bytes, prefix: bytes, data: bytes) -> bool:
        """Client: send a request in one go: head, and one body of `prefix` + `data`, which ends it. As `send_data`."""
        size, length = len(prefix) + len(data), len(block)
        if (
            size > stream.send_window
            or size > self.send_window
            or size > self.peer_frame_size
            or length > self.peer_frame_size
            or self.paused
            or self._table_note
        ):
            self.open(stream, block, end=False)
            return self.send_data(stream, prefix + data, end=True)
        self.next_id += 2
        stream_id = stream.id
        self.streams[stream_id] = stream
        stream.ending = stream.local_ended = True
        stream.send_window -= size
        self.send_window -= size
        self.frames_sent += 2
        if self.budget.left < Budget.full:
            self.budget.left += WORTH_DATA
        pack = FRAME_HEAD.pack
        self._out.append(
            b"".join((
                pack(length >> 8, length & 0xFF, f.HEADERS, f.END_HEADERS, stream_id),
                block,
                pack(size >> 8, size & 0xFF, f.DATA, f.END_STREAM, stream_id),
                prefix,
                data,
            ))
        )  # fmt: skip
        if not self._woken:
            self._woken = True
            self._wake()
        return True

    def _note(self) -> bytes:
        note, self._table_note = self._table_note, b""
        return note

    def send_head(self, stream: Stream, block: bytes, *, end: bool = False) -> None:
        """Send a head or trailers after whatever of the stream still waits."""
        if stream.ending or stream.closed:
            return
        stream.ending = end
        if self.paused or stream.pending:
            self._queue(stream, f.HEADERS, block, end)
        else:
            self._emit_head(stream, block, end)

    def send_data(self, stream: Stream, data: bytes, *, end: bool = False) -> bool:
        """Send body bytes. False: some of them wait, and `Stream.drained` will tell when they have gone."""
        if stream.ending or stream.closed:
            return True
        stream.ending = end
        size = len(data)
        if (
            size <= stream.send_window
            and size <= self.send_window
            and size <= self.peer_frame_size
            and not stream.pending
            and not self.paused
        ):
            self._emit_data(stream, data, size, end)
            return True
        self._queue(stream, f.DATA, data, end)
        if not self.paused:
            self._push(stream)
        return not stream.pending

    def send_whole(self, stream: Stream, head: bytes, prefix: bytes, data: bytes, trailers: bytes) -> None:
        """Send a response in one go: head, one body of `prefix` + `data`, trailers."""
        size = len(prefix) + len(data)
        if (
            size > stream.send_window
            or len(head) > 255
            or len(trailers) > 255
            or size > self.send_window
            or size > self.peer_frame_size
            or self.paused
            or stream.pending
            or self._table_note
            or stream.ending
            or stream.closed
        ):
            self.send_head(stream, head)
            self.send_data(stream, prefix + data)
            self.send_head(stream, trailers, end=True)
            return
        stream.send_window -= size
        self.send_window -= size
        self.frames_sent += 3
        stream_id = stream.id
        pack = FRAME_HEAD.pack
        out = self._out
        out.append(
            b"".join((
                pack(0, len(head), f.HEADERS, f.END_HEADERS, stream_id),
                head,
                pack(size >> 8, size & 0xFF, f.DATA, 0, stream_id),
                prefix,
                data,
                pack(0, len(trailers), f.HEADERS, f.END_HEADERS | f.END_STREAM, stream_id),
                trailers,
            ))
        )  # fmt: skip
        stream.ending = stream.local_ended = True
        if not self.client and self.budget.left < Budget.full:
            self.budget.left += WORTH_CALL
        if stream.remote_ended:
            self._drop(stream)
        if not self._woken:
            self._woken = True
            self._wake()

    def _emit_head(self, stream: Stream, block: bytes, end: bool) -> None:
        self.frames_sent += 1
        self._write(f.head_frames(stream.id, self._note() + block, end=end, frame_size=self.peer_frame_size))
        if end:
            self._sent_end(stream)

    def _emit_data(self, stream: Stream, data: bytes | memoryview, size: int, end: bool) -> None:
        stream.send_window -= size
        self.send_window -= size
        self.frames_sent += 1
        out = self._out
        out.append(FRAME_HEAD.pack(size >> 8, size & 0xFF, f.DATA, f.END_STREAM if end else 0, stream.id))
        out.append(data)
        if self.budget.left < Budget.full:
            self.budget.left += WORTH_DATA
        if not self._woken:
            self._woken = True
            self._wake()
        if end:
            self._sent_end(stream)

    def _sent_end(self, stream: Stream) -> None:
        stream.local_ended = True
        if not self.client and self.budget.left < Budget.full:
            self.budget.left += WORTH_CALL
        if stream.remote_ended:
            self._drop(stream)

    def _queue(self, stream: Stream, kind: int, data: bytes | memoryview, end: bool) -> None:
        if stream.pending is None:
            stream.pending = deque()
        stream.pending.append((kind, data, end))
        if self.paused:
            self._waiting[stream.id] = stream

    def _push(self, stream: Stream, quantum: int = f.LARGEST_WINDOW) -> bool:
        """Send what the windows let through, up to `quantum` bytes; return whether the stream could send more."""
        pending = stream.pending
        while pending:
            if self.paused:
                self._waiting[stream.id] = stream
                return False
            kind, data, end = pending[0]
            if kind == f.HEADERS:
                pending.popleft()
                self._emit_head(stream, bytes(data), end)
                continue
            size = len(data)
            room = min(self.peer_frame_size, quantum, stream.send_window, self.send_window)
            if size <= room or not size:
                pending.popleft()
                self._emit_data(stream, data, size, end)
                quantum -= size
                continue
            if room > 0:
                view = memoryview(data)
                pending[0] = (kind, view[room:], end)
                self._emit_data(stream, view[:room], room, False)
                quantum -= room
                continue
            if stream.send_window <= 0:
                self._waiting.pop(stream.id, None)  # its own WINDOW_UPDATE will push it
                return False
            self._waiting[stream.id] = stream
            return self.send_window > 0
        self._waiting.pop(stream.id, None)
        stream.drained()
        return False

    def _pump(self) -> None:
        """The connection's window or the transport opened: serve the waiting streams in turn."""
        queue = deque(self._waiting.values())
        while queue and not self.paused:
            stream = queue.popleft()
            if stream.id in self._waiting and self._push(stream, _QUANTUM):
                queue.append(stream)
            elif self.send_window <= 0:
                break

    def resume(self) -> None:
        """The transport takes data again."""
        self.paused = False
        self._control_backlog = 0
        if self._waiting:
            self._pump()

    def pause(self) -> None:
        """The transport has enough; only replies to control frames go out until `resume`."""
        self.paused = True

    # -- the end of a stream ------------------------------------------------------------------------------------------

    def _drop(self, stream: Stream) -> None:
        """Both sides have ended."""
        stream.closed = True
        streams = self.streams
        streams.pop(stream.id, None)
        if stream.unread:
            self._credit(stream.unread)
            stream.unread = 0
        if stream.pending:
            stream.pending.clear()
        if self._waiting:
            self._waiting.pop(stream.id, None)
        if not streams:
            self.listener.quiet()

    def reset(self, stream: Stream, code: int = ErrorCode.CANCEL) -> None:
        """End a stream at once from our side. Its `was_reset` is not called."""
        if not stream.closed:
            stream.remote_ended = stream.local_ended = True
            self._drop(stream)
            self._remember_reset(stream.id)
            self._write(f.reset_frame(stream.id, code))

    def _remember_reset(self, stream_id: int) -> None:
        """What is still under way for this stream will be ignored."""
        resets = self._reset_ids
        resets[stream_id] = None
        if len(resets) > _REMEMBERED_RESETS:
            del resets[next(iter(resets))]

    # -- windows ------------------------------------------------------------------------------------------------------

    def consume(self, stream: Stream, size: int) -> None:
        """`size` bytes of received data have left our memory: let the peer send as many again."""
        if size > stream.unread:
            size = stream.unread
        stream.unread -= size
        self._consumed += size
        if self._consumed >= self._update_at:
            self._credit(0)
        if not stream.remote_ended:
            stream.consumed += size
            if stream.consumed >= self._update_stream_at:
                stream.receive_window += stream.consumed
                self._write(f.window_frame(stream.id, stream.consumed))
                stream.consumed = 0

    def _credit(self, size: int) -> None:
        self._consumed += size
        if self._consumed >= self._update_at:
            self._receive_window += self._consumed
            self._write(f.window_frame(0, self._consumed))
            self._consumed = 0
