"""What the HTTP/2 machine and its driver know of each other: one object for each stream, and a listener.

Knows: what is told to whom. Never knows: frames, how the machine works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections import deque

    from pillion.wire.h2_connection import Connection
    from pillion.wire.h2_frames import H2Error
    from pillion.wire.h2_headers import RequestHead, Trailers


class Stream:
    """One stream's share of the machine. The driver derives from it and overrides what it wants to hear.

    `remote_ended` and `local_ended`: END_STREAM was received, was sent. `closed`: the connection knows it no more.
    `expected` is what is left of the announced content-length, None when nothing was announced.
    """

    # Defaults on the class: most streams never touch these, and a stream is made for every call.
    consumed = 0
    unread = 0
    expected: int | None = None
    head_seen = False
    remote_ended = False
    local_ended = False
    ending = False
    closed = False
    pending: deque[tuple[int, bytes | memoryview, bool]] | None = None

    def __init__(self, connection: Connection, stream_id: int) -> None:
        self.connection = connection
        self.id = stream_id
        self.send_window = connection.initial_send_window
        self.receive_window = connection.limits.window

    def received_head(self, head: Any, ended: bool) -> None:
        """The request (a `RequestHead`) or the response (a `ResponseHead`, interim ones included) has begun."""

    def received_data(self, data: bytes, ended: bool) -> None:
        """A piece of the body. Give its size to `Connection.consume` once it no longer takes up memory."""

    def received_trailers(self, trailers: Trailers) -> None:
        """Trailers, and with them the end."""

    def was_reset(self, code: int, text: str) -> None:
        """The stream is gone before its end: by the peer, for a broken rule, or with its connection."""

    def drained(self) -> None:
        """Everything that had to wait has been sent."""

    def __repr__(self) -> str:
        ends = ("<-" if not self.remote_ended else "") + ("->" if not self.local_ended else "")
        return f"<{type(self).__name__} {self.id} {'closed' if self.closed else ends} send {self.send_window}>"


class Listener(Protocol):
    """What a connection tells its driver."""

    def accept(self, stream_id: int, head: RequestHead) -> Stream:
        """Return the object for a stream that the client has opened; its `received_head` follows."""
        ...

    def settled(self) -> None:
        """The peer's settings have come or changed."""
        ...

    def pinged(self) -> None:
        """The peer sent a PING; it has been answered."""
        ...

    def ping_acked(self, payload: bytes) -> None: ...

    def going_away(self, last_id: int, code: int, text: bytes) -> None:
        """GOAWAY came; streams above `last_id` have been reset as REFUSED_STREAM."""
        ...

    def quiet(self) -> None:
        """The last open stream has ended."""
        ...

    def failed(self, error: H2Error) -> None:
        """A connection error: every stream has been told, GOAWAY waits in `take`, nothing more will be read."""
        ...
