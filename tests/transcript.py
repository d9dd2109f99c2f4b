"""Transcripts: a pure machine driven by a text file of commands and replies.

    command, on one line or more, without blank ones
    ----
    reply

Blank lines separate the pairs; lines that begin with `#` before a command are remarks. With PILLION_REWRITE=1 the
replies are written anew: commit only a difference that you can explain.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

RULE = "----"


def check(path: Path, play: Callable[[str], str]) -> None:
    """Play every command of the file, in order, and compare the replies."""
    written, found = path.read_text(), []
    for block in written.strip("\n").split("\n\n"):
        lines = block.strip("\n").split("\n")
        remarks = [line for line in lines if line.startswith("#")]
        rest = [line for line in lines if not line.startswith("#")]
        if not rest:
            found.append("\n".join(remarks))
            continue
        at = rest.index(RULE) if RULE in rest else len(rest)
        command = "\n".join(rest[:at])
        found.append("\n".join([*remarks, command, RULE, play(command)]).rstrip("\n"))
    text = "\n\n".join(found) + "\n"
    if os.environ.get("PILLION_REWRITE") == "1":
        path.write_text(text)
        return
    assert text == written, f"{path.name} differs (PILLION_REWRITE=1 writes it anew)"
