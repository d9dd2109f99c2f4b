"""When a message may be delivered and when it is too old, as its publisher says in request metadata.

Knows: `ttl` and `ttlInSeconds` (spec `components.md` 1) and our own `pillion.deliverAt` and `pillion.delay`. Keys match
in any case. Never knows: brokers, clocks.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pillion.errors import ComponentError
from pillion.wire.durations import go_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

_TTL_KEYS = frozenset({"ttl", "ttlinseconds"})
_DELAY_KEYS = frozenset({"pillion.deliverat", "pillion.delay"})
_CENTURY_S = 100 * 365.25 * 86_400.0


def ttl_of(metadata: Mapping[str, str]) -> float | None:
    """Return the life of a message in seconds, None when none was given.

    A Go duration (a negative one is 0) or a positive whole number of seconds; raises `ComponentError` otherwise.
    """
    for key, text in metadata.items():
        if key.lower() in _TTL_KEYS and text:
            if re.fullmatch(r"[+-]?\d{1,18}", text) and text.lstrip("+-0"):
                seconds = float(text)
                if seconds <= 0:
                    raise ComponentError(f"{key} value must be higher than zero: actual is {text}")
            else:
                seconds = _duration(key, text)
            return min(max(seconds, 0.0), _CENTURY_S)
    return None


def delay_given(metadata: Mapping[str, str]) -> bool:
    """Whether the publisher says when the message is to be delivered; what it says may be unreadable."""
    # A generator would cost three times as much, on the way of every publish.
    for key in metadata:  # noqa: SIM110
        if key.lower() in _DELAY_KEYS:
            return True
    return False


def delay_entries(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return what the publisher says about the time of delivery, as it says it."""
    return {key: value for key, value in metadata.items() if key.lower() in _DELAY_KEYS}


def undelayed(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return metadata for a message whose time has come: nothing shall hold it back a second time."""
    return {key: value for key, value in metadata.items() if key.lower() not in _DELAY_KEYS}


def due_time_of(metadata: Mapping[str, str], now: float) -> float | None:
    """Return when the message is to be delivered, in seconds since 1970; None when that is at once.

    `pillion.deliverAt` is an RFC 3339 time with its offset, `pillion.delay` a Go duration or whole seconds. Raises
    `ComponentError` when a value cannot be read or both are given.
    """
    given = [(key, text) for key, text in metadata.items() if key.lower() in _DELAY_KEYS and text]
    if not given:
        return None
    if len(given) > 1:
        raise ComponentError("give pillion.deliverAt or pillion.delay, not both")
    [(key, text)] = given
    if key.lower() == "pillion.delay":
        seconds = float(text) if re.fullmatch(r"\d{1,18}", text) else _duration(key, text)
        due = now + min(seconds, _CENTURY_S)
    else:
        due = _instant(key, text)
    return due if due > now else None


def _duration(key: str, text: str) -> float:
    try:
        return go_duration(text)
    except ValueError as error:
        raise ComponentError(f"{key}: {error}") from None


def _instant(key: str, text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ComponentError(f"{key}: not an RFC 3339 time: {text[:64]!r} (write it like 2026-01-31T08:00:00Z)")
    return moment.astimezone(UTC).timestamp()
