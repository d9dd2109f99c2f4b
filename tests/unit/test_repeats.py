"""Warnings that say the same: once, then once a minute with a count; nothing is left untold."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pillion.repeats import PAUSE_S, Repeats

if TYPE_CHECKING:
    import pytest


def test_the_same_again_and_again(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    log = logging.getLogger("pillion.test")
    repeats = Repeats(log, lambda: now)

    def told() -> list[str]:
        found = [record.getMessage() for record in caplog.records]
        caplog.clear()
        return found

    for number in range(5):
        repeats.warning("message %d is lost", number)
    repeats.warning("another text: %s", "x")
    assert told() == ["message 0 is lost", "another text: x"]
    now = PAUSE_S
    repeats.warning("message %d is lost", 5)
    repeats.warning("message %d is lost", 6)
    assert told() == ["message 5 is lost (5 times since this was told)"]
    now = 3 * PAUSE_S
    repeats.warning("message %d is lost", 7)
    assert told() == ["message 7 is lost (2 times since this was told)"]
    repeats.warning("message %d is lost", 8)
    repeats.flush()
    repeats.flush()
    assert told() == ["message 8 is lost"]
