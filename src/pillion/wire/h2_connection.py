"""The HTTP/2 connection machine (RFC 9113), both roles: bytes in, calls on streams and bytes out.

Knows: frames, stream states, windows, settings, shutdown; `h2_sending` is its other half. Never knows: sockets, clocks
(`now` is passed in), gRPC.

A driver feeds `receive` and sends what `take` returns. It is told through its `Listener`; each stream is an object
that the driver derives from `Stream` and that is told of its own head, data, trailers and reset. Nothing here waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.wire import h2_frames as f
from pillion.wire.h2_frames import FRAME_HEAD, SETTING, ErrorCode, H2Error, StreamError
from pillion.wire.h2_headers import HeaderDecoder, Malformed, RequestHead, ResponseHead, TooLarge, Trailers, encode
from pillion.wire.h2_limits import (
    COST_CONTROL,
    COST_EMPTY,
    COST_RESET,
    COST_SETTINGS,
    WORTH_DATA,
    Budget,
    Limits,
)
from pillion.wire.h2_sending import Sending

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.wire.h2_stream import Listener, Stream

_DRAIN_PING = b"pillion\0"
_TOO_LARGE_BLOCK = encode([(b":status", b"431"), (b"content-length", b"0")])


class Connection(Sending):
    """One HTTP/2 connection: what comes in, the settings of both sides, the end."""

    def __init__(
        self,
        listener: Listener,
        *,
        client: bool,
        wake: Callable[[], None],
        limits: Limits | None = None,
        now: float = 0,
    ) -> None:
        limits = limits or Limits()
        super().__init__(listener, client=client, wake=wake, limits=limits, now=now)
        self.peer_header_list: int | None = None
        self.last_peer_id = 0
        self.goaway_sent = False
        self._now = now
        self._tail = bytearray()
        self._need = 0
        self._preface_left = b"" if client else f.PREFACE
        self._settings_seen = False
        self._settings_unacked = 0
        self._decoder = HeaderDecoder(limits.header_list)
        self._requests = self._decoder.memo(RequestHead)
        self._responses = self._decoder.memo(ResponseHead)
        self._trailers = self._decoder.memo(Trailers)
        self._block: tuple[int, int, list[bytes]] | None = None
        self._block_size = 0
        self._last_allowed: int = f.LARGEST_STREAM_ID
        self._encoder_table = 4096
        self._on_frame = (
            self._on_data, self._on_headers, self._on_priority, self._on_reset, self._on_settings, self._on_push,
            self._on_ping, self._on_goaway, self._on_window, self._on_continuation,
        )  # fmt: skip

    # -- the beginning ------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Send our preface and settings; first thing on every connection."""
        limits = self.limits
        settings = {
            f.INITIAL_WINDOW_SIZE: limits.window,
            f.MAX_FRAME_SIZE: limits.frame_size,
            f.MAX_HEADER_LIST_SIZE: limits.header_list,
        }
        if self.client:
            self._out.append(f.PREFACE)
            settings[f.ENABLE_PUSH] = 0
        else:
            settings[f.MAX_CONCURRENT_STREAMS] = limits.streams
        self._settings_unacked += 1
        self._write(f.settings_frame(settings))
        if limits.connection_window > f.DEFAULT_WINDOW:
            self._write(f.window_frame(0, limits.connection_window - f.DEFAULT_WINDOW))
            self._receive_window = limits.connection_window

    # -- input --------------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Take in bytes as they came, in pieces of any size. Never raises for what the peer did."""
        if self.closed:
            return
        self._now = now
        self._woken = True  # the driver takes the output after every `receive`
        if self._tail:
            self._tail += data
            if len(self._tail) < self._need:
                return
            data = bytes(self._tail)
            self._tail.clear()
        try:
            left = self._feed(data)
        except H2Error as error:
            self.fail(error)
        else:
            if left < len(data):
                self._tail += data[left:]

    def _feed(self, data: bytes) -> int:
        """Handle the whole frames in `data`; return where the first incomplete one starts and set `_need`."""
        position, end = 0, len(data)
        if self._preface_left:
            wanted = self._preface_left
            position = min(len(wanted), end)
            if data[:position] != wanted[:position]:
                raise H2Error(ErrorCode.PROTOCOL_ERROR, "bad connection preface")
            self._preface_left = wanted[position:]
        largest = self.limits.frame_size
        unpack = FRAME_HEAD.unpack_from
        handlers = self._on_frame
        while end - position >= 9:
            high, low, kind, flags, stream_id = unpack(data, position)
            size = high << 8 | low
            start = position + 9
            stop = start + size
            if size > largest:
                raise H2Error(ErrorCode.FRAME_SIZE_ERROR, f"frame of {size} bytes")
            if stop > end:
                self._need = stop - position
                return position
            position = stop
            if kind > 9:
                if self._block is not None:
                    raise H2Error(ErrorCode.PROTOCOL_ERROR, "frame inside a header block")
                self.budget.spend(COST_CONTROL, self._now)  # RFC 9113 5.5: unknown types are ignored
                continue
            if self._block is not None and kind != f.CONTINUATION:
                raise H2Error(ErrorCode.PROTOCOL_ERROR, "frame inside a header block")
            if not self._settings_seen:
                if kind != f.SETTINGS or flags & f.ACK:
                    raise H2Error(ErrorCode.PROTOCOL_ERROR, "the first frame is not SETTINGS")
                self._settings_seen = True
            try:
                handlers[kind](flags, stream_id & 0x7FFFFFFF, data[start:stop])
            except StreamError as error:
                self._stream_failed(error)
            if self.closed:
                return end
        self._need = 9
        return position

    def _on_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        size = len(payload)
        self._receive_window -= size
        if self._receive_window < 0:
            raise H2Error(ErrorCode.FLOW_CONTROL_ERROR, "more data than the connection's window")
        stream = self.streams.get(stream_id)
        if stream is None or stream.remote_ended:
            self._late_data(stream_id, size)
            return
        if not stream.head_seen:
            raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "data before the head")
        stream.receive_window -= size
        if stream.receive_window < 0:
            self._credit(size)
            raise StreamError(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "more data than the stream's window")
        stream.unread += size
        if flags & f.PADDED:
            payload = _unpad(payload)
            self.consume(stream, size - len(payload))
            size = len(payload)
        ended = flags & f.END_STREAM
        if size:
            if self.budget.left < Budget.full:
                self.budget.left += WORTH_DATA
        elif not ended:
            self.budget.spend(COST_EMPTY, self._now)
        if stream.expected is not None:
            stream.expected -= size
            if stream.expected < 0 or (ended and stream.expected):
                raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "body does not match content-length")
        if ended:
            stream.remote_ended = True
            if stream.local_ended:
                self._drop(stream)
            stream.received_data(payload, True)
        else:
            stream.received_data(payload, False)

    def _late_data(self, stream_id: int, size: int) -> None:
        """DATA on a stream that takes none (RFC 9113 5.1)."""
        self._idle_check(stream_id)
        self._credit(size)
        if stream_id in self._reset_ids:
            self.budget.spend(COST_CONTROL, self._now)
            return
        raise StreamError(stream_id, ErrorCode.STREAM_CLOSED, "data after the end")

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise H2Error(ErrorCode.PROTOCOL_ERROR, "HEADERS on stream 0")
        if flags & (f.PADDED | f.HAS_PRIORITY):
            if flags & f.PADDED:
                payload = _unpad(payload)
            if flags & f.HAS_PRIORITY:
                if len(payload) < 5:
                    raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "HEADERS too short for its priority")
                if int.from_bytes(payload[:4], "big") & 0x7FFFFFFF == stream_id:
                    raise H2Error(ErrorCode.PROTOCOL_ERROR, "stream depends on itself")
                payload = payload[5:]
        if flags & f.END_HEADERS:
            self._received_block(stream_id, flags & f.END_STREAM, payload)
        else:
            self._block = (stream_id, flags, [payload])
            self._block_size = len(payload)

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        if self._block is None or self._block[0] != stream_id:
            raise H2Error(ErrorCode.PROTOCOL_ERROR, "CONTINUATION without its HEADERS")
        _, first_flags, parts = self._block
        parts.append(payload)
        self._block_size += len(payload)
        if len(parts) > self.limits.continuations or self._block_size > self.limits.header_list * 2:
            raise H2Error(ErrorCode.ENHANCE_YOUR_CALM, "header block too long")
        if not payload:
            self.budget.spend(COST_EMPTY, self._now)
        if flags & f.END_HEADERS:
            self._block = None
            self._received_block(stream_id, first_flags & f.END_STREAM, b"".join(parts))

    def _received_block(self, stream_id: int, ended: int, block: bytes) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            if not self.client and stream_id > self.last_peer_id and stream_id & 1:
                self._received_request(stream_id, ended, block)
                return
            self._decoder.skip(block)
            self._idle_check(stream_id)
            if stream_id not in self._reset_ids:
                raise H2Error(ErrorCode.STREAM_CLOSED, "HEADERS on a closed stream")
            self.budget.spend(COST_CONTROL, self._now)
            return
        if stream.remote_ended:
            self._decoder.skip(block)
            raise StreamError(stream_id, ErrorCode.STREAM_CLOSED, "HEADERS after the end")
        try:
            if not stream.head_seen:
                head = self._responses.get(block) or self._decoder.decode(block, ResponseHead)
                self._received_response(stream, head, ended)
                return
            trailers = self._trailers.get(block) or self._decoder.decode(block, Trailers)
        except (Malformed, TooLarge) as error:
            raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, str(error) or "header list too long") from None
        if not ended:
            raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "a second head")
        if stream.expected:
            raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "body does not match content-length")
        stream.remote_ended = True
        if stream.local_ended:
            self._drop(stream)
        stream.received_trailers(trailers)

    def _received_request(self, stream_id: int, ended: int, block: bytes) -> None:
        self.last_peer_id = stream_id
        head = self._requests.get(block)
        if head is None:
            try:
                head = self._decoder.decode(block, RequestHead)
            except Malformed as error:
                raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, str(error)) from None
            except TooLarge:
                self.budget.spend(COST_RESET, self._now)
                self._control(
                    f.head_frames(stream_id, self._note() + _TOO_LARGE_BLOCK, end=True, frame_size=self.peer_frame_size)
                )
                if not ended:
                    self._forget(stream_id, ErrorCode.NO_ERROR)
                return
        if stream_id > self._last_allowed or len(self.streams) >= self.limits.streams:
            raise StreamError(stream_id, ErrorCode.REFUSED_STREAM, "too many streams")
        stream = self.listener.accept(stream_id, head)
        self.streams[stream_id] = stream
        stream.head_seen = True
        if ended:
            if head.content_length:
                raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "body does not match content-length")
            stream.remote_ended = True
            stream.received_head(head, True)
        else:
            stream.expected = head.content_length
            stream.received_head(head, False)

    def _received_response(self, stream: Stream, head: ResponseHead, ended: int) -> None:
        if head.status < 200:
            if ended:
                raise StreamError(stream.id, ErrorCode.PROTOCOL_ERROR, "interim response ends the stream")
            self.budget.spend(COST_CONTROL, self._now)
            stream.received_head(head, False)
            return
        stream.head_seen = True
        if stream.expected != 0:  # 0: the answer to HEAD, whose content-length speaks of another body
            stream.expected = head.content_length
            if ended and head.content_length and head.status != 304:
                raise StreamError(stream.id, ErrorCode.PROTOCOL_ERROR, "body does not match content-length")
        if ended:
            stream.remote_ended = True
            if stream.local_ended:
                self._drop(stream)
        stream.received_head(head, bool(ended))

    def _on_priority(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id:
            raise H2Error(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        if len(payload) != 5:
            raise StreamError(stream_id, ErrorCode.FRAME_SIZE_ERROR, "PRIORITY is not 5 bytes")
        if int.from_bytes(payload[:4], "big") & 0x7FFFFFFF == stream_id:
            raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "stream depends on itself")
        self.budget.spend(COST_CONTROL, self._now)

    def _on_reset(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "RST_STREAM is not 4 bytes")
        self._idle_check(stream_id)
        stream = self.streams.get(stream_id)
        if stream is None:
            self.budget.spend(COST_CONTROL, self._now)
            return
        if not self.client:
            self.budget.spend(COST_RESET, self._now)
        stream.remote_ended = stream.local_ended = True
        self._drop(stream)
        code = int.from_bytes(payload, "big")
        stream.was_reset(code, f"stream reset by the peer: {f.error_name(code)}")

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise H2Error(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if flags & f.ACK:
            if payload:
                raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS acknowledgement with a payload")
            if self._settings_unacked:
                self._settings_unacked -= 1
            else:
                self.budget.spend(COST_SETTINGS, self._now)
            return
        if len(payload) % 6:
            raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "SETTINGS is not a multiple of 6 bytes")
        self.budget.spend(COST_SETTINGS + len(payload) // 60, self._now)
        self.apply_settings(payload)
        self._control(f.SETTINGS_ACK)
        for stream in list(self.streams.values()):  # the acknowledgement goes before what the new windows let through
            if stream.pending and stream.send_window > 0:
                self._push(stream)
        self.listener.settled()

    def apply_settings(self, payload: bytes) -> None:
        """Apply the peer's settings, from a frame or from an `HTTP2-Settings` header. Raises `H2Error`."""
        for name, value in SETTING.iter_unpack(payload):
            if name == f.INITIAL_WINDOW_SIZE:
                if value > f.LARGEST_WINDOW:
                    raise H2Error(ErrorCode.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE too large")
                self._change_windows(value - self.initial_send_window)
                self.initial_send_window = value
            elif name == f.MAX_FRAME_SIZE:
                if not f.DEFAULT_FRAME_SIZE <= value <= f.LARGEST_FRAME_SIZE:
                    raise H2Error(ErrorCode.PROTOCOL_ERROR, "MAX_FRAME_SIZE out of range")
                self.peer_frame_size = value
            elif name == f.MAX_CONCURRENT_STREAMS:
                self.peer_streams = value
            elif name == f.HEADER_TABLE_SIZE:
                # Nothing of ours is in that table, but a decoder may insist on hearing that it shrank (RFC 7541 4.2)
                if value < self._encoder_table:
                    self._encoder_table = 0
                    self._table_note = b"\x20"
            elif name == f.ENABLE_PUSH:
                if value > 1 or (value and self.client):
                    raise H2Error(ErrorCode.PROTOCOL_ERROR, "bad ENABLE_PUSH")
            elif name == f.MAX_HEADER_LIST_SIZE:
                self.peer_header_list = value

    def _change_windows(self, delta: int) -> None:
        """RFC 9113 6.9.2: a change of the initial window moves every open one, below zero too."""
        for stream in list(self.streams.values()):
            stream.send_window += delta
            if stream.send_window > f.LARGEST_WINDOW:
                raise H2Error(ErrorCode.FLOW_CONTROL_ERROR, "a window grew too large")

    def _on_push(self, _flags: int, _stream_id: int, _payload: bytes) -> None:
        raise H2Error(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE was not allowed")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise H2Error(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "PING is not 8 bytes")
        if flags & f.ACK:
            if payload == _DRAIN_PING and self.goaway_sent:
                self.refuse_new()
            else:
                self.listener.ping_acked(payload)
            return
        self.budget.spend(COST_CONTROL, self._now)
        self._control(f.ping_frame(payload, ack=True))
        self.listener.pinged()

    def _on_goaway(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise H2Error(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY too short")
        self.budget.spend(COST_SETTINGS, self._now)
        self.goaway_received = True
        last_id = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF
        code = int.from_bytes(payload[4:8], "big")
        if self.client:
            for stream in [stream for stream in self.streams.values() if stream.id > last_id]:
                stream.remote_ended = stream.local_ended = True
                self._drop(stream)
                stream.was_reset(ErrorCode.REFUSED_STREAM, "the server is going away")
        self.listener.going_away(last_id, code, payload[8:])

    def _on_window(self, _flags: int, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE is not 4 bytes")
        increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
        budget = self.budget
        if budget.left < COST_CONTROL:
            budget.spend(COST_CONTROL, self._now)
        else:
            budget.left -= COST_CONTROL  # by hand: gRPC clients send one or two of these frames for each message
        if not stream_id:
            if not increment:
                raise H2Error(ErrorCode.PROTOCOL_ERROR, "window increment of 0")
            self.send_window += increment
            if self.send_window > f.LARGEST_WINDOW:
                raise H2Error(ErrorCode.FLOW_CONTROL_ERROR, "the connection's window grew too large")
            if self._waiting:
                self._pump()
            return
        stream = self.streams.get(stream_id)
        if stream is None:
            self._idle_check(stream_id)
            return
        if not increment:
            raise StreamError(stream_id, ErrorCode.PROTOCOL_ERROR, "window increment of 0")
        stream.send_window += increment
        if stream.send_window > f.LARGEST_WINDOW:
            raise StreamError(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "the window grew too large")
        if stream.pending:
            self._push(stream)

    def _idle_check(self, stream_id: int) -> None:
        """Raise unless the stream was open once (RFC 9113 5.1: idle streams accept HEADERS and PRIORITY alone)."""
        ours = bool(stream_id & 1) == self.client
        if not stream_id or stream_id >= (self.next_id if ours else self.last_peer_id + 1):
            raise H2Error(ErrorCode.PROTOCOL_ERROR, "frame on an idle stream")

    # -- ends ---------------------------------------------------------------------------------------------------------

    def _stream_failed(self, error: StreamError) -> None:
        """The peer broke a rule on one stream. Provoked resets cost as much as sent ones (CVE-2025-8671)."""
        self.budget.spend(COST_RESET, self._now)
        stream = self.streams.get(error.stream_id)
        self._forget(error.stream_id, error.code)
        if stream is not None:
            stream.remote_ended = stream.local_ended = True
            self._drop(stream)
            stream.was_reset(error.code, error.text)

    def _forget(self, stream_id: int, code: int) -> None:
        """Send RST_STREAM and ignore what is still under way for that stream."""
        self._remember_reset(stream_id)
        self._control(f.reset_frame(stream_id, code))

    def fail(self, error: H2Error) -> None:
        """End the connection with GOAWAY; the driver sends what `take` returns and closes."""
        if self.closed:
            return
        self._write(f.goaway_frame(self.last_peer_id, error.code, error.text.encode()))
        self.lost(str(error))
        self.listener.failed(error)

    def lost(self, text: str) -> None:
        """The transport is gone, or nothing more can be said: tell every stream."""
        self.closed = True
        self._tail.clear()
        streams = list(self.streams.values())
        self.streams.clear()
        self._waiting.clear()
        for stream in streams:
            stream.closed = stream.remote_ended = stream.local_ended = True
            if stream.pending:
                stream.pending.clear()
            stream.was_reset(ErrorCode.INTERNAL_ERROR, text)

    def drain(self) -> None:
        """Begin a graceful end (RFC 9113 6.8): announce it, and refuse new streams one round trip later."""
        if not self.goaway_sent and not self.closed:
            self.goaway_sent = True
            self._write(f.goaway_frame(f.LARGEST_STREAM_ID, ErrorCode.NO_ERROR))
            self._write(f.ping_frame(_DRAIN_PING))

    def refuse_new(self, code: int = ErrorCode.NO_ERROR, text: bytes = b"") -> None:
        """Send the GOAWAY that names the last stream we will serve; open streams go on."""
        if self._last_allowed == f.LARGEST_STREAM_ID and not self.closed:
            self.goaway_sent = True
            self._last_allowed = self.last_peer_id
            self._write(f.goaway_frame(self.last_peer_id, code, text))
            if not self.streams:
                self.listener.quiet()

    @property
    def refusing(self) -> bool:
        """Whether the final GOAWAY has been sent."""
        return self._last_allowed != f.LARGEST_STREAM_ID

    def ping(self, payload: bytes) -> None:
        """Send a PING of eight bytes."""
        self._write(f.ping_frame(payload))

    # -- entry from HTTP/1.1 ------------------------------------------------------------------------------------------

    def open_upgraded(self, head: RequestHead, settings: bytes) -> Stream:
        """Server: `Upgrade: h2c` was accepted (RFC 7540 3.2); the request is stream 1, already ended by the client.

        `settings` is the decoded HTTP2-Settings header; raises `H2Error` when it is wrong.
        """
        if len(settings) % 6:
            raise H2Error(ErrorCode.PROTOCOL_ERROR, "bad HTTP2-Settings")
        self.apply_settings(settings)
        self.last_peer_id = 1
        stream = self.listener.accept(1, head)
        self.streams[1] = stream
        stream.head_seen = stream.remote_ended = True
        return stream

    def __repr__(self) -> str:
        role = "client" if self.client else "server"
        state = "closed" if self.closed else f"{len(self.streams)} streams, send {self.send_window}"
        return f"<HTTP/2 {role} connection, {state}>"


def _unpad(payload: bytes) -> bytes:
    """RFC 9113 6.1."""
    if not payload:
        raise H2Error(ErrorCode.FRAME_SIZE_ERROR, "padded frame without pad length")
    pad = payload[0]
    if pad >= len(payload):
        raise H2Error(ErrorCode.PROTOCOL_ERROR, "padding longer than the frame")
    return payload[1 : len(payload) - pad]
