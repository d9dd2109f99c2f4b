"""How long things take between a placement service and its sidecars, and what follows from that.

Pure. Knows: what `actors/membership.py` promises of the other side. Never knows: streams, rounds.
"""

from __future__ import annotations

from dataclasses import dataclass

from pillion.actors.membership import HALT_S, MARGIN_S, SILENCE_S, UNSURE_S


@dataclass(frozen=True, slots=True)
class Terms:
    """How long things take. `grace_s` is what sidecars are promised when placement is gone (0: nothing);
    `silent_s` is how long a dead stream has been silent at least when keepalive ends it."""

    replicas: int = 100
    timeout_s: float = 8.0
    coalesce_s: float = 0.0
    grace_s: float = 0.0
    ping_s: float = 2.0
    ping_timeout_s: float = 3.0

    @property
    def hold_s(self) -> float:
        """How long a host is held whose stream fell silent. It hears our last ping up to `ping_s` after its own last
        word reached us, needs `SILENCE_S` from there, and then halts; we gave it up `ping_s + ping_timeout_s` after
        that word."""
        return max(SILENCE_S + HALT_S + MARGIN_S - self.ping_timeout_s, 0.0) if self.grace_s > 0 else 0.0

    @property
    def broken_hold_s(self) -> float:
        """How long a host is held whose connection broke: it may live, notice the break `SILENCE_S` later, look for a
        leader and only then halt."""
        return SILENCE_S + UNSURE_S + HALT_S + MARGIN_S if self.grace_s > 0 else 0.0

    @property
    def slow_hold_s(self) -> float:
        """How long a host is held that was told to go."""
        return HALT_S + MARGIN_S if self.grace_s > 0 else 0.0
