"""What one HTTP/2 peer may ask of us: sizes, and a budget against floods.

Knows: how much each kind of cheap-to-send, dear-to-serve frame costs and what refills the budget. Never knows: frames.

The attacks that this bounds: rapid reset (CVE-2023-44487) and its server-made variant (CVE-2025-8671), floods of
PING, SETTINGS, WINDOW_UPDATE, PRIORITY and empty frames (CVE-2019-9512 to 9518), CONTINUATION floods (CVE-2024-27316).
Useful work - finished calls, data sent and received - pays the budget back, so a busy peer never meets the bound.
"""

from __future__ import annotations

from pillion.records import record
from pillion.wire.h2_frames import ErrorCode, H2Error


@record
class Limits:
    """What we announce in SETTINGS and hold the peer to. Sizes in bytes."""

    streams: int = 1000
    """Streams that the peer may have open at once."""
    window: int = 1 << 20
    """What one stream may have under way to us before it is consumed."""
    connection_window: int = 8 << 20
    """The same for all streams of a connection together."""
    frame_size: int = 1 << 16
    header_list: int = 1 << 16
    """The size of decoded header fields, 32 more for each (RFC 9113 6.5.2)."""
    continuations: int = 128
    control_backlog: int = 1 << 17
    """Replies to control frames that may wait while the peer does not read."""


COST_CONTROL = 1
COST_EMPTY = 2
COST_SETTINGS = 10
COST_RESET = 20
WORTH_DATA = 2
WORTH_CALL = 25

_FULL = 20_000.0
_PER_SECOND = 1_000.0


class Budget:
    """A bucket that cheap frames empty; work and time fill it."""

    __slots__ = ("_filled_at", "left")

    full = _FULL

    def __init__(self, now: float) -> None:
        self.left = _FULL
        self._filled_at = now

    def spend(self, cost: float, now: float) -> None:
        """Take `cost`; raises `H2Error` ENHANCE_YOUR_CALM when nothing is left even after what time has refilled."""
        self.left -= cost
        if self.left < 0:
            self.left = min(_FULL, self.left + (now - self._filled_at) * _PER_SECOND)
            self._filled_at = now
            if self.left < 0:
                raise H2Error(ErrorCode.ENHANCE_YOUR_CALM, "too many control frames")

    def __repr__(self) -> str:
        return f"<Budget {self.left:.0f} of {_FULL:.0f}>"
