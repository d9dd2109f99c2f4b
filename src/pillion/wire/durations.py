"""Durations as Go writes and reads them: `1h2m3.5s`, `250ms` (pkg.go.dev/time#ParseDuration)."""

from __future__ import annotations

import re

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_WHOLE = re.compile(rf"([+-]?)((?:{_PART.pattern})+)")


def go_duration(text: str) -> float:
    """Return seconds. `0` alone needs no unit. Raises ValueError for anything else that Go would refuse."""
    if text in ("0", "+0", "-0"):
        return 0.0
    match = _WHOLE.fullmatch(text)
    if match is None:
        raise ValueError(f"not a duration: {text!r} (write it like 1h30m, 10s or 250ms)")
    total = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(match[2]))
    return -total if match[1] == "-" else total


def render_duration(seconds: float) -> str:
    """Return the text Go prints: `1m0s`, `1.5s`, `500ms`, `0s`."""
    if seconds < 0:
        return "-" + render_duration(-seconds)
    nanos = round(seconds * 1e9)
    if nanos == 0:
        return "0s"
    if nanos < 1_000_000_000:
        for size, unit in ((1_000_000, "ms"), (1_000, "µs"), (1, "ns")):
            if nanos >= size:
                return _number(nanos, size) + unit
    minutes, rest = divmod(nanos, 60_000_000_000)
    hours, minutes = divmod(minutes, 60)
    tail = _number(rest, 1_000_000_000) + "s"
    if hours:
        return f"{hours}h{minutes}m{tail}"
    return f"{minutes}m{tail}" if minutes else tail


def _number(nanos: int, size: int) -> str:
    whole, part = divmod(nanos, size)
    if not part:
        return str(whole)
    digits = len(str(size)) - 1
    return f"{whole}.{part:0{digits}d}".rstrip("0")
