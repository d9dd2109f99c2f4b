"""What the command line tells people: one status line at a time, on standard error, or JSON objects for machines.

Knows: symbols, colours and when to leave them out. Standard output belongs to results and to applications.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import datetime
from enum import Enum


class Kind(Enum):
    """A kind of line: its symbol, a plain word for terminals that cannot show it, and its colour (SGR)."""

    SUCCESS = ("✅  ", "", "32")
    FAILURE = ("❌  ", "error: ", "31")
    WARNING = ("⚠  ", "warning: ", "33")
    PENDING = ("⌛  ", "", "0")
    NOTE = ("ℹ️  ", "", "0")

    def __init__(self, symbol: str, word: str, colour: str) -> None:
        self.symbol, self.word, self.colour = symbol, word, colour


_as_json = False


def use_json(wanted: bool) -> None:
    """Write JSON objects from now on (`--log-as-json`)."""
    global _as_json
    _as_json = wanted


def coloured(handle: int) -> bool:
    """Tell whether colours are wanted on an output: NO_COLOR and FORCE_COLOR decide before the terminal does."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or (os.isatty(handle) and os.environ.get("TERM") != "dumb")


def line(kind: Kind, text: str) -> str:
    """Return one line as it is to be written, without its end."""
    if _as_json:
        stamp = datetime.now().astimezone().isoformat()
        return json.dumps({"time": stamp, "status": kind.name.lower(), "msg": text}, ensure_ascii=False)
    encoding = sys.stderr.encoding or "ascii"
    symbols = sys.platform != "win32" and encoding.lower().replace("-", "") == "utf8"
    lead = kind.symbol if symbols else kind.word
    shown = lead + text
    return f"\x1b[{kind.colour}m{shown}\x1b[0m" if kind.colour != "0" and coloured(2) else shown


def _say(kind: Kind, text: str) -> None:
    try:
        print(line(kind, text), file=sys.stderr, flush=True)
    except OSError:  # a terminal that went away is no reason to stop in the middle
        return


def success(text: str) -> None:
    _say(Kind.SUCCESS, text)


def failure(text: str) -> None:
    _say(Kind.FAILURE, text)


def warning(text: str) -> None:
    _say(Kind.WARNING, text)


def pending(text: str) -> None:
    _say(Kind.PENDING, text)


def note(text: str) -> None:
    _say(Kind.NOTE, text)
