"""Who leads alone takes its term from the clock, or from whoever keeps one that grows."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from pillion.components.leadership_alone import Alone


class Stopped:
    """A clock at one moment."""

    def now(self) -> float:
        return datetime(2026, 1, 1, tzinfo=UTC).timestamp()

    def monotonic(self) -> float:
        return 0.0


def test_terms() -> None:
    assert asyncio.run(Alone(Stopped()).elected()) == int(Stopped().now() * 1000)
    assert asyncio.run(Alone(Stopped(), term=7).elected()) == 7
