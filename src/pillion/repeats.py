"""Warnings that would fill the log: what is said again and again is told once, then once a minute with a count."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable

PAUSE_S = 60.0
"""The pause between two warnings that say the same."""


class _Said:
    """One text: when it may be told again, how often it was kept back, and with which words last."""

    __slots__ = ("due", "kept_back", "words")

    def __init__(self, due: float) -> None:
        self.due = due
        self.kept_back = 0
        self.words: tuple[object, ...] = ()


class Repeats:
    """Warnings of one subject, a subscription for instance. Texts are the same when their formats are, whatever the
    words in them; the words told are the latest.
    """

    def __init__(self, log: logging.Logger, now: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._now = now
        self._said: dict[str, _Said] = {}

    def warning(self, text: str, *words: object) -> None:
        """Warn; or count, where the same was told less than a minute ago: then it is a line for debugging.

        `text` is a format, written in the program.
        """
        said = self._said.get(text)
        now = self._now()
        if said is None:
            self._said[text] = _Said(now + PAUSE_S)
            self._log.warning(text, *words)
            return
        said.kept_back += 1
        said.words = words
        self._log.debug(text, *words)
        if now >= said.due:
            self._tell(text, said)
            said.due = now + PAUSE_S

    def flush(self) -> None:
        """Tell what was only counted so far: the subject ends."""
        for text, said in self._said.items():
            if said.kept_back:
                self._tell(text, said)

    def _tell(self, text: str, said: _Said) -> None:
        if said.kept_back == 1:
            self._log.warning(text, *said.words)
        else:
            self._log.warning(text + " (%d times since this was told)", *said.words, said.kept_back)
        said.kept_back = 0
